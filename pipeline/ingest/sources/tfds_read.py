"""The examples of a prepared TFDS data set, as files of the content store and an index of them."""

from __future__ import annotations

import itertools
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError, one_line
from pipeline.files import atomic_path, text_digest
from pipeline.ingest.store import ContentStore
from pipeline.progress import Progress

#: How an encoded image begins, and the ending that fits.
SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF8": ".gif", b"BM": ".bmp"}

#: Images that leave TensorFlow at once: few calls, and little memory even for large photographs.
BATCH = 64

#: Counts up when ids, paths or columns of the index change their form.
INDEX_VERSION = "1"
SCHEMA = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("bytes", pa.int64()), ("label", pa.string()), ("split", pa.string())]
)


class Part(NamedTuple):
    """One of its splits, or slices of them, in TFDS' words, and which of ours it stands for; None leaves it open."""

    spec: str
    split: str | None


class Row(NamedTuple):
    """An example: its id, its file relative to the store, the file's size, its label and the split it was read for."""

    id: str
    file: str
    bytes: int
    label: str
    split: str | None


class _Features(NamedTuple):
    image: str
    label: str
    names: tuple[str, ...]


def load_index(folder: Path, parts: Sequence[Part], store: ContentStore) -> list[Row] | None:
    """Returns what `read_examples` returned earlier, None where the data set's files or the images have changed."""
    try:
        table = pq.read_table(_index_path(folder, parts, store), schema=SCHEMA)
        rows = [Row(*values) for values in zip(*(column.to_pylist() for column in table.columns), strict=True)]
        whole = all(os.stat(f"{store.root}/{row.file}").st_size == row.bytes for row in rows)
    except (OSError, pa.ArrowException):
        return None
    return rows if rows and whole else None


def read_examples(
    folder: Path, parts: Sequence[Part], store: ContentStore, progress: Progress, title: str
) -> list[Row]:
    """Returns the examples of a prepared data set ordered by id, their images and an index of them in the store.

    Args:
        folder: The prepared data set.
        parts: What is read of it.
        store: Takes the images, encoded as they are.
        progress: Told how many examples were read.
        title: The data set's name, for people.

    Raises:
        DataError: The data set is damaged, or not one of labelled images, or two parts share examples.
    """
    index = _index_path(folder, parts, store)  # before the reading: what changes meanwhile makes it another
    with _quiet():
        rows = _read(folder, parts, store, progress, title)
    with atomic_path(index) as draft:
        pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA), draft)
    return rows


