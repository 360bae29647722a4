"""What a row of the zoo is, and what it can do."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ModelError, nearest

if TYPE_CHECKING:
    import keras

ImageSize = tuple[int, int]


@dataclass(frozen=True)
class Scaling:
    """Per channel `(pixel - mean) / std` of raw pixels in [0, 255], after RGB is turned into BGR if `bgr`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


@dataclass(frozen=True)
class Weights:
    """Published ImageNet weights of the network without its top.

    `origin` is a URL, or `package:NAME` for a file inside an installed Python package. `digest` is `md5:...` or
    `sha256:...`, None where the publisher names none.
    """

    file_name: str
    origin: str
    digest: str | None


@dataclass(frozen=True)
class Paper:
    """Where a network was published: `authors` as cited, `year`, and `reference`, title or arXiv number."""

    authors: str
    year: int
    reference: str

    def __str__(self) -> str:
        """Returns `Chollet 2017, arXiv:1610.02357`."""
        return f"{self.authors} {self.year}, {self.reference}"


@dataclass(frozen=True)
class Accuracy:
    """Published accuracy of a single network on the ImageNet validation images.

    Attributes:
        top_1, top_5: Shares in [0, 1]; None where the source has no such figure.
        source: Who printed them, and for which protocol.
    """

    top_1: float | None
    top_5: float | None
    source: str


@dataclass(frozen=True)
class Auxiliary:
    """Classifiers on the side that only training sees.

    Attributes:
        after: The layers of the backbone whose output they read.
        builder: `module:function` of (features, num_classes, name, seed) -> a model, features -> logits.
        weight: Of each one's loss; that of the network itself is 1.
    """

    after: tuple[str, ...]
    builder: str
    weight: float


@dataclass(frozen=True)
class Backbone:
    """A row of the zoo.

    Attributes:
        name: As in `model.backbone`.
        builder: `module:function` that builds the network without its top.
        paper: Where it was published.
        default_size: (H, W) in pixels.
        smallest_size: The least height and width.
        parameters: Of the network with its published top of `classes`, moving statistics included, as Keras counts.
        multiply_adds: Of one forward pass of the same network at `default_size`; counted on the graph.
        accuracy: Of the published network, None where it was not published on ImageNet.
        contest: What it, or an ensemble of it, reached on a test set that was famous then.
        weights: None where none are published.
        extraction_batch: Images a forward pass of the feature bank.
        scaling: None where the network itself scales raw pixels.
        channels, pooling, hidden, activation, dropout: Of its own usual head; `activation` is of the hidden layers.
        classes: Of its published top.
        arguments: That the builder is always called with.
        options: Switches of the builder that `model.options` may turn, and their defaults.
        auxiliary: Classifiers that training adds, None where there are none.
    """

    name: str
    builder: str
    paper: Paper
    default_size: ImageSize
    smallest_size: int
    parameters: int
    multiply_adds: int
    accuracy: Accuracy | None
    weights: Weights | None
    extraction_batch: int
    scaling: Scaling | None
    contest: str | None = None
    channels: int = 3
    pooling: Literal["avg", "max", "flatten"] = "avg"
    hidden: tuple[int, ...] = ()
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.2
    classes: int = 1000
    arguments: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, bool], ...] = ()
    auxiliary: Auxiliary | None = None

    def check_size(self, image_size: ImageSize) -> None:
        """Looks whether images of this size are large enough; TensorFlow is not needed for it.

        Raises:
            ModelError: A side of the image is below `smallest_size`.
        """
        height, width = image_size
        if min(image_size) < self.smallest_size:
            raise ModelError(
                f"{self.name} needs images of at least {self.smallest_size}x{self.smallest_size} pixels, found "
                f"{height}x{width}: raise model.image_size (its default is {self.default_size[0]}) or choose another "
                "model.backbone"
            )

    def check_options(self, options: Mapping[str, bool]) -> None:
        """Looks whether the network has these switches; TensorFlow is not needed for it.

        Raises:
            ModelError: It has not; the message names those that it has.
        """
        known = dict(self.options)
        for name in options:
            if name not in known:
                hint = nearest(name, known) if known else "it has none"
                raise ModelError(f"model.options: {self.name} has no switch {name!r}: {hint}")

    def build(self, image_size: ImageSize, options: Mapping[str, bool] = MappingProxyType({})) -> keras.Model:
        """Returns the headless network with fresh weights: `(B, H, W, channels)` float32, scaled, to `(B, h, w, C)`.

        Raises:
            ModelError: A side of the image is below `smallest_size`, or there is no such option.
        """
        self.check_size(image_size)
        self.check_options(options)
        build = load(self.builder)
        arguments = dict(self.arguments) | dict(self.options) | dict(options)
        network: keras.Model = build(input_shape=(*image_size, self.channels), **arguments)
        return network


def gflops(multiply_adds: int) -> float:
    """Returns billions of floating-point operations, two for a multiplication with an addition.

    >>> gflops(15_470_264_320)  # VGG-16
    30.94052864
    """
    return 2 * multiply_adds / 1e9


def load(function: str) -> Callable[..., Any]:
    """Returns the function that `module:name` stands for."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


# What the ImageNet mean and standard deviation of RGB in [0, 1] are to everyone since Torch's ResNet.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The three modes of keras.applications.imagenet_utils.preprocess_input.
TF_SCALING = Scaling(mean=(127.5,) * 3, std=(127.5,) * 3)
TORCH_SCALING = Scaling(mean=tuple(255 * m for m in IMAGENET_MEAN), std=tuple(255 * s for s in IMAGENET_STD))
CAFFE_SCALING = Scaling(mean=(103.939, 116.779, 123.68), std=(1.0,) * 3, bgr=True)

# EfficientNet B0 to B7 normalize inside, but their published weights were trained with the deviation divided out one
# and a half times. Keras adds the missing division by sqrt(std) only to networks that it loads with weights="imagenet"
# itself (tensorflow/tensorflow issue 49930), which ours are not. The same division, about the mean and hence before
# the network's own normalization, is (pixel - 255 m) / sqrt(s) + 255 m; here as a mean and a deviation.
EFFICIENTNET_SCALING = Scaling(
    mean=tuple(255 * m * (1 - math.sqrt(s)) for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)),
    std=tuple(math.sqrt(s) for s in IMAGENET_STD),
)


def build_scaling(row: Backbone) -> Callable[[Any], Any]:
    """Returns what turns raw `(B, H, W, C)` pixels in [0, 255] into what the network takes; called on a Keras tensor.

    It holds constants, no weights, and a model made with it loads again in Keras' safe mode: the flip is an operation
    of Keras' own, not a Lambda.
    """
    import keras

    if row.scaling is None:
        return keras.layers.Identity(name="scaling")
    normalize = keras.layers.Normalization(
        mean=row.scaling.mean,
        variance=tuple(std**2 for std in row.scaling.std),
        dtype="float32",  # under mixed precision too: half floats cannot tell neighbouring pixel values apart
        name="scaling",
    )
    if row.scaling.bgr:
        return lambda pixels: normalize(keras.ops.flip(pixels, axis=-1))
    return normalize
