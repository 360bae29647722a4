"""LeNet-5: the convolutional network that read handwritten digits on cheques.

LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE
86(11), 1998.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def build_lenet5(input_shape: tuple[int, int, int], *, pad: bool = True) -> keras.Model:
    """Returns the headless LeNet-5: `(B, H, W, C)` float32 pixels, scaled, to `(B, h, w, 16)` features.

    A 28×28 digit leaves it as 5×5×16, and so does the paper's 32×32 digit with `pad=False`: the paper's images are
    those of MNIST with a border of two pixels, which is what the padding of C1 puts around 28×28 ones. Flattened,
    those are 400 features. The head on top is a hidden layer of 120 units (C5, whose 5×5 kernels cover the whole map),
    one of 84 (F6) and ten logits, which makes 61,706 parameters in all.

    This is the form in which LeNet-5 is usually built. The paper's has 60,000 parameters:

    * its C3 connects each map to three, four or all six maps of S2, with 1,516 parameters for our 2,416;
    * its subsampling multiplies each averaged map by a coefficient, adds a bias (12 parameters in S2, 32 in S4) and
      squashes, where we only average;
    * its output is ten radial basis functions with fixed centres, for which we have 850 parameters;
    * it squashes with `1.7159 * tanh(2 / 3 * x)`.

    Args:
        input_shape: (H, W, C); each side at least 12 with padding, 16 without.
        pad: Surround the images with two pixels of zeros. Without it they bring their own border.
    """
    pixels = keras.Input(input_shape, name="pixels")  # (B, 28, 28, 1)
    x = _conv(pixels, "block1_conv", 6, padding="same" if pad else "valid")  # C1: (B, 28, 28, 6)
    x = layers.AveragePooling2D(2, name="block1_pool")(x)  # S2: (B, 14, 14, 6)
    x = _conv(x, "block2_conv", 16, padding="valid")  # C3: (B, 10, 10, 16)
    features = layers.AveragePooling2D(2, name="block2_pool")(x)  # S4: (B, 5, 5, 16)
    return keras.Model(pixels, features, name="lenet5")


def _conv(inputs: Any, name: str, filters: int, *, padding: str) -> Any:
    """Returns a 5×5 convolution with tanh. Its weights are Glorot's; the paper draws them from ±2.4 / fan-in."""
    conv = layers.Conv2D(filters, 5, padding=padding, activation="tanh", kernel_initializer="glorot_uniform", name=name)
    return conv(inputs)
