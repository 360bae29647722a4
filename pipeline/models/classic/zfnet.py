"""ZFNet: AlexNet with smaller kernels and strides below, as pictures of what its layers see suggested.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from pipeline.models.classic.normalization import normalize_local_response


def build_zfnet(input_shape: tuple[int, int, int], *, local_response_normalization: bool = False) -> keras.Model:
    """Returns the headless ZFNet: `(B, H, W, C)` float32 pixels, scaled, to `(B, h, w, 256)` features.

    It is the network of the paper's figure 3. A 224×224 image leaves it as 6×6×256; flattened, those are 9216
    features. The head on top is two hidden layers of 4096 units, each behind a dropout of 0.5, and 1000 logits:
    62,357,608 parameters in all.

    Where the paper says nothing or differs:

    * It prints the sizes of the maps but no padding. Those sizes, 110, 55, 26, 13, 13, 13, 13 and 6, come out with one
      pixel around the image, none around the second convolution and pooling windows that may reach over the edge.
    * It normalizes contrast "across feature maps" behind the first two poolings, without a formula. With the option
      that is AlexNet's local response normalization, on whose code the paper's is based; by default it is left out.
    * It sets all weights to 0.01 and rescales each kernel whose root mean square exceeds 0.1. We use He initialisation
      and leave the kernels as they are.

    Args:
        input_shape: (H, W, C); each side at least 47.
        local_response_normalization: Normalize behind the first two poolings.
    """
    pixels = keras.Input(input_shape, name="pixels")  # (B, 224, 224, 3)
    x = layers.ZeroPadding2D(1, name="block1_conv_pad")(pixels)  # (B, 226, 226, 3)
    x = _conv(x, "block1_conv", 96, 7, stride=2, padding="valid")  # (B, 110, 110, 96)
    x = _pool(x, "block1_pool")  # (B, 55, 55, 96)
    if local_response_normalization:
        x = normalize_local_response(x, "block1_norm")  # (B, 55, 55, 96)
    x = _conv(x, "block2_conv", 256, 5, stride=2, padding="valid")  # (B, 26, 26, 256)
    x = _pool(x, "block2_pool")  # (B, 13, 13, 256)
    if local_response_normalization:
        x = normalize_local_response(x, "block2_norm")  # (B, 13, 13, 256)
    x = _conv(x, "block3_conv", 384, 3)  # (B, 13, 13, 384)
    x = _conv(x, "block4_conv", 384, 3)  # (B, 13, 13, 384)
    x = _conv(x, "block5_conv", 256, 3)  # (B, 13, 13, 256)
    features = _pool(x, "block5_pool")  # (B, 6, 6, 256)
    return keras.Model(pixels, features, name="zfnet")


def _conv(inputs: Any, name: str, filters: int, kernel: int, *, stride: int = 1, padding: str = "same") -> Any:
    """Returns a convolution of `inputs` with ReLU."""
    conv = layers.Conv2D(
        filters, kernel, stride, padding=padding, activation="relu", kernel_initializer="he_normal", name=name
    )
    return conv(inputs)


def _pool(inputs: Any, name: str) -> Any:
    """Returns maxima of 3×3 windows two apart, half as many as `inputs` has rows and columns, rounded down.

    For an even side the last window needs one row more. A zero is never more than what a ReLU gives.
    """
    height, width = inputs.shape[1:3]
    x = layers.ZeroPadding2D(((0, 1 - height % 2), (0, 1 - width % 2)), name=f"{name}_pad")(inputs)
    return layers.MaxPooling2D(3, 2, name=name)(x)
