"""GoogLeNet: modules that look at several scales at once, and narrow the channels first so as to afford it.

Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842. It is Inception v1: ReLU and biases, no BatchNorm.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import layers

from pipeline.models.classic.normalization import normalize_local_response


class Module(NamedTuple):
    """Filters in the branches of an Inception module, in the order of the paper's table 1."""

    conv_1: int
    reduce_3: int
    conv_3: int
    reduce_5: int
    conv_5: int
    pool_projection: int


MODULES = {
    "inception_3a": Module(64, 96, 128, 16, 32, 32),  # (B, 28, 28, 256)
    "inception_3b": Module(128, 128, 192, 32, 96, 64),  # (B, 28, 28, 480)
    "inception_4a": Module(192, 96, 208, 16, 48, 64),  # (B, 14, 14, 512)
    "inception_4b": Module(160, 112, 224, 24, 64, 64),  # (B, 14, 14, 512)
    "inception_4c": Module(128, 128, 256, 24, 64, 64),  # (B, 14, 14, 512)
    "inception_4d": Module(112, 144, 288, 32, 64, 64),  # (B, 14, 14, 528)
    "inception_4e": Module(256, 160, 320, 32, 128, 128),  # (B, 14, 14, 832)
    "inception_5a": Module(256, 160, 320, 32, 128, 128),  # (B, 7, 7, 832)
    "inception_5b": Module(384, 192, 384, 48, 128, 128),  # (B, 7, 7, 1024)
}
# A max pooling follows these, named after the stage: `inception_3_pool`.
POOLED_AFTER = ("inception_3b", "inception_4e")

#: The layers on whose output the auxiliary classifiers sit while the network is trained.
AUXILIARY_AFTER = ("inception_4a", "inception_4d")
#: What the loss of each of them counts beside the loss of the network itself.
AUXILIARY_WEIGHT = 0.3
AUXILIARY_DROPOUT = 0.7


def build_googlenet(input_shape: tuple[int, int, int], *, local_response_normalization: bool = False) -> keras.Model:
    """Returns the headless GoogLeNet: `(B, H, W, C)` float32 pixels, scaled, to `(B, h, w, 1024)` features.

    h and w are a 32nd of H and W, rounded up: 7×7 for a 224×224 image. The head on top is average pooling, a dropout of
    0.4 and 1000 logits, which makes 6,998,552 parameters; with the two auxiliary classifiers that are there in training
    only, 13,378,280.

    The paper says nothing of the initial weights; we use He initialisation.

    Args:
        input_shape: (H, W, C). From 32 pixels a side each pooling still finds two rows to choose from.
        local_response_normalization: Normalize behind the first pooling and before the second, as the paper's figure 3
            has it, with the constants of AlexNet since it gives none. Later networks did without, so off by default.
    """
    pixels = keras.Input(input_shape, name="pixels")  # (B, 224, 224, 3)
    x = _conv(pixels, "conv1_conv", 64, 7, stride=2)  # (B, 112, 112, 64)
    x = _pool(x, "conv1_pool")  # (B, 56, 56, 64)
    if local_response_normalization:
        x = normalize_local_response(x, "conv1_norm")  # (B, 56, 56, 64)
    x = _conv(x, "conv2_reduce", 64, 1)  # (B, 56, 56, 64)
    x = _conv(x, "conv2_conv", 192, 3)  # (B, 56, 56, 192)
    if local_response_normalization:
        x = normalize_local_response(x, "conv2_norm")  # (B, 56, 56, 192)
    x = _pool(x, "conv2_pool")  # (B, 28, 28, 192)
    for name, module in MODULES.items():
        x = _inception(x, name, module)  # shapes: beside the modules
        if name in POOLED_AFTER:
            x = _pool(x, f"{name[:-1]}_pool")  # (B, 14, 14, 480), (B, 7, 7, 832)
    return keras.Model(pixels, x, name="googlenet")


def build_auxiliary(features: tuple[int | None, ...], num_classes: int, *, name: str, seed: int) -> keras.Model:
    """Returns an auxiliary classifier: a module's output `(B, h, w, F)` -> `(B, num_classes)` logits float32.

    It brings gradients to the middle of the network, and goes once that is trained. Initial weights and dropout depend
    on `seed` alone. On maps smaller than the paper's 5×5 window it averages the whole map.

    Args:
        features: The output shape of one of `AUXILIARY_AFTER`, batch axis included.
        num_classes: Number of logits.
        name: Name of the model, and so of its output.
        seed: Of initial weights and dropout.
    """
    inputs = keras.Input(features[1:])  # (B, 14, 14, 512)
    window = tuple(min(5, side) for side in inputs.shape[1:3])
    x = layers.AveragePooling2D(window, 3, name="pool")(inputs)  # (B, 4, 4, 512)
    x = layers.Conv2D(128, 1, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed), name="conv")(x)
    x = layers.Flatten(name="flatten")(x)  # (B, 2048)
    glorot = [keras.initializers.GlorotUniform(seed + place) for place in (1, 2)]
    x = layers.Dense(1024, "relu", kernel_initializer=glorot[0], name="dense")(x)  # (B, 1024)
    x = layers.Dropout(AUXILIARY_DROPOUT, seed=seed, name="dropout")(x)
    # float32 under mixed precision too, as the head's logits are.
    logits = layers.Dense(num_classes, kernel_initializer=glorot[1], dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=name)


def _inception(inputs: Any, name: str, module: Module) -> Any:
    """Returns the channels of four branches side by side: 1×1, 3×3, 5×5 and pooled; the larger ones narrowed first."""
    ones = _conv(inputs, f"{name}_1x1", module.conv_1, 1)
    threes = _conv(inputs, f"{name}_3x3_reduce", module.reduce_3, 1)
    threes = _conv(threes, f"{name}_3x3", module.conv_3, 3)
    fives = _conv(inputs, f"{name}_5x5_reduce", module.reduce_5, 1)
    fives = _conv(fives, f"{name}_5x5", module.conv_5, 5)
    pooled = _pool(inputs, f"{name}_pool", stride=1)
    pooled = _conv(pooled, f"{name}_pool_projection", module.pool_projection, 1)
    return layers.Concatenate(name=name)([ones, threes, fives, pooled])


def _conv(inputs: Any, name: str, filters: int, kernel: int, *, stride: int = 1) -> Any:
    """Returns a convolution of `inputs` with ReLU."""
    conv = layers.Conv2D(
        filters, kernel, stride, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )
    return conv(inputs)


def _pool(inputs: Any, name: str, *, stride: int = 2) -> Any:
    """Returns maxima of 3×3 windows `stride` apart."""
    return layers.MaxPooling2D(3, stride, padding="same", name=name)(inputs)
