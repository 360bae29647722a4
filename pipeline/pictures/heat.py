"""Numbers as colours, and a heat map laid over the image that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import matplotlib
import numpy as np

from pipeline.images.arrays import Pixels

if TYPE_CHECKING:
    from pipeline.models.explanation import FloatArray

#: How much of the image the strongest heat covers.
COVER = 0.75


def coloured(share: np.ndarray, colours: str) -> Pixels:
    """Returns numbers in [0, 1], `(h, w)`, as colours, `(h, w, 3)`."""
    table = np.rint(255 * matplotlib.colormaps[colours](np.arange(256))[:, :3]).astype(np.uint8)
    return table[np.rint(255 * share).astype(np.uint8)]


def blend_heat(pixels: Pixels, heat: FloatArray) -> Pixels:
    """Returns an image, `(H, W, 3)`, with the heat as colour over it, same shape; its largest value is brightest.

    Args:
        pixels: Better gray, since the heat is told by its colour.
        heat: `(h, w)`, at least 0, over the whole image. All 0 changes nothing.
    """
    size = (pixels.shape[1], pixels.shape[0])
    share = cv2.resize(heat / max(float(heat.max()), 1e-30), size, interpolation=cv2.INTER_LINEAR)[..., np.newaxis]
    mixed = pixels * (1 - COVER * share) + coloured(share[..., 0], "inferno") * (COVER * share)
    return np.asarray(np.rint(mixed), np.uint8)
