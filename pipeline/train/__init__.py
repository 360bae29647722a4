"""Train: the head on frozen features, then the layers above a cut."""
