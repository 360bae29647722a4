"""Image files: what their headers say, and the one graph that turns their bytes into pixels."""
