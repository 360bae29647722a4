"""Backbones, their weights and the heads that stand on them."""
