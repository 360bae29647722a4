"""The feature bank: what the frozen part of the network answers, computed once per image and view.

A frozen network gives the same answer for the same pixels, so an epoch need not ask it again. This bank lives in
memory for the length of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.progress import Progress
from pipeline.train.dataset import Images, InputSpec, epoch_order, view_batches


@dataclass(frozen=True)
class Features:
    """What a trunk answers for the views of some images.

    Attributes:
        values: `(V, N, ...)` float32; `values[0]` is of the images as they are.
        images: The N images.
    """

    values: np.ndarray
    images: Images


def extract(
    trunk: keras.Model, images: Images, spec: InputSpec, policy: Policy, views: Sequence[int], batch_size: int,
    progress: Progress, title: str,
) -> Features:  # fmt: skip
    """Returns the trunk's answers for the given views of every image; one forward pass per image and view."""
    values = np.empty((len(views), len(images), *trunk.output_shape[1:]), np.float32)
    forward = _padded_forward(trunk, batch_size)
    with progress.bar(title, len(views) * len(images)) as bar:
        for place, view in enumerate(views):
            row = 0
            for pixels in view_batches(images, spec, policy, view, batch_size):
                answer = forward(pixels)
                values[place, row : row + len(answer)] = answer
                row += len(answer)
                bar.advance(len(answer))
    return Features(values, images)


def _padded_forward(trunk: keras.Model, batch_size: int) -> Callable[[tf.Tensor], np.ndarray]:
    """Returns a function of pixels -> the trunk's answer as float32, always computed in batches of `batch_size`.

    The last bits of an answer change with the batch size, so a short batch is filled up: an image's features must not
    depend on how many images happen to stand beside it.
    """

    @tf.function(reduce_retracing=True)
    def answer(pixels: tf.Tensor) -> tf.Tensor:
        return tf.cast(trunk(pixels, training=False), tf.float32)

    def forward(pixels: tf.Tensor) -> np.ndarray:
        count = len(pixels)
        full = tf.pad(pixels, [[0, batch_size - count]] + [[0, 0]] * (len(pixels.shape) - 1))
        return np.asarray(answer(full))[:count]

    return forward


def feature_batches(features: Features, *, seed: int, epochs: range, batch_size: int) -> tf.data.Dataset:
    """Returns (features, targets, loss weights) for the epochs, one after the other, one view of each image an epoch.

    The order and the views are pure functions of (seed, epoch).
    """
    views, count = features.values.shape[:2]
    flat = features.values.reshape(views * count, *features.values.shape[2:])
    targets = features.images.targets
    weights = targets @ features.images.weights

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for epoch in epochs:
            order = epoch_order(count, seed, tf.constant(epoch)).numpy()
            view = tf.random.stateless_uniform([count], (seed, epoch), maxval=views, dtype=tf.int32).numpy()
            for start in range(0, count, batch_size):
                rows = order[start : start + batch_size]
                yield flat[view[rows] * count + rows], targets[rows], weights[rows]

    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), tf.float32) for array in (flat, targets, weights))
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(2)
