"""EfficientNet-Lite: EfficientNet without squeeze-excite and with ReLU6, which small processors and int8 prefer.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946; the Lite changes
are those of the authors' repository (models/official/efficientnet/lite in tensorflow/tpu). Layers carry the names that
Keras gives its EfficientNets, so a block is cited alike in both: `block4c`, `top`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
from keras import layers


class Stage(NamedTuple):
    """A run of inverted-residual blocks; only its first block strides and changes the number of channels."""

    expand: int
    filters: int
    kernel: int
    stride: int
    repeats: int


STAGES = (
    Stage(1, 16, 3, 1, 1),
    Stage(6, 24, 3, 2, 2),
    Stage(6, 40, 5, 2, 2),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 5, 1, 3),
    Stage(6, 192, 5, 2, 4),
    Stage(6, 320, 3, 1, 1),
)
STEM_FILTERS = 32
TOP_FILTERS = 1280

BATCH_NORM_EPSILON = 1e-3
# He initialisation over fan-out, as the authors train every EfficientNet.
KERNEL_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}


def build_efficientnet_lite0(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless Lite0: `(B, H, W, 3)` float32 pixels, scaled, to `(B, H / 32, W / 32, 1280)`, rounded up."""
    return build_efficientnet_lite(input_shape, width=1.0, depth=1.0, name="efficientnet_lite0")


def build_efficientnet_lite1(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless Lite1, deeper than Lite0."""
    return build_efficientnet_lite(input_shape, width=1.0, depth=1.1, name="efficientnet_lite1")


def build_efficientnet_lite2(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless Lite2, deeper and wider than Lite0."""
    return build_efficientnet_lite(input_shape, width=1.1, depth=1.2, name="efficientnet_lite2")


def build_efficientnet_lite(input_shape: tuple[int, int, int], *, width: float, depth: float, name: str) -> keras.Model:
    """Returns a headless EfficientNet-Lite of the given width and depth coefficients.

    Unlike in EfficientNet, the coefficients leave the stem, the top and the repeats of the first and last stage alone.
    """
    pixels = keras.Input(input_shape, name="pixels")
    x = _conv(pixels, "stem", STEM_FILTERS, kernel=3, stride=2)
    for number, stage in enumerate(STAGES, start=1):
        fixed = number in (1, len(STAGES))
        repeats = stage.repeats if fixed else math.ceil(depth * stage.repeats)
        filters = _round_filters(width * stage.filters)
        for repeat in range(repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _block(x, f"block{number}{chr(ord('a') + repeat)}", stage, filters, stride)
    features = _conv(x, "top", TOP_FILTERS, kernel=1, stride=1)
    return keras.Model(pixels, features, name=name)


def _block(inputs: Any, name: str, stage: Stage, filters: int, stride: int) -> Any:
    """Returns the output of an inverted residual (MBConv): expand, filter each channel, project, add the input back."""
    x = inputs
    if stage.expand > 1:
        x = _conv(x, f"{name}_expand", inputs.shape[-1] * stage.expand, kernel=1, stride=1)
    depthwise = layers.DepthwiseConv2D(
        stage.kernel,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=KERNEL_INITIALIZER,
        name=f"{name}_dwconv",
    )
    x = _normalize(depthwise(x), name)
    x = layers.ReLU(6.0, name=f"{name}_relu")(x)
    x = _normalize(_linear_conv(x, f"{name}_project", filters, kernel=1, stride=1), f"{name}_project")
    if stride == 1 and inputs.shape[-1] == filters:
        x = layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _conv(inputs: Any, name: str, filters: int, *, kernel: int, stride: int) -> Any:
    """Returns convolution, BatchNorm and ReLU6 of `inputs`."""
    x = _normalize(_linear_conv(inputs, name, filters, kernel=kernel, stride=stride), name)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)


def _linear_conv(inputs: Any, name: str, filters: int, *, kernel: int, stride: int) -> Any:
    """Returns a convolution of `inputs` without a bias, which the BatchNorm after it would undo."""
    conv = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer=KERNEL_INITIALIZER,
        name=f"{name}_conv",
    )
    return conv(inputs)


def _normalize(inputs: Any, name: str) -> Any:
    """Returns BatchNorm of `inputs`."""
    return layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"{name}_bn")(inputs)


def _round_filters(filters: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of `divisor` that keeps at least nine tenths of `filters`."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * filters else rounded + divisor
