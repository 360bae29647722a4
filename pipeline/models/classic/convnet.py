"""The classic two-layer ConvNet for handwritten digits, after TensorFlow's "Deep MNIST for Experts" tutorial."""

from __future__ import annotations

import keras
from keras import layers


def build_convnet(input_shape: tuple[int, int, int]) -> keras.Model:
    """Returns the headless ConvNet: `(B, H, W, C)` float32 pixels, scaled, to `(B, H // 4, W // 4, 64)` features.

    A 28×28 digit leaves it as 7×7×64; flattened, those are 7 * 7 * 64 = 3136 features. The tutorial's head on top is a
    dropout 0.5, hidden layer of 1000 units and ten logits, which makes 3,199,106 parameters in all.
    """
    pixels = keras.Input(input_shape, name="pixels")  # (B, 28, 28, 1)
    x = layers.Conv2D(32, 5, padding="same", activation="relu", name="block1_conv")(pixels)  # (B, 28, 28, 32)
    x = layers.MaxPooling2D(2, name="block1_pool")(x)  # (B, 14, 14, 32)
    x = layers.Conv2D(64, 5, padding="same", activation="relu", name="block2_conv")(x)  # (B, 14, 14, 64)
    features = layers.MaxPooling2D(2, name="block2_pool")(x)  # (B, 7, 7, 64)
    return keras.Model(pixels, features, name="convnet")
