"""From manifest rows to batches of pixels, in an order and with augmentation that are pure functions of their seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.config import Resize
from pipeline.errors import DataError
from pipeline.files import file_digest, keyed_seed
from pipeline.images.graph import decode_image
from pipeline.ingest.manifest import Manifest
from pipeline.progress import Progress

#: Odd, so that multiplying by it permutes the 64-bit integers (Weyl sequence); spreads neighbouring view numbers.
_STRIDE = -7046029254386353131

#: Bytes of decoded pixels up to which a set is kept in memory while its images are looked at again and again.
MEMORY_BYTES = 2**30

#: Images that are decoded at a time.
_CORES = os.cpu_count() or 2


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
        contents: SHA-256 of each file's bytes, in hex, as ingest saw them.
        seeds: `(N,)` int64, made from each image's content: the root of its augmented views.
        targets: `(N, C)` float32.
        weights: `(C,)` float32, the loss weight of each class.
    """

    paths: Sequence[str]
    contents: Sequence[str]
    seeds: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.paths)


def load_images(manifest: Manifest, targets: np.ndarray, weights: np.ndarray, view_seed: int) -> Images:
    """Returns the images of manifest rows, `targets` in the same order."""
    paths, digests = manifest.column("path"), manifest.column("sha256")
    seeds = np.array([keyed_seed(view_seed, digest) for digest in digests], dtype=np.int64)
    stored_anew = manifest.column("transcoded")  # such a file has the name of its own digest
    contents = [
        Path(path).stem if anew else digest for path, digest, anew in zip(paths, digests, stored_anew, strict=True)
    ]
    return Images(paths, contents, seeds, targets, weights)


def check_unchanged(images: Images, rows: Iterable[int]) -> None:
    """Looks whether files still hold what ingest saw in them.

    Raises:
        DataError: One does not, or is gone.
    """
    for row in rows:
        path = Path(images.paths[row])
        try:
            same = file_digest(path) == images.contents[row]
        except OSError:
            same = False
        if not same:
            raise DataError(f"{path} is not what it was at ingest; run all stages anew")


