"""Local response normalization: activations compete with those of the neighbouring channels at the same place.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012, section 3.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

# The paper's constants; the exponent, beta = 0.75, stands in the code as two square roots.
DEPTH = 5
BIAS = 2.0
ALPHA = 1e-4


def normalize_local_response(inputs: Any, name: str) -> Any:
    """Returns `(B, H, W, C)` -> the same shape: `a_i / (2 + 1e-4 * sum of a_j ** 2) ** 0.75` for every channel i.

    The sum goes over the five channels around i, fewer at both ends. As in the paper alpha is not divided by the number
    of channels, which Caffe and PyTorch do.

    It is made of operations of Keras' own, which unlike a layer class of ours load in Keras' safe mode where this
    package has never been imported. Only the last of them carries `name`, and only behind it can a network be cut.
    """
    x = ops.cast(inputs, "float32")  # half floats overflow when an activation above 255 is squared
    # A sum over neighbouring channels is a convolution with ones along the channels.
    x = ops.reshape(ops.square(x), (-1, inputs.shape[-1], 1))  # (B * H * W, C, 1)
    x = ops.conv(x, np.ones((DEPTH, 1, 1), np.float32), padding="same")
    x = BIAS + ALPHA * ops.reshape(x, (-1, *inputs.shape[1:]))
    x = ops.rsqrt(x * ops.sqrt(x))
    return layers.Multiply(name=name)([inputs, ops.cast(x, inputs.dtype)])
