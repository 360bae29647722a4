"""Heads: what turns a backbone's feature map into logits."""

from __future__ import annotations

import keras

from pipeline.config import HeadConfig
from pipeline.models.backbones import Backbone

_POOLING = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}


def build_pooling(features: tuple[int | None, ...], config: HeadConfig, row: Backbone) -> keras.Model:
    """Returns the layer between backbone and classifier: `(B, h, w, F)` -> `(B, D)`.

    Its output is what a frozen backbone comes down to: all that need be kept of an image in the head phase.
    """
    inputs = keras.Input(features[1:])  # (B, h, w, F)
    return keras.Model(inputs, _POOLING[config.pooling or row.pooling]()(inputs), name="pooling")


def build_classifier(width: int, num_classes: int, config: HeadConfig, row: Backbone, seed: int) -> keras.Model:
    """Returns dropout, hidden dense layers and the logits: `(B, D)` -> `(B, num_classes)` float32.

    Dropout stands before each hidden layer, as in AlexNet, and without one before the logits. Initial weights and
    dropout depend on `seed` alone, so heads of one seed are equal whatever was built before.
    """
    hidden = row.hidden if config.hidden is None else config.hidden
    dropout = row.dropout if config.dropout is None else config.dropout
    initial = [keras.initializers.GlorotUniform(seed + place) for place in range(len(hidden) + 1)]
    x = inputs = keras.Input((width,))  # (B, D)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seed, name="dropout")(x)
    for place, units in enumerate(hidden, start=1):
        if dropout and place > 1:
            x = keras.layers.Dropout(dropout, seed=seed + place - 1, name=f"dropout_{place}")(x)
        x = keras.layers.Dense(units, row.activation, kernel_initializer=initial[place - 1], name=f"dense_{place}")(x)
    # Mixed precision ends here: a softmax over float16 logits loses what the loss needs.
    logits = keras.layers.Dense(num_classes, kernel_initializer=initial[-1], dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="classifier")
