"""The table of augmentations: a row is a name, its parameters with their ranges, and the tasks it is valid for.

albumentations does the work and is seen by nobody else. It loads with the first pixel: reading a recipe need not wait a
second for it. TensorFlow is never imported.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    StrictFloat,
    StrictInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

REVISION = 1
"""Raised whenever a `build` below changes its pixels: features cached under the older digest are then left alone."""

IGNORED_ID = 255
"""What a constant border puts into a mask, the id that segmentation does not score: no class is right for a pixel that
was made up."""

Image = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]  # height, width, channels


def _rule(text: str, holds: Callable[[Any], bool]) -> WrapValidator:
    """Returns a check with one message, the whole rule, for a wrong type as much as for a value out of range."""

    def check(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
        with contextlib.suppress(ValidationError):
            parsed = parse(value)
            if holds(parsed):
                return parsed
        raise ValueError(text)

    return WrapValidator(check)


def _within(low: float, high: float, kind: str = "a number") -> WrapValidator:
    """Returns a check that a number lies in [low, high]."""
    return _rule(f"{kind} from {low:g} to {high:g}", lambda number: low <= number <= high)


def _pair_within(low: float, high: float, kind: str = "two numbers") -> WrapValidator:
    """Returns a check that two numbers lie in [low, high], in order."""
    return _rule(
        f"{kind} from {low:g} to {high:g}, the smaller one first", lambda pair: low <= pair[0] <= pair[1] <= high
    )


Fraction = Annotated[StrictFloat, _within(0, 1)]
Border = Literal["wrap", "reflect", "constant"]  # named like the modes of `numpy.pad`


class Augmentation(BaseModel):
    """One row of the table: a name, the tasks it is valid for, its parameters and the transform they make."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    caption: ClassVar[str] = ""  # the parameter that tells most, as a format string over all of them

    probability: Fraction = 0.5

    def build(self, shape: Shape) -> Any:
        """Returns the albumentations transform for images of this shape."""
        raise NotImplementedError

    def _make(self, transform: Any, **arguments: Any) -> Any:
        """Returns an albumentations transform; strict, since it merely warns about arguments that it does not know."""
        return transform(**arguments, p=self.probability, strict=True)


class _Bordered(Augmentation):
    """An augmentation that brings in pixels from beyond the edge."""

    border: Border = "wrap"

    def _border_arguments(self) -> dict[str, Any]:
        import cv2

        modes = {"wrap": cv2.BORDER_WRAP, "reflect": cv2.BORDER_REFLECT_101, "constant": cv2.BORDER_CONSTANT}
        return {"border_mode": modes[self.border], "fill": 0, "fill_mask": IGNORED_ID}


class Rotate(_Bordered):
    """Turns about the centre by a uniform angle of up to `degrees` either way."""

    name = "rotate"
    tasks = frozenset({"classification", "segmentation"})
    caption = "up to {degrees:g}°"

    degrees: Annotated[StrictFloat, _within(0, 180)] = 45.0

    def build(self, shape: Shape) -> Any:
        """Returns the rotation."""
        limit = (-self.degrees, self.degrees)
        return self._make(load_albumentations().Rotate, limit=limit, **self._border_arguments())


class Shift(_Bordered):
    """Moves along each axis by a uniform whole number of up to `pixels` either way."""

    name = "shift"
    tasks = frozenset({"classification", "segmentation"})
    caption = "up to {pixels} px"

    pixels: Annotated[StrictInt, _within(0, 1000, "a whole number")] = 25

    def build(self, shape: Shape) -> Any:
        """Returns the translation."""
        reach = {axis: (-self.pixels, self.pixels) for axis in "xy"}
        return self._make(load_albumentations().Affine, translate_px=reach, **self._border_arguments())


class FlipLeftRight(Augmentation):
    """Mirrors left and right."""

    name = "flip_left_right"
    tasks = frozenset({"classification", "segmentation"})

    def build(self, shape: Shape) -> Any:
        """Returns the flip."""
        return self._make(load_albumentations().HorizontalFlip)


class FlipUpDown(Augmentation):
    """Mirrors top and bottom."""

    name = "flip_up_down"
    tasks = frozenset({"classification", "segmentation"})

    def build(self, shape: Shape) -> Any:
        """Returns the flip."""
        return self._make(load_albumentations().VerticalFlip)


class Noise(Augmentation):
    """Adds Gaussian noise of mean 0 to every channel; `sigma` is a fraction of the full range."""

    name = "noise"
    tasks = frozenset({"classification", "segmentation"})
    caption = "sigma {sigma:g}"

    sigma: Fraction = 0.155

    def build(self, shape: Shape) -> Any:
        """Returns the noise."""
        return self._make(_rounded_noise(), std_range=(self.sigma, self.sigma))


