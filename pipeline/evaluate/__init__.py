"""Evaluate: what the model is worth on images that nothing was chosen by."""