def view_seeds(seeds: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Returns the augmentation seeds of images' views, int64 >= 0, of the two shapes broadcast.

    They are the same for equal content and view.
    """
    mixed = tf.bitwise.bitwise_xor(seeds, tf.cast(view, tf.int64) * tf.constant(_STRIDE, tf.int64))
    return tf.bitwise.bitwise_and(mixed, tf.constant(2**63 - 1, tf.int64))


def epoch_order(count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns a permutation of `range(count)` as int64, a pure function of (seed, epoch)."""
    return tf.random.experimental.stateless_shuffle(
        tf.range(count, dtype=tf.int64), seed=(seed, tf.cast(epoch, tf.int64))
    )


def epoch_views(count: int, seed: int, epoch: tf.Tensor, kept: int | None) -> tf.Tensor:
    """Returns the view that an epoch shows of each image, `(count,)` int32, a pure function of (seed, epoch).

    One of the image itself and `kept` augmented views, or with None a view that no other epoch shows, `epoch + 1`.
    """
    if kept is None:
        return tf.fill([count], tf.cast(epoch, tf.int32) + 1)
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.stateless_uniform([count], key, maxval=kept + 1, dtype=tf.int32)


def decode_in_memory(images: Images, spec: InputSpec, progress: Progress) -> tf.Tensor | None:
    """Returns the pixels of all images, `(N, H, W, C)` float32 in [0, 255]; None if they exceed `MEMORY_BYTES`."""
    shape = (len(images), *spec.image_size, spec.channels)
    if 4 * math.prod(shape) > MEMORY_BYTES:
        return None
    pixels, row = np.empty(shape, np.float32), 0
    with progress.bar("decode", len(images)) as bar:
        for batch in view_batches(images, spec, Policy(), 0, 256):
            pixels[row : row + len(batch)] = batch
            row += len(batch)
            bar.advance(len(batch))
    return tf.constant(pixels)


def view_batches(images: Images, spec: InputSpec, policy: Policy, view: int, batch_size: int) -> tf.data.Dataset:
    """Returns batches of one view of every image, in their order: `(B, H, W, C)` float32 in [0, 255].

    View 0 is the image as it is; any other is its augmentation by that number.
    """
    return chosen_batches(images, spec, policy, np.full((len(images), 1), view), batch_size)


def chosen_batches(
    images: Images, spec: InputSpec, policy: Policy, views: Sequence[Sequence[int]] | np.ndarray, batch_size: int
) -> tf.data.Dataset:
    """Returns batches of some views of each image, image by image: `(B, H, W, C)` float32 in [0, 255].

    An image is decoded once for all of its views.
    """
    lengths = [len(wanted) for wanted in views]
    flat = np.array([view for wanted in views for view in wanted], np.int32)
    files = [path for path, length in zip(images.paths, lengths, strict=True) if length]
    pixels = tf.data.Dataset.from_tensor_slices(files or np.empty(0, str)).map(
        _reader(spec), _CORES, deterministic=True
    )
    seeds = np.repeat(images.seeds, lengths)
    if any(length > 1 for length in lengths):
        pixels = tf.data.Dataset.zip(pixels, tf.data.Dataset.from_tensor_slices(np.array(list(filter(None, lengths)))))
        pixels = pixels.flat_map(lambda image, length: tf.data.Dataset.from_tensors(image).repeat(length))
    rows = tf.data.Dataset.zip(pixels, *map(tf.data.Dataset.from_tensor_slices, (seeds, flat)))
    augment = _augmenter(spec, policy if flat.any() else Policy())
    return untuned(rows.batch(batch_size).map(augment, 2, deterministic=True).prefetch(2))


def live_batches(
    images: Images, spec: InputSpec, policy: Policy, *, seed: int, epochs: range, batch_size: int,
    kept: int | None = None, decoded: tf.Tensor | None = None, done: int = 0,
) -> tf.data.Dataset:  # fmt: skip
    """Returns (pixels, targets, loss weights) for the epochs, one after the other, each image once an epoch.

    The order is fresh in every epoch, the views are those of `epoch_views`. A batch never crosses into the next epoch.
    The first epoch is without the `done` batches at its start, which are not decoded either.
    What is `decoded` already is not decoded in every epoch; it makes no difference to the batches.
    """
    paths, seeds = tf.constant(list(images.paths)), tf.constant(images.seeds)
    targets, weights = tf.constant(images.targets), tf.constant(images.weights)
    read, augment = _reader(spec), _augmenter(spec, policy)

    @tf.autograph.experimental.do_not_convert
    def finish(pixels: tf.Tensor, rows: tf.Tensor, views: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        wanted = tf.gather(targets, rows)
        return augment(pixels, tf.gather(seeds, rows), views), wanted, tf.linalg.matvec(wanted, weights)

    @tf.autograph.experimental.do_not_convert
    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = epoch_order(len(images), seed, epoch)
        rows = tf.data.Dataset.from_tensor_slices(
            (order, tf.gather(epoch_views(len(images), seed, epoch, kept), order))
        ).skip(done * batch_size * tf.cast(tf.equal(epoch, epochs.start), tf.int64))
        if decoded is None:
            pixels = rows.map(lambda row, view: (read(paths[row]), row, view), _CORES, deterministic=True)
            return pixels.batch(batch_size).map(finish, 2, deterministic=True)
        return rows.batch(batch_size).map(
            lambda rows, views: finish(tf.gather(decoded, rows), rows, views), 2, deterministic=True
        )

    return untuned(tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch).prefetch(2))


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the batches without TensorFlow's search for better numbers of threads while they are read.

    All numbers are given here; and an iterator that ends waits for the thread that searches, every other time for more
    than a second and a half (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


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


def _reader(spec: InputSpec) -> Callable[[tf.Tensor], tf.Tensor]:
    # Nothing to convert: the graph has no Python conditions, and looking for some takes a second in every process.
    return tf.autograph.experimental.do_not_convert(lambda path: spec.decode(tf.io.read_file(path)))


def _augmenter(spec: InputSpec, policy: Policy) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a graph function (pixels, seeds, views) -> pixels, both float32 in [0, 255]; those of view 0 stay."""
    shape = (None, *spec.image_size, spec.channels)

    def apply(pixels: np.ndarray, seeds: np.ndarray, views: np.ndarray) -> np.ndarray:
        changed = pixels.copy()
        rows = np.flatnonzero(views)
        changed[rows] = policy.apply_batch(np.rint(pixels[rows]).astype(np.uint8), seeds[rows])
        return changed

    @tf.autograph.experimental.do_not_convert
    def augment(pixels: tf.Tensor, seeds: tf.Tensor, views: tf.Tensor) -> tf.Tensor:
        if not policy:
            return pixels
        # One call a batch: a call an image costs as much as the augmentation itself.
        changed = tf.numpy_function(apply, (pixels, view_seeds(seeds, views), views), tf.float32, stateful=False)
        return tf.ensure_shape(changed, shape)

    return augment
