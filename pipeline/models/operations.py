"""What a forward pass costs, counted on the graph."""

from __future__ import annotations

import math
from typing import Any

import keras


def count_multiply_adds(model: keras.Model) -> int:
    """Returns the multiplications with an addition that convolutions and dense layers make of one image.

    That is what most papers call FLOPs; a processor's are twice as many. Biases, BatchNorm, activations and pooling,
    some hundredths more, are left out as the papers do.
    """
    total = 0
    for layer in model.layers:
        total += count_multiply_adds(layer) if isinstance(layer, keras.Model) else _of_layer(layer)
    return total


def _of_layer(layer: Any) -> int:
    """Returns those of one layer: a kernel is applied at every place of its output, or of the input it widens."""
    layers = keras.layers
    if isinstance(layer, layers.Conv2DTranspose):
        return math.prod(layer.input.shape[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.SeparableConv2D):
        places = math.prod(layer.output.shape[1:3])
        return places * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
        return math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.Dense):
        return math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    return 0
