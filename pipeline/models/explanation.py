"""What can be seen inside a network for one image: arrays and names, for those who compute, draw or print it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.models.receptive_field import ReceptiveField

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Filters:
    """The kernels of the first convolution, as they act on raw pixels: the scaling before it is folded in.

    Attributes:
        layer: Its name.
        kernels: `(N, h, w, C)` float32, C as many as the image has.
    """

    layer: str
    kernels: FloatArray


@dataclass(frozen=True)
class Depth:
    """Feature maps somewhere down the network.

    Attributes:
        layer: The layer that gives them.
        shape: (h, w, channels) of all of them.
        field: What one of its units sees of the image.
        channels: The numbers of the strongest channels, the strongest first: those that vary most over the image.
        maps: `(k, h, w)` float32, theirs.
    """

    layer: str
    shape: tuple[int, int, int]
    field: ReceptiveField
    channels: tuple[int, ...]
    maps: FloatArray

    @property
    def peak(self) -> tuple[int, int]:
        """(row, column) of the unit with the largest value in the strongest channel."""
        row, column = np.unravel_index(int(self.maps[0].argmax()), self.maps.shape[1:])
        return int(row), int(column)


@dataclass(frozen=True)
class Growth:
    """What the units of a feature map see.

    Attributes:
        number: How many operations come before it in the backbone, the input included.
        layer: The one that gives it.
        field: What one of its units sees of the image.
    """

    number: int
    layer: str
    field: ReceptiveField


@dataclass(frozen=True)
class ClassScore:
    """A class, how likely the network finds it, and what in the image speaks for it.

    Attributes:
        label: The class.
        probability: In [0, 1].
        truth: Whether the image is known to be of this class.
        heat: Grad-CAM, `(h, w)` float32, at least 0, on the grid of the backbone's features; None: not computed.
    """

    label: str
    probability: float
    truth: bool
    heat: FloatArray | None


@dataclass(frozen=True)
class Explanation:
    """What a network sees in an image.

    Attributes:
        backbone: Its name.
        pixels: `(H, W, C)` float32 in [0, 255]: the image as the network takes it.
        filters: The first layer's.
        depths: Feature maps, from the input to the output; the last ones are the backbone's features.
        growth: The receptive field at each cut point and depth, from the input to the output.
        classes: The likeliest, the likeliest first, and the true one; none where the task has no class an image.
    """

    backbone: str
    pixels: FloatArray
    filters: Filters
    depths: tuple[Depth, ...]
    growth: tuple[Growth, ...]
    classes: tuple[ClassScore, ...]
