"""ResNet-18 and ResNet-34: the residual networks of basic blocks.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385. Layers are named as Keras names
those of its ResNets of bottleneck blocks (50, 101, 152), so a block is cited alike in all: `conv4_block1`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

FILTERS = (64, 128, 256, 512)

# The paper gives neither; these are the values of its authors' Caffe models and of everyone since.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


def build_resnet18(input_shape: tuple[int, int, int], *, small_images: bool = False) -> keras.Model:
    """Returns the headless ResNet-18: with 1000 classes 11,689,512 trained parameters; see `build_resnet`."""
    return build_resnet(input_shape, repeats=(2, 2, 2, 2), small_images=small_images, name="resnet18")


def build_resnet34(input_shape: tuple[int, int, int], *, small_images: bool = False) -> keras.Model:
    """Returns the headless ResNet-34: with 1000 classes 21,797,672 trained parameters; see `build_resnet`."""
    return build_resnet(input_shape, repeats=(3, 4, 6, 3), small_images=small_images, name="resnet34")


def build_resnet(
    input_shape: tuple[int, int, int], *, repeats: tuple[int, ...], small_images: bool, name: str
) -> keras.Model:
    """Returns a headless ResNet: `(B, H, W, C)` float32 pixels, scaled, to `(B, H / 32, W / 32, 512)`, rounded up.

    The head on top is average pooling and the logits. Where a block changes the shape its shortcut is a 1×1 convolution
    (the paper's option B); elsewhere it is the identity. As in the authors' models, padding is the same on all sides.
    Initial weights are He normal over fan-in, the paper's.

    Args:
        input_shape: (H, W, C). From 32 pixels a side, 8 with `small_images`, strides do not fall on single pixels.
        repeats: Number of blocks in each of the four stages.
        small_images: The stem is the one that the paper's section 4.2 has for CIFAR-10, a 3×3 convolution without
            stride and no pooling, and features are an eighth of the image. The stages stay those for ImageNet; the
            paper's networks for CIFAR-10 have three, of 16, 32 and 64 channels.
        name: Name of the model.
    """
    pixels = keras.Input(input_shape, name="pixels")  # (B, 224, 224, 3)
    if small_images:
        x = _conv_bn(pixels, "conv1", FILTERS[0], 3)
        x = layers.ReLU(name="conv1_relu")(x)
    else:
        x = _conv_bn(pixels, "conv1", FILTERS[0], 7, stride=2)  # (B, 112, 112, 64)
        x = layers.ReLU(name="conv1_relu")(x)  # (B, 112, 112, 64)
        # Padding with zeros does not change the maxima of what a ReLU gives.
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)  # (B, 114, 114, 64)
        x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)  # (B, 56, 56, 64)
    for stage, (blocks, filters) in enumerate(zip(repeats, FILTERS, strict=True), start=2):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 2 and block == 1 else 1
            # (B, 56, 56, 64), (B, 28, 28, 128), (B, 14, 14, 256), (B, 7, 7, 512)
            x = _basic_block(x, f"conv{stage}_block{block}", filters, stride)
    return keras.Model(pixels, x, name=name)


def _basic_block(inputs: Any, name: str, filters: int, stride: int) -> Any:
    """Returns `relu(F(inputs) + shortcut(inputs))`, F being two 3×3 convolutions with a ReLU between them."""
    x = _conv_bn(inputs, f"{name}_1", filters, 3, stride=stride)
    x = layers.ReLU(name=f"{name}_1_relu")(x)
    x = _conv_bn(x, f"{name}_2", filters, 3)
    shortcut = inputs
    if stride > 1 or inputs.shape[-1] != filters:
        shortcut = _conv_bn(inputs, f"{name}_0", filters, 1, stride=stride)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.ReLU(name=f"{name}_out")(x)


def _conv_bn(inputs: Any, name: str, filters: int, kernel: int, *, stride: int = 1) -> Any:
    """Returns BatchNorm of a convolution, which needs no bias for it."""
    x = inputs
    if kernel > 1 and stride > 1:  # Keras' "same" would put the odd row of zeros below only
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
    return layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, name=f"{name}_bn")(x)
