"""Whether code, workflows and data are what they were when an output was begun."""
