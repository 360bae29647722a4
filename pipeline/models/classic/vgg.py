"""VGG: depth out of nothing but 3×3 convolutions.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556. Layers
carry the names that Keras gives its VGG16 and VGG19.
"""

from __future__ import annotations

import keras
from keras import layers

FILTERS = (64, 128, 256, 512, 512)

# Convolutions in each block, from the columns of the paper's table 1. Its A-LRN and C are left out: no better than A
# and than D.
CONVOLUTIONS = {
    "vgg11": (1, 1, 2, 2, 2),  # A
    "vgg13": (2, 2, 2, 2, 2),  # B
    "vgg16": (2, 2, 3, 3, 3),  # D
    "vgg19": (2, 2, 4, 4, 4),  # E
}


def build_vgg11(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless network A, 132,863,336 parameters with the paper's head; see `build_vgg`."""
    return build_vgg(input_shape, name="vgg11")


def build_vgg13(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless network B, 133,047,848 parameters with the paper's head; see `build_vgg`."""
    return build_vgg(input_shape, name="vgg13")


def build_vgg16(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless network D, 138,357,544 parameters with the paper's head; see `build_vgg`."""
    return build_vgg(input_shape, name="vgg16")


def build_vgg19(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless network E, 143,667,240 parameters with the paper's head; see `build_vgg`."""
    return build_vgg(input_shape, name="vgg19")


def build_vgg(input_shape: tuple[int, int, int], *, name: str) -> keras.Model:
    """Returns a headless VGG: `(B, H, W, C)` float32 pixels, scaled, to `(B, H // 32, W // 32, 512)` features.

    A 224×224 image leaves it as 7×7×512; flattened, those are 25,088 features. The head on top is two hidden layers of
    4096 units, each behind a dropout of 0.5, and 1000 logits.

    The paper draws the weights of A from a Gaussian of deviation 0.1 (variance 0.01) and starts the deeper networks
    from a trained A, then notes that Glorot initialisation does without that; we use He initialisation, made for ReLU.

    Args:
        input_shape: (H, W, C); each side at least 32.
        name: One of `CONVOLUTIONS`.
    """
    x = pixels = keras.Input(input_shape, name="pixels")  # (B, 224, 224, 3)
    for block, (convolutions, filters) in enumerate(zip(CONVOLUTIONS[name], FILTERS, strict=True), start=1):
        for place in range(1, convolutions + 1):
            # (B, 224, 224, 64), (B, 112, 112, 128), (B, 56, 56, 256), (B, 28, 28, 512), (B, 14, 14, 512)
            x = layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"block{block}_conv{place}",
            )(x)
        # (B, 112, 112, 64), (B, 56, 56, 128), (B, 28, 28, 256), (B, 14, 14, 512), (B, 7, 7, 512)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return keras.Model(pixels, x, name=name)
