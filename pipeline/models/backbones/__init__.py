"""The zoo: one row for every backbone.

Loading this table does not load TensorFlow; `Backbone.build` and `build_scaling` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pipeline.config import ModelConfig
from pipeline.errors import ModelError, nearest
from pipeline.models.backbones.keras_rows import KERAS_ROWS
from pipeline.models.backbones.own_rows import CLASSIC_ROWS, LITE_ROWS
from pipeline.models.backbones.row import Backbone, ImageSize, Scaling, Weights, build_scaling

__all__ = [
    "BACKBONES", "Backbone", "ImageSize", "Scaling", "Weights", "build_scaling", "find_backbone", "input_size",
]  # fmt: skip

BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {row.name: row for row in (*LITE_ROWS, *KERAS_ROWS, *CLASSIC_ROWS)}
)


def find_backbone(name: str) -> Backbone:
    """Returns the row called `name`.

    Raises:
        ModelError: There is no such row.
    """
    if name not in BACKBONES:
        hint = nearest(name, BACKBONES)
        raise ModelError(f"model.backbone {name!r} is unknown: {hint}; `pipeline models` lists them")
    return BACKBONES[name]


def input_size(config: ModelConfig) -> ImageSize:
    """Returns (H, W) in pixels: the recipe's, else the default of its backbone."""
    size = config.image_size
    if size is None:
        return find_backbone(config.backbone).default_size
    return (size, size) if isinstance(size, int) else size