class Blur(Augmentation):
    """Blurs with a Gaussian; `sigma` is in pixels."""

    name = "blur"
    tasks = frozenset({"classification", "segmentation"})
    caption = "sigma {sigma:g}"

    sigma: Annotated[StrictFloat, _within(0.1, 50)] = 1.0

    def build(self, shape: Shape) -> Any:
        """Returns the blur; a limit of 0 lets the kernel follow sigma."""
        return self._make(load_albumentations().GaussianBlur, blur_limit=0, sigma_limit=(self.sigma, self.sigma))


class ResizedCrop(Augmentation):
    """Cuts out a share of the area within `scale` at an aspect ratio within `ratio`; resizes it to the input's size.

    Szegedy et al., "Going deeper with convolutions", https://arxiv.org/abs/1409.4842.
    """

    name = "resized_crop"
    tasks = frozenset({"classification", "segmentation"})
    caption = "{scale[0]:.0%} to {scale[1]:.0%} of area"

    scale: Annotated[tuple[StrictFloat, StrictFloat], _pair_within(0.01, 1)] = (0.6, 1.0)
    ratio: Annotated[tuple[StrictFloat, StrictFloat], _pair_within(0.1, 10)] = (0.75, 1.333)

    def build(self, shape: Shape) -> Any:
        """Returns the crop."""
        height, width, _ = shape
        return self._make(
            load_albumentations().RandomResizedCrop, size=(height, width), scale=self.scale, ratio=self.ratio
        )


class ColorJitter(Augmentation):
    """Scales brightness, contrast and saturation by 1 ± the given fraction; turns hue by up to `hue` of the circle.

    An image of one channel has neither hue nor saturation: the two are then left out.
    """

    name = "color_jitter"
    tasks = frozenset({"classification", "segmentation"})
    caption = "brightness ± {brightness:.0%}"

    brightness: Fraction = 0.2
    contrast: Fraction = 0.2
    saturation: Fraction = 0.2
    hue: Annotated[StrictFloat, _within(0, 0.5)] = 0.05

    def build(self, shape: Shape) -> Any:
        """Returns the jitter."""
        strengths = self.model_dump(exclude={"probability"})
        return self._make(load_albumentations().ColorJitter, **strengths)


class CoarseDropout(Augmentation):
    """Blackens rectangles: their number within `holes`, their sides within `size`, fractions of the image's sides.

    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout",
    https://arxiv.org/abs/1708.04552.
    """

    name = "coarse_dropout"
    tasks = frozenset({"classification"})  # a mask would go on naming what can no longer be seen
    caption = "{holes[0]} to {holes[1]} holes"

    holes: Annotated[tuple[StrictInt, StrictInt], _pair_within(1, 100, "two whole numbers")] = (1, 8)
    size: Annotated[tuple[StrictFloat, StrictFloat], _pair_within(0.01, 1)] = (0.05, 0.2)

    def build(self, shape: Shape) -> Any:
        """Returns the dropout, sized in pixels: albumentations cuts small fractions to 0 and takes 1.0 for a pixel."""
        height, width = ([max(1, round(side * share)) for share in self.size] for side in shape[:2])
        return self._make(
            load_albumentations().CoarseDropout,
            num_holes_range=self.holes,
            hole_height_range=tuple(height),
            hole_width_range=tuple(width),
        )


AUGMENTATIONS: dict[str, type[Augmentation]] = {
    row.name: row
    for row in (Blur, CoarseDropout, ColorJitter, FlipLeftRight, FlipUpDown, Noise, ResizedCrop, Rotate, Shift)
}


@functools.cache
def load_albumentations() -> Any:
    """Returns the albumentations module, loaded once.

    OpenCV's own threads are switched off in the process at the same time: callers run in parallel already, an image
    each, and oversubscribed cores are slower.
    """
    import albumentations
    import cv2

    cv2.setNumThreads(0)
    return albumentations


@functools.cache
def _rounded_noise() -> Any:
    """Returns albumentations' noise with a true sigma.

    Its own truncates the noise towards zero, which takes 14 % off a sigma of 0.01 and all of one of 0.001.
    """
    base: Any = load_albumentations().GaussNoise

    class RoundedNoise(base):
        def apply(self, img: Image, noise_map: npt.NDArray[np.float32], **_: Any) -> Image:
            return np.clip(np.rint(img + noise_map), 0, 255).astype(np.uint8)

    return RoundedNoise
