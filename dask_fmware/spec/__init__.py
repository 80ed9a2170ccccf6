"""What a workflow and a deployment are: documents, graphs, drawings. Pure; floor 0."""
