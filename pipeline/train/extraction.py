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

#: For how long a speed is measured.
MEASURED_SECONDS = 0.5


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


def measure_speed(forward: Forward, spec: InputSpec, batch_size: int) -> float:
    """Returns how many images a second pass through, measured on blank ones."""
    blank = tf.zeros((batch_size, *spec.image_size, spec.channels))
    forward(blank)  # builds the graph
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_SECONDS:
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


class Speedometer:
    """Tells how many images a second are done, once, as soon as it has been measured.

    From the second batch on: the first builds graphs.
    """

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell: Callable[[float], None] | None = tell
        self._began: float | None = None
        self._images = 0

    def count(self, images: int, last: bool = False) -> None:
        """Counts images that were computed; at the last ones tells in any case."""
        if self._tell is None:
            return
        now = time.perf_counter()
        if self._began is None:
            self._began = now
            if not last:
                return
        else:
            self._images += images
        seconds = now - self._began
        if last or seconds >= MEASURED_SECONDS:
            self._tell(self._images / seconds if self._images else 0.0)
            self._tell = None


def expected(passes: int, rate: float) -> str:
    """Returns what a measured speed means; nothing where there was too little to measure it."""
    if not rate:
        return ""
    seconds = passes / rate
    return f" at {rate:,.0f} images/s, about {f'{seconds:.0f} s' if seconds < 120 else f'{seconds / 60:.0f} min'}"
