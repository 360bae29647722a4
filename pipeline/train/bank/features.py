"""What a trunk answers for images and their views, from a bank or computed anew: the same rows in the same order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.train.bank.shelf import Places, Rows
from pipeline.train.dataset import Images, InputSpec, epoch_order, epoch_views, live_batches, untuned, view_batches
from pipeline.train.extraction import Forward

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]

#: Of validation features that are handed out at once.
VALIDATION_BYTES = 32 * 2**20


class Features(Protocol):
    """What a trunk answers for N images: the images as they are and, of training images, K augmented views."""

    @property
    def images(self) -> Images:
        """The N images."""

    @property
    def plain_batch(self) -> int:
        """The size of the batches that `plain` yields."""

    def epochs(self, seed: int, epochs: range, batch_size: int, done: int = 0) -> Iterator[Batch]:
        """Yields (features, targets, loss weights) for the epochs, one view of each image an epoch.

        Orders and views are pure functions of (seed, epoch): `epoch_order` and `epoch_views`. The first epoch is
        without the `done` batches at its start.
        """

    def plain(self) -> Iterator[np.ndarray]:
        """Yields the features of all images as they are, in their order, in batches of `plain_batch`."""


@dataclass(frozen=True)
class BankedFeatures:
    """Rows of a bank.

    Attributes:
        images: N images.
        plain_rows: Rows of images as they are.
        plain_places: `(N,)` into them.
        view_rows: Rows of augmented views.
        view_places: `(K, N)` into them.
    """

    images: Images
    plain_rows: Rows
    plain_places: Places
    view_rows: Rows
    view_places: Places

    @property
    def plain_batch(self) -> int:
        """As many as fill some memory."""
        return max(1, VALIDATION_BYTES // max(1, self.plain_rows.row_bytes))

    def take(self, images: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Returns a row for each pair of an image's number and a view's, `(B, ...)` float32."""
        plain = views == 0
        rows = np.empty((len(images), *self.plain_rows.shape), np.float32)
        rows[plain] = self.plain_rows.take(self.plain_places[images[plain]])
        rows[~plain] = self.view_rows.take(self.view_places[views[~plain] - 1, images[~plain]])
        return rows

    def epochs(self, seed: int, epochs: range, batch_size: int, done: int = 0) -> Iterator[Batch]:
        """Yields as the protocol says; nothing is computed."""
        count, kept = len(self.images), len(self.view_places)
        targets = self.images.targets
        weights = targets @ self.images.weights
        for epoch in epochs:
            order = epoch_order(count, seed, tf.constant(epoch)).numpy()
            views = epoch_views(count, seed, tf.constant(epoch), kept).numpy()[order]
            for start in range(done * batch_size if epoch == epochs.start else 0, count, batch_size):
                rows = order[start : start + batch_size]
                yield self.take(rows, views[start : start + batch_size]), targets[rows], weights[rows]

    def plain(self) -> Iterator[np.ndarray]:
        """Yields as the protocol says."""
        for start in range(0, len(self.images), self.plain_batch):
            yield self.plain_rows.take(self.plain_places[start : start + self.plain_batch])


@dataclass(frozen=True)
class ComputedFeatures:
    """The rows that a bank would hold, computed whenever they are asked for: slow, and no larger than a batch.

    Attributes:
        images: N images.
        kept: K, how many augmented views there are of each.
        spec, policy: How pixels are made.
        forward: Pixels -> features, of up to `batch_size`.
        batch_size: The one that is always computed.
        on_pass: Told of each number of images that were passed through.
    """

    images: Images
    kept: int
    spec: InputSpec
    policy: Policy
    forward: Forward
    batch_size: int
    on_pass: Callable[[int], None] = lambda count: None

    @property
    def plain_batch(self) -> int:
        """The one that is always computed."""
        return self.batch_size

    def epochs(self, seed: int, epochs: range, batch_size: int, done: int = 0) -> Iterator[Batch]:
        """Yields as the protocol says."""
        batches = live_batches(
            self.images, self.spec, self.policy, seed=seed, epochs=epochs, batch_size=batch_size, kept=self.kept,
            done=done,
        )  # fmt: skip
        for pixels, targets, weights in batches:
            parts = range(0, len(pixels), self.batch_size)
            rows = [self._pass(pixels[start : start + self.batch_size]) for start in parts]
            yield np.concatenate(rows), targets.numpy(), weights.numpy()

    def plain(self) -> Iterator[np.ndarray]:
        """Yields as the protocol says."""
        for pixels in view_batches(self.images, self.spec, Policy(), 0, self.batch_size):
            yield self._pass(pixels)

    def _pass(self, pixels: tf.Tensor) -> np.ndarray:
        rows = self.forward(pixels)
        self.on_pass(len(rows))
        return rows


def feature_batches(
    features: Features, shape: tuple[int, ...], *, seed: int, epochs: range, batch_size: int, done: int = 0
) -> tf.data.Dataset:
    """Returns `features.epochs(...)` as a data set of float32; `shape` is that of one row."""
    targets = features.images.targets
    signature = tuple(tf.TensorSpec((None, *of), tf.float32) for of in (shape, targets.shape[1:], ()))
    data = tf.data.Dataset.from_generator(
        lambda: features.epochs(seed, epochs, batch_size, done), output_signature=signature
    )
    return untuned(data.prefetch(2))


def plain_batches(features: Features, shape: tuple[int, ...]) -> tf.data.Dataset:
    """Returns (features, targets) of the images as they are, in their order, as a data set of float32."""
    targets = features.images.targets

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        row = 0
        for values in features.plain():
            yield values, targets[row : row + len(values)]
            row += len(values)

    signature = tuple(tf.TensorSpec((None, *of), tf.float32) for of in (shape, targets.shape[1:]))
    if isinstance(features, BankedFeatures) and len(targets) <= features.plain_batch:
        return tf.data.Dataset.from_tensors(next(batches()))  # small: no need to go through it anew in every epoch
    data = untuned(tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(1))
    # Keras takes a data set whose length it must guess for one that ended too early.
    return data.apply(tf.data.experimental.assert_cardinality(math.ceil(len(targets) / features.plain_batch)))
