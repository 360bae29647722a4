"""From what is wanted to what is there: missing rows are computed, once, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.errors import DataError, ModelError
from pipeline.progress import Progress
from pipeline.space import in_words, writing
from pipeline.train.bank.features import BankedFeatures, ComputedFeatures, Features
from pipeline.train.bank.keys import network_digest, row_keys, trunk_description, view_description, view_keys
from pipeline.train.bank.shelf import KEY, Keys, Places, Rows, Shelf, Writer
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import Images, InputSpec, check_unchanged, chosen_batches, view_seeds
from pipeline.train.extraction import Forward, Speedometer, expected, measure_speed, padded_forward

#: Rows, and bytes, that are computed before they are committed: what a killed process loses at most.
CHUNK_ROWS, CHUNK_BYTES = 64, 32 * 2**20


@dataclass(frozen=True)
class Wanted:
    """Images whose features are wanted: as they are, and `kept` augmented views of each."""

    images: Images
    kept: int = 0


@dataclass(frozen=True)
class Lower:
    """Features at a lower cut, from which those of another bank follow without a look at the pixels.

    Attributes:
        cut: Its name.
        upper: Features there -> features here.
        features: Of the same sets of images and views.
    """

    cut: str
    upper: keras.Model
    features: Sequence[BankedFeatures]

    def batches(self, missing: _Missing, batch_size: int) -> Iterator[np.ndarray]:
        """Yields the rows of what is missing, in its order."""
        ends = np.cumsum([len(of.images) for of in self.features])
        for start in range(0, len(missing.keys), batch_size):
            images, numbers = (of[start : start + batch_size] for of in (missing.rows, missing.numbers))
            sets = np.searchsorted(ends, images, side="right")
            rows = np.empty((len(images), *self.upper.input_shape[1:]), np.float32)
            for number in np.unique(sets):
                where, features = sets == number, self.features[number]
                rows[where] = features.take(images[where] - (ends[number] - len(features.images)), numbers[where])
            yield rows


@dataclass(frozen=True)
class _Found:
    """What the two shelves hold of what is wanted, set by set.

    Attributes:
        plain, views: The rows of both shelves.
        places: `(N,)` and `(K, N)` for each set; -1 where a row is missing.
    """

    plain: Rows
    views: Rows
    places: Sequence[tuple[Places, Places]]

    def files(self) -> set[Path]:
        """Returns the index files of the segments that are used."""
        used: set[Path] = set()
        for plain, views in self.places:
            used |= self.plain.files(plain) | self.views.files(views)
        return used


@dataclass(frozen=True)
class _Missing:
    """What must be computed: some views of each image, image by image.

    Attributes:
        images: All images of all sets.
        views: For each image the numbers of its views that are missing, 0 for the image as it is.
        keys: Of all these, one after the other.
        numbers: Likewise, the view's number.
        rows: Likewise, the image's number.
    """

    images: Images
    views: Sequence[Sequence[int]]
    keys: Keys
    numbers: np.ndarray
    rows: np.ndarray


class Bank:
    """The features of one trunk: two shelves, of images as they are and of augmented views.

    Args:
        store: Where they are kept.
        trunk: Raw pixels -> features.
        spec: What the trunk takes.
        policy: Makes an augmented view of an image.
        batch_size: The one that is always computed.
        dtype: Of augmented views on disk; images as they are, which are evaluated too, always have float32.
        title: Names backbone and cut, for people.
        lower: What to compute from instead of from pixels, if there is such.

    Attributes:
        forward_passes: Images passed through the trunk so far, an augmented view counted as an image. Features that
            follow from those at a lower cut are not counted again.
    """

    def __init__(
        self, store: FeatureStore, trunk: keras.Model, spec: InputSpec, policy: Policy, *, batch_size: int,
        dtype: str, title: str, lower: Lower | None = None,
    ) -> None:  # fmt: skip
        self._store, self._spec, self._policy, self._batch_size = store, spec, policy, batch_size
        self._lower, self._trunk = lower, trunk
        # Where a graph is parted decides which of its operations are fused, and so the last bits of an answer.
        parted = network_digest(lower.upper) if lower else None
        common = trunk_description(trunk, spec, batch_size=batch_size) | {"title": title, "parted": parted}
        plain = common | {"dtype": "float32", "policy": None, "transforms": []}
        views = common | view_description(policy, dtype)
        self._descriptions = (plain, views)
        self._shelves: tuple[Shelf, Shelf] = (store.shelf(plain), store.shelf(views))
        self.forward_passes = 0

    def open(self, wanted: Sequence[Wanted], progress: Progress, title: str) -> list[Features]:
        """Returns the features of each set, from the bank; computed batch by batch where the bank cannot hold them.

        Which of the two makes no difference to the rows but for float16 and, where there is a `lower`, the last bits.
        One line says what is to be done, with a speed that is measured on the first batches, and why.

        Raises:
            DataError: A file is not what it was at ingest, or somebody deleted the bank meanwhile.
            ModelError: A feature is too large for float16.
        """
        keys = [self._keys(of) for of in wanted]
        found = self._find(keys)
        missing = self._missing(wanted, keys, found)
        reason = self._store.missing_room(self._bytes(missing), self._bytes_there(found), found.files())
        what = _in_words(title, wanted)
        if not len(missing.keys):
            progress.say(f"{what}; 0 forward passes, the bank has them all")
        elif not reason:
            filled = self._fill(wanted, keys, found, progress, title)
            reason, found = (filled, found) if isinstance(filled, str) else (None, filled)
        if reason:
            return self._computed(wanted, progress, f"{what}; live, since {reason}")
        self._store.use(found.files())
        sets = zip(wanted, found.places, strict=True)
        return [BankedFeatures(of.images, found.plain, plain, found.views, views) for of, (plain, views) in sets]

    def lacking(self, wanted: Sequence[Wanted]) -> tuple[int, int, str | None]:
        """Returns how many rows `open` would compute, their bytes, and why they would not be kept, None if they would.

        Rows that were damaged on the disk are not looked for: that takes as long as reading them.
        """
        keys = [self._keys(of) for of in wanted]
        plain, views = (shelf.open() for shelf in self._shelves)
        found = _Found(plain, views, [(plain.find(of_plain), views.find(of_views)) for of_plain, of_views in keys])
        missing = self._missing(wanted, keys, found)
        size = self._bytes(missing)
        return len(missing.keys), size, self._store.missing_room(size, self._bytes_there(found), found.files())

    def _keys(self, wanted: Wanted) -> tuple[Keys, Keys]:
        """Returns the keys `(N,)` of the images and `(K, N)` of their views."""
        contents, numbers = wanted.images.contents, np.arange(1, wanted.kept + 1)
        seeds = view_seeds(tf.constant(wanted.images.seeds)[None], tf.constant(numbers)[:, None]).numpy()
        return row_keys(contents), view_keys(contents, self._policy, seeds)

    def _find(self, keys: Sequence[tuple[Keys, Keys]], before: _Found | None = None) -> _Found:
        """Returns what there is; rows that were damaged on the disk do not count.

        What was found `before` is not looked at again.
        """
        plain, views = (shelf.open() for shelf in self._shelves)
        known = [tuple(of >= 0 for of in both) for both in before.places] if before else [(None, None)] * len(keys)
        places = [
            (plain.find_intact(of_plain, sound), views.find_intact(of_views, sound_views))
            for (of_plain, of_views), (sound, sound_views) in zip(keys, known, strict=True)
        ]
        return _Found(plain, views, places)

    def _missing(self, wanted: Sequence[Wanted], keys: Sequence[tuple[Keys, Keys]], found: _Found) -> _Missing:
        """Returns what there is not, each key once though two images may be equal."""
        views: list[list[int]] = []
        entries: list[tuple[bytes, int, int]] = []
        seen: set[bytes] = set()
        for of_keys, of_places in zip(keys, found.places, strict=True):
            both = np.concatenate([of_keys[0][None], of_keys[1]])  # (1 + K, N)
            absent = np.concatenate([of_places[0][None], of_places[1]]) < 0
            for image in range(both.shape[1]):
                todo = [view for view in np.flatnonzero(absent[:, image]).tolist() if both[view, image] not in seen]
                seen.update(both[view, image] for view in todo)
                entries += [(both[view, image], view, len(views)) for view in todo]
                views.append(todo)
        images = _joined([of.images for of in wanted])
        of_rows, numbers, rows = zip(*entries, strict=True) if entries else ((), (), ())
        return _Missing(images, views, np.array(of_rows, KEY), np.array(numbers, int), np.array(rows, int))

    def _bytes(self, missing: _Missing) -> int:
        plain, views = self._shelves
        count = int((missing.numbers > 0).sum())
        return views.size_of(count) + plain.size_of(len(missing.keys) - count)

    def _bytes_there(self, found: _Found) -> int:
        there = [sum(int((of >= 0).sum()) for of in both) for both in zip(*found.places, strict=True)]
        return sum(shelf.size_of(count) for shelf, count in zip(self._shelves, there, strict=True))

    def _fill(
        self, wanted: Sequence[Wanted], keys: Sequence[tuple[Keys, Keys]], found: _Found, progress: Progress, title: str
    ) -> _Found | str:
        """Computes what is missing while no other process does; returns what there is then, or why it cannot be."""

        def on_wait() -> None:
            progress.say(f"{title}: another process computes features of the same layers; waiting for it")

        # The plain shelf first, always: two processes must not wait for each other.
        with self._shelves[0].filling(on_wait) as plain, self._shelves[1].filling(on_wait) as views:
            found = self._find(keys, found)
            missing = self._missing(wanted, keys, found)
            size = self._bytes(missing)
            reason = self._store.make_room(size, found.files(), self._shelves)
            if reason:
                return reason

            def line(rate: float) -> str:
                what = f"from {self._lower.cut}" if self._lower else "forward passes"
                passes = f"{len(missing.keys):,} {what}{expected(len(missing.keys), rate)}"
                return f"{_in_words(title, wanted)}; {passes}; {in_words(size)} more in the bank"

            if size:
                with writing(self._store.root, size):
                    self._compute(missing, (plain, views), progress, title, line)
            found = self._find(keys, found)
        if any((places < 0).any() for of in found.places for places in of):
            raise DataError(f"features vanished from {self._store.root} while they were computed; run the stage again")
        return found

    def _compute(
        self, missing: _Missing, writers: Sequence[Writer], progress: Progress, title: str,
        line: Callable[[float], str],
    ) -> None:  # fmt: skip
        pending: list[np.ndarray] = []
        done = committed = 0
        clock = Speedometer(lambda rate: progress.say(line(rate)))
        forward, batches = self._source(missing)
        with progress.bar(title, len(missing.keys)) as bar:
            for inputs in batches:
                pending.append(forward(inputs))
                done += len(pending[-1])
                last = done == len(missing.keys)
                clock.count(len(pending[-1]), last)
                if last or done - committed >= CHUNK_ROWS or sum(rows.nbytes for rows in pending) >= CHUNK_BYTES:
                    self._commit(missing, slice(committed, done), np.concatenate(pending), writers)
                    pending, committed = [], done
                self.forward_passes += 0 if self._lower else len(inputs)
                bar.advance(len(inputs))

    def _source(self, missing: _Missing) -> tuple[Forward, Iterable[Any]]:
        """Returns what computes features, and batches of what it computes them from."""
        if self._lower:
            return padded_forward(self._lower.upper, self._batch_size), self._lower.batches(missing, self._batch_size)
        pixels = chosen_batches(missing.images, self._spec, self._policy, missing.views, self._batch_size)
        return padded_forward(self._trunk, self._batch_size), pixels

    def _commit(self, missing: _Missing, chunk: slice, rows: np.ndarray, writers: Sequence[Writer]) -> None:
        if not self._lower:
            check_unchanged(missing.images, sorted(set(missing.rows[chunk].tolist())))
        augmented = missing.numbers[chunk] > 0
        parts = zip(writers, self._shelves, self._descriptions, (~augmented, augmented), strict=True)
        for writer, shelf, description, which in parts:
            if not which.any():
                continue
            # Infinite or not: a number that float16 turns into infinity would be a wrong row.
            if shelf.dtype == np.float16 and np.abs(rows[which]).max() > np.finfo(np.float16).max:
                raise ModelError("features are too large for float16; set train.bank.dtype=float32")
            self._store.describe(shelf, description)
            writer.commit(missing.keys[chunk][which], rows[which])

    def _computed(self, wanted: Sequence[Wanted], progress: Progress, line: str) -> list[Features]:
        for of in wanted:
            check_unchanged(of.images, range(len(of.images)))
        forward = padded_forward(self._trunk, self._batch_size)
        rate = measure_speed(forward, self._spec, self._batch_size)
        views = sum(len(of.images) for of in wanted)
        progress.say(f"{line}; {views:,} forward passes an epoch{expected(views, rate)}")
        return [
            ComputedFeatures(
                of.images, of.kept, self._spec, self._policy, forward, self._batch_size, self._count
            )
            for of in wanted
        ]  # fmt: skip

    def _count(self, images: int) -> None:
        self.forward_passes += images


def _joined(images: Sequence[Images]) -> Images:
    """Returns all images of some sets, without their targets."""
    nothing = np.zeros((sum(map(len, images)), 0), np.float32)
    return Images(
        [path for of in images for path in of.paths], [content for of in images for content in of.contents],
        np.concatenate([of.seeds for of in images]), nothing, nothing[:0],
    )  # fmt: skip


def _in_words(title: str, wanted: Sequence[Wanted]) -> str:
    images = sum(len(of.images) for of in wanted)
    views = sum(len(of.images) * (1 + of.kept) for of in wanted)
    return f"{title}: {images:,} images, {views:,} views"
