"""How fast a model is on a card: step-time laws, their fit, prediction, online correction, store and catalog."""
