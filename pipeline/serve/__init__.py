"""A page on which an exported model is tried out: drop an image, see the answer. For this machine only."""
