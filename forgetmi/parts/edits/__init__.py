"""Edits of weights: importances of weights, dampening, noise, influence steps."""
