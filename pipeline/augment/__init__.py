"""Augmentation: the policy that changes training images, and the picture that shows what it does to them."""
