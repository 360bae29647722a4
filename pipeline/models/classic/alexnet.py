"""AlexNet: the network that won ILSVRC-2012 and turned computer vision to deep learning.

Krizhevsky, Sutskever & Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from pipeline.models.classic.normalization import normalize_local_response


def build_alexnet(
    input_shape: tuple[int, int, int], *, local_response_normalization: bool = False, groups: int = 1
) -> keras.Model:
    """Returns the headless AlexNet: `(B, H, W, C)` float32 pixels, scaled, to `(B, h, w, 256)` features.

    A 227×227 image leaves it as 6×6×256; flattened, those are 9216 features. The paper prints 224×224, from which
    11×11 kernels with stride 4 do not reach the 55×55 maps that it prints too; 227×227 does. The head on top is two
    hidden layers of 4096 units, each behind a dropout of 0.5, and 1000 logits: 62,378,344 parameters in all.

    Where the paper differs:

    * Its network is two towers on two GPUs with 3 GB each, and the second, fourth and fifth convolution see only their
      own tower's maps: `groups=2` builds it so, with 60,965,224 parameters. One tower, as it has been built since GPUs
      are large enough, is the default.
    * It draws weights from a Gaussian of deviation 0.01, and starts the biases of the second, fourth and fifth
      convolution at 1. On small images or small data that does not get going; we use He initialisation and no bias.
    * It normalizes local responses. That is worth 1.2 to 1.4 points there, but costs time and was found to be of little
      use in later networks, so it is an option here.

    Args:
        input_shape: (H, W, C); each side at least 67.
        local_response_normalization: Normalize behind the first two convolutions, before they are pooled.
        groups: 2 for the paper's two towers.
    """
    pixels = keras.Input(input_shape, name="pixels")  # (B, 227, 227, 3)
    x = _conv(pixels, "block1_conv", 96, 11, stride=4, padding="valid")  # (B, 55, 55, 96)
    if local_response_normalization:
        x = normalize_local_response(x, "block1_norm")  # (B, 55, 55, 96)
    # Windows of 3 two apart overlap, which the paper found to overfit slightly less than windows of 2.
    x = layers.MaxPooling2D(3, 2, name="block1_pool")(x)  # (B, 27, 27, 96)
    x = _conv(x, "block2_conv", 256, 5, groups=groups)  # (B, 27, 27, 256)
    if local_response_normalization:
        x = normalize_local_response(x, "block2_norm")  # (B, 27, 27, 256)
    x = layers.MaxPooling2D(3, 2, name="block2_pool")(x)  # (B, 13, 13, 256)
    x = _conv(x, "block3_conv", 384, 3)  # (B, 13, 13, 384)
    x = _conv(x, "block4_conv", 384, 3, groups=groups)  # (B, 13, 13, 384)
    x = _conv(x, "block5_conv", 256, 3, groups=groups)  # (B, 13, 13, 256)
    features = layers.MaxPooling2D(3, 2, name="block5_pool")(x)  # (B, 6, 6, 256)
    return keras.Model(pixels, features, name="alexnet")


def _conv(
    inputs: Any, name: str, filters: int, kernel: int, *, stride: int = 1, padding: str = "same", groups: int = 1
) -> Any:
    """Returns a convolution of `inputs` with ReLU."""
    conv = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding=padding,
        groups=groups,
        activation="relu",
        kernel_initializer="he_normal",
        name=name,
    )
    return conv(inputs)