def _index_path(folder: Path, parts: Sequence[Part], store: ContentStore) -> Path:
    """Returns a path that depends on what is read and on the data set's files as the file system knows them."""
    stats = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    files = sorted(f"{name}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}" for name, stat in stats)
    read = [f"{part.spec}\x1f{part.split}" for part in parts]
    return store.root / "tfds" / f"{text_digest(INDEX_VERSION, str(folder.resolve()), *read, *files)}.parquet"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what TensorFlow and TFDS warn of and log; what matters comes as an error."""
    from absl import logging as absl_logging  # sets the level of its logger when it loads

    loggers = [absl_logging.get_absl_logger(), logging.getLogger("tensorflow")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _read(folder: Path, parts: Sequence[Part], store: ContentStore, progress: Progress, title: str) -> list[Row]:
    import tensorflow_datasets as tfds

    rows: list[Row] = []
    try:
        builder = tfds.builder_from_directory(folder)
        features = _find_features(builder.info, title)
        total = _check_parts(builder.info, parts, title)
        origins = {file: name for name, split in builder.info.splits.items() for file in split.filenames}
        with progress.bar(f"read {title}", total) as bar:
            for part in parts:
                for batch in _batches(builder, part.spec, features):
                    rows += _store_batch(batch, part, features, origins, store)
                    bar.advance(len(batch["tfds_id"]))
    except DataError:
        raise
    except Exception as error:  # on damaged files TensorFlow, protobuf and TFDS raise what they like
        raise DataError(
            f"{folder} cannot be read by TFDS ({one_line(error)}); take the folder away and prepare it anew"
        ) from error
    return sorted(rows)


def _batches(builder: Any, spec: str, features: _Features) -> Iterator[Mapping[str, Any]]:
    """Yields NumPy arrays of encoded images, class ids and TFDS' ids under the features' names and `tfds_id`."""
    import tensorflow_datasets as tfds

    wanted = {features.image: True, features.label: True}
    decoders = tfds.decode.PartialDecoding(wanted, decoders={features.image: tfds.decode.SkipDecoding()})
    config = tfds.ReadConfig(add_tfds_id=True, try_autocache=False)
    examples = builder.as_dataset(split=spec, decoders=decoders, read_config=config, shuffle_files=False)
    yield from examples.batch(BATCH).as_numpy_iterator()


def _store_batch(
    batch: Mapping[str, Any], part: Part, features: _Features, origins: Mapping[str, str], store: ContentStore
) -> list[Row]:
    rows = []
    top = os.path.abspath(store.root)
    for image, label, key in zip(batch[features.image], batch[features.label], batch["tfds_id"], strict=True):
        id = key.decode()
        if not 0 <= label < len(features.names):
            raise DataError(
                f"{id} has no label ({label}); leave out its split {part.spec}: "
                "ingest.tfds.train, .validation and .test name what is read"
            )
        path = store.put(image, _suffix(image))
        origin = origins.get(id.rpartition("__")[0], part.spec)
        rows.append(Row(f"{origin}/{id}", os.path.relpath(path, top), len(image), features.names[label], part.split))
    return rows


def _suffix(image: bytes) -> str:
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for signature, suffix in SIGNATURES.items() if image.startswith(signature)), ".bin")


def _find_features(info: Any, title: str) -> _Features:
    """Returns which features are the image and its label: the supervised pair, else the only ones of their kind."""
    import tensorflow_datasets as tfds

    # Sorted, since a prepared data set gives them in any order.
    kinds = dict(sorted(info.features.items())) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    # A LabeledImage is a mask of classes, not a picture.
    images = [key for key, kind in kinds.items() if type(kind) is tfds.features.Image]
    labels = [key for key, kind in kinds.items() if isinstance(kind, tfds.features.ClassLabel)]
    match info.supervised_keys:
        case (image, label) if image in images and label in labels:
            images, labels = [image], [label]
    if len(images) != 1 or len(labels) != 1:
        listed = ", ".join(f"{key}: {type(kind).__name__}" for key, kind in kinds.items()) or str(info.features)
        raise DataError(
            f"{title} must have one Image with one ClassLabel, found {listed}; write its images as a folder"
        )
    depth = np.dtype(kinds[images[0]].np_dtype).name
    if depth not in ("uint8", "uint16"):
        raise DataError(f"{title} has images of {depth}, not of uint8 or uint16; write them as a folder")
    classes = kinds[labels[0]]
    return _Features(images[0], labels[0], tuple(classes.int2str(n) for n in range(classes.num_classes or 0)))


def _check_parts(info: Any, parts: Sequence[Part], title: str) -> int:
    """Returns how many examples the parts have together, none of them empty and no two with an example in common."""
    read: list[tuple[str, int, int, str]] = []
    for part in parts:
        try:
            instructions = info.splits[part.spec].file_instructions
        except Exception as error:  # its parser raises KeyError, ValueError and AssertionError, by the mistake
            raise DataError(
                f"{title} has no split {part.spec!r} ({one_line(error)}); a slice is train[:80%] or train[:1000]"
            ) from error
        own = [(one.filename, one.skip, one.skip + one.take, part.spec) for one in instructions]
        if not own:
            raise DataError(f"{title}: {part.spec} holds no examples; take a larger slice")
        read += own
    read.sort()
    for one, other in itertools.pairwise(read):
        if one[0] == other[0] and other[1] < one[2]:
            raise DataError(f"{title}: {one[3]} and {other[3]} share examples; take slices that do not overlap")
    return sum(end - start for _, start, end, _ in read)
