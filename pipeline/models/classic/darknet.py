"""Darknet-19 and Darknet-53: the classification networks on which YOLOv2 and YOLOv3 were built.

Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", arXiv:1612.08242, table 6, and "YOLOv3: An Incremental
Improvement", arXiv:1804.02767, table 1. What the papers leave out is from their code, github.com/pjreddie/darknet.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

# Filters of the convolutions between two poolings. They alternate between 3×3 and 1×1, and begin with 3×3.
DARKNET19_BLOCKS = (
    (32,),  # (B, 224, 224, 32)
    (64,),  # (B, 112, 112, 64)
    (128, 64, 128),  # (B, 56, 56, 128)
    (256, 128, 256),  # (B, 28, 28, 256)
    (512, 256, 512, 256, 512),  # (B, 14, 14, 512)
    (1024, 512, 1024, 512, 1024),  # (B, 7, 7, 1024)
)
# Residual blocks behind each convolution of stride 2, and their channels.
DARKNET53_STAGES = (
    (1, 64),  # (B, 128, 128, 64)
    (2, 128),  # (B, 64, 64, 128)
    (8, 256),  # (B, 32, 32, 256)
    (8, 512),  # (B, 16, 16, 512)
    (4, 1024),  # (B, 8, 8, 1024)
)

LEAK = 0.1
BATCH_NORM_MOMENTUM = 0.99
BATCH_NORM_EPSILON = 1e-5


def build_darknet19(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless Darknet-19: `(B, H, W, C)` float32 pixels, scaled, to `(B, H // 32, W // 32, 1024)`.

    The paper's last layers are a linear 1×1 convolution to 1000 channels and global average pooling. Both are linear,
    so the other way round, average pooling and then a dense layer of as many parameters, gives the same logits: the
    head on top is that. It makes 20,842,376 trained parameters.

    Args:
        input_shape: (H, W, C); each side at least 32.
    """
    x = pixels = keras.Input(input_shape, name="pixels")  # (B, 224, 224, 3)
    for block, convolutions in enumerate(DARKNET19_BLOCKS, start=1):
        if block > 1:
            # (B, 112, 112, 32), (B, 56, 56, 64), (B, 28, 28, 128), (B, 14, 14, 256), (B, 7, 7, 512)
            x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
        for place, filters in enumerate(convolutions, start=1):
            x = _conv(x, f"block{block}_{place}", filters, 3 if place % 2 else 1)  # shapes: beside the blocks
    return keras.Model(pixels, x, name="darknet19")


def build_darknet53(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless Darknet-53: `(B, H, W, C)` float32 pixels, scaled, to `(B, h, w, 1024)` features.

    h and w are a 32nd of H and W, rounded up: 8×8 for the paper's 256×256. The head on top is average pooling and the
    logits; with 1000 of them there are 41,609,928 trained parameters. A residual block adds its input behind the leaky
    ReLU, and nothing comes after the sum.

    Args:
        input_shape: (H, W, C). From 32 pixels a side strides do not fall on single pixels.
    """
    pixels = keras.Input(input_shape, name="pixels")  # (B, 256, 256, 3)
    x = _conv(pixels, "conv1", 32, 3)  # (B, 256, 256, 32)
    for stage, (blocks, filters) in enumerate(DARKNET53_STAGES, start=2):
        x = _conv(x, f"conv{stage}_down", filters, 3, stride=2)  # shapes: beside the stages
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            y = _conv(x, f"{name}_1", filters // 2, 1)
            y = _conv(y, f"{name}_2", filters, 3)
            x = layers.Add(name=f"{name}_add")([x, y])
    return keras.Model(pixels, x, name="darknet53")


def _conv(inputs: Any, name: str, filters: int, kernel: int, *, stride: int = 1) -> Any:
    """Returns convolution, BatchNorm and leaky ReLU of `inputs`; initial weights are He normal, as in the code."""
    x = inputs
    if stride > 1:  # Keras' "same" would put the odd row of zeros below only
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, name=f"{name}_bn")(x)
    return layers.LeakyReLU(LEAK, name=f"{name}_leaky")(x)
