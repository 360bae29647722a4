"""What a network answers for images, always computed in batches of one size."""

from __future__ import annotations

import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.progress import Progress
from pipeline.train.dataset import Images, InputSpec, view_batches

Forward = Callable[[tf.Tensor], np.ndarray]


def padded_forward(network: keras.Model, batch_size: int) -> Forward:
    """Returns a function of up to `batch_size` pixels -> the network's answer in inference mode, float32.

    The last bits of an answer change with the batch size, so a short batch is filled up: an image's answer must not
    depend on how many images happen to stand beside it.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def answer(pixels: tf.Tensor) -> tf.Tensor:
        return tf.cast(network(pixels, training=False), tf.float32)

    def forward(pixels: tf.Tensor) -> np.ndarray:
        count = len(pixels)
        full = tf.pad(pixels, [[0, batch_size - count]] + [[0, 0]] * (len(pixels.shape) - 1))
        return np.asarray(answer(full))[:count]

    return forward


def measure_speed(forward: Forward, spec: InputSpec, batch_size: int, seconds: float) -> float:
    """Returns how many images a second pass through, measured on blank ones for about so long."""
    blank = tf.zeros((batch_size, *spec.image_size, spec.channels))
    forward(blank)  # builds the graph
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += len(forward(blank))
    return count / (time.perf_counter() - began)


def extract(
    network: keras.Model, images: Images, spec: InputSpec, batch_size: int, progress: Progress, title: str
) -> np.ndarray:
    """Returns a network's answers for images as they are, `(N, ...)` float32; one forward pass an image."""
    values = np.empty((len(images), *network.output_shape[1:]), np.float32)
    forward, row = padded_forward(network, batch_size), 0
    with progress.bar(title, len(images)) as bar:
        for pixels in view_batches(images, spec, Policy(), 0, batch_size):
            answer = forward(pixels)
            values[row : row + len(answer)] = answer
            row += len(answer)
            bar.advance(len(answer))
    return values
