"""From manifest rows to batches of pixels, in an order and with augmentation that are pure functions of their seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.config import Resize
from pipeline.errors import DataError
from pipeline.files import keyed_seed
from pipeline.images.graph import decode_image
from pipeline.ingest.manifest import Manifest

#: Odd, so that multiplying by it permutes the 64-bit integers (Weyl sequence); spreads neighbouring view numbers.
_STRIDE = -7046029254386353131


@dataclass(frozen=True)
class InputSpec:
    """What a network takes: `(H, W)` in pixels, the number of channels, and how a picture is brought to that size."""

    image_size: tuple[int, int]
    channels: int
    resize: Resize = "stretch"

    def decode(self, contents: tf.Tensor) -> tf.Tensor:
        """Returns an encoded image's pixels, `(H, W, C)` float32 in [0, 255]."""
        return decode_image(contents, self.image_size, self.channels, self.resize)


@dataclass(frozen=True)
class Images:
    """Images of one split with their targets.

    Attributes:
        paths: N files.
        seeds: `(N,)` int64, made from each image's content: the root of its augmented views.
        targets: `(N, C)` float32.
        weights: `(C,)` float32, the loss weight of each class.
    """

    paths: Sequence[str]
    seeds: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.paths)


def load_images(manifest: Manifest, targets: np.ndarray, weights: np.ndarray, view_seed: int) -> Images:
    """Returns the images of manifest rows, `targets` in the same order."""
    seeds = np.array([keyed_seed(view_seed, digest) for digest in manifest.column("sha256")], dtype=np.int64)
    return Images(manifest.column("path"), seeds, targets, weights)


def view_seeds(seeds: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Returns the augmentation seed of each image's view, `(N,)` int64 >= 0; the same for equal content and view."""
    mixed = tf.bitwise.bitwise_xor(seeds, tf.cast(view, tf.int64) * tf.constant(_STRIDE, tf.int64))
    return tf.bitwise.bitwise_and(mixed, tf.constant(2**63 - 1, tf.int64))


def epoch_order(count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns a permutation of `range(count)` as int64, a pure function of (seed, epoch)."""
    return tf.random.experimental.stateless_shuffle(
        tf.range(count, dtype=tf.int64), seed=(seed, tf.cast(epoch, tf.int64))
    )


def view_batches(images: Images, spec: InputSpec, policy: Policy, view: int, batch_size: int) -> tf.data.Dataset:
    """Returns batches of one view of every image, in their order: `(B, H, W, C)` float32 in [0, 255].

    View 0 is the image as it is; any other is its augmentation by that number.
    """
    rows = tf.data.Dataset.from_tensor_slices((list(images.paths), images.seeds))
    batches = rows.map(_reader(spec), tf.data.AUTOTUNE, deterministic=True).batch(batch_size)
    augment = _augmenter(spec, policy if view else Policy())
    return batches.map(lambda pixels, seeds: augment(pixels, seeds, view), 2, deterministic=True).prefetch(2)


def live_batches(
    images: Images, spec: InputSpec, policy: Policy, *, seed: int, epochs: range, batch_size: int
) -> tf.data.Dataset:
    """Returns (pixels, targets, loss weights) for the epochs, one after the other, each image once an epoch.

    Order and views are fresh in every epoch: epoch `e` shows view `e + 1`. A batch never crosses into the next epoch.
    """
    paths, seeds = tf.constant(list(images.paths)), tf.constant(images.seeds)
    targets, weights = tf.constant(images.targets), tf.constant(images.weights)
    read, augment = _reader(spec), _augmenter(spec, policy)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices(epoch_order(len(images), seed, epoch))
        pixels = rows.map(
            lambda row: (*read(paths[row], seeds[row]), targets[row]), tf.data.AUTOTUNE, deterministic=True
        )
        return pixels.batch(batch_size).map(
            lambda pixels, roots, wanted: (
                augment(pixels, roots, epoch + 1), wanted, tf.linalg.matvec(wanted, weights)
            ),
            2,
            deterministic=True,
        )  # fmt: skip

    return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch).prefetch(2)


@contextmanager
def naming_bad_images(paths: Sequence[str]) -> Iterator[None]:
    """Turns TensorFlow's error over an image that it cannot decode into one that says which.

    Pillow reads a few damaged files that TensorFlow refuses, so ingest lets them through.

    Raises:
        DataError: One of `paths` cannot be decoded, or has vanished.
    """
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        for path in paths:
            try:
                decode_image(tf.io.read_file(path), (8, 8), 3)
            except tf.errors.NotFoundError as error:
                raise DataError(f"{path} was there at ingest and is not now; run all stages anew") from error
            except tf.errors.InvalidArgumentError as error:
                raise DataError(f"{path} cannot be decoded by TensorFlow; save it anew or take it out") from error
        raise


def preview_images(manifest: Manifest, spec: InputSpec, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Returns up to `count` images, `(H, W, C)` uint8 as the network would see them, and their labels.

    Spread over the classes: the first image of each class, then the second of each.
    """
    seen: dict[str, int] = {}
    rank = []
    for label in manifest.column("label"):
        seen[label] = seen.get(label, 0) + 1
        rank.append(seen[label])
    rows = sorted(range(len(manifest)), key=lambda row: rank[row])[:count]
    paths, labels = manifest.column("path"), manifest.column("label")
    with naming_bad_images([paths[row] for row in rows]):
        pixels = [spec.decode(tf.io.read_file(paths[row])) for row in rows]
    return [tf.cast(tf.round(image), tf.uint8).numpy() for image in pixels], [labels[row] for row in rows]


def _reader(spec: InputSpec) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    def read(path: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return spec.decode(tf.io.read_file(path)), seed

    return read


def _augmenter(spec: InputSpec, policy: Policy) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a graph function (pixels, seeds, view) -> pixels of the same shape, float32 in [0, 255]."""
    shape = (None, *spec.image_size, spec.channels)

    def augment(pixels: tf.Tensor, seeds: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
        if not policy:
            return pixels
        # One call a batch: a call an image costs as much as the augmentation itself.
        whole = tf.cast(tf.round(pixels), tf.uint8)
        changed = tf.numpy_function(policy.apply_batch, (whole, view_seeds(seeds, view)), tf.uint8, stateful=False)
        return tf.ensure_shape(tf.cast(changed, tf.float32), shape)

    return augment
