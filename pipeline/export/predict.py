"""Predictions from an export alone: nothing of the run, the recipe or the Keras model is read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from pipeline.errors import DataError, ExportError
from pipeline.export.foreign import require_harmless
from pipeline.export.urls import read_url
from pipeline.images.headers import is_plain_jpeg, quiet_pillow, read_contents
from pipeline.images.pixels import encode_png, read_picture

#: Input of the default signature: `(B,)` strings, each an encoded image.
BYTES = "image_bytes"

#: Threads that read files, and batches that are asked at the same time: while one is decoded another is in the network.
_READERS, _ASKERS = 2, 2

#: Threads that read URLs: what they do is wait.
_FETCHERS = 16

#: Images that are asked at a time. The last bits of an answer change with it.
BATCH_SIZE = 16

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Prediction:
    """What the model says of one file; `error` is set, and the rest empty, where it could not be read.

    `confident` says whether the model stands by the label: its probability reaches the threshold of the export.
    """

    path: str
    label: str
    probability: float | None
    probabilities: Mapping[str, float]
    confident: bool | None = None
    error: str | None = None

    def top(self, k: int) -> list[tuple[str, float]]:
        """Returns the k likeliest labels with their probabilities, the likeliest first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:k]

    def document(self) -> dict[str, Any]:
        """Returns the fields as a JSON object, in the form `predict --json` promises."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
            "confident": self.confident,
            "error": self.error,
        }


class Model(Protocol):
    """What answers: here or on other machines.

    Attributes:
        folder: The export.
        labels: Its classes, in the order of the network's outputs.
    """

    folder: Path
    labels: tuple[str, ...]

    def predict(self, paths: Iterable[Path | str]) -> Iterator[Prediction]:
        """Yields a prediction for each file, in order; a bad file does not fail its neighbours."""


def row_prediction(
    labels: Sequence[str], path: str, error: str | None, confident: bool | None, values: Sequence[float]
) -> Prediction:
    """Returns a prediction of what must be kept of it: `values` are the probabilities in the order of the labels.

    Raises:
        ValueError: There are not as many values as labels.
    """
    if error is not None:
        return Prediction(path, "", None, {}, error=error)
    best = int(np.argmax(values))
    return Prediction(path, labels[best], values[best], dict(zip(labels, values, strict=True)), confident)


def require_model(folder: Path) -> None:
    """Looks whether a folder can be an export.

    Raises:
        ExportError: It cannot.
    """
    if not (folder / "saved_model.pb").is_file():
        raise ExportError(f"{folder} holds no saved_model.pb; name an export folder such as runs/NAME/export")


class Predictor:
    """An exported model, loaded.

    Attributes:
        folder: The export.
        labels: Its classes, in the order of the network's outputs.

    Raises:
        ExportError: The folder holds no export, or one that would do more than compute.
    """

    def __init__(self, export_dir: Path) -> None:
        import tensorflow as tf

        require_model(export_dir)
        require_harmless(export_dir)
        self.folder = export_dir
        try:
            self._model = tf.saved_model.load(str(export_dir))
            self._signature = self._model.signatures["serving_default"]
            self._signature.structured_outputs["error"]  # what an older version exported has none
            self.labels = tuple((export_dir / "labels.txt").read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{export_dir} cannot be loaded ({reason}); run the stage export again") from error

    def predict(self, paths: Iterable[Path | str], batch_size: int = BATCH_SIZE) -> Iterator[Prediction]:
        """Yields a prediction for each file, in order; a bad file does not fail its neighbours. A string is a URL.

        Of `paths` no more than a few batches are taken ahead of what has been yielded, and no file is kept, so their
        number does not matter. What Pillow warns of is hidden until the iterator is exhausted or closed.

        Raises:
            PipelineError: The storage of a URL does not answer.
        """
        images = iter(paths)
        first = list(islice(images, 1))
        threads = _FETCHERS if isinstance(next(iter(first), None), str) else _READERS
        with quiet_pillow(), ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(_ASKERS) as askers:
            read = _map_ahead(lambda path: (path, _read(path)), chain(first, images), readers, ahead=2 * batch_size)
            for found in _map_ahead(self._predict_batch, _batches(read, batch_size), askers, ahead=_ASKERS):
                yield from found

    def predict_contents(self, contents: bytes) -> Prediction:
        """Returns a prediction for one encoded image; its path is empty. `quiet_pillow` belongs around it."""
        (prediction,) = self._predict_batch([(Path(), _decodable(contents))])
        return replace(prediction, path="")

    def answer(self, contents: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the signature's outputs for B encoded images; `error` says of each what is wrong with it."""
        import tensorflow as tf

        answer = self._signature(**{BYTES: tf.constant(list(contents), tf.string, shape=(len(contents),))})
        return {name: values.numpy() for name, values in answer.items()}

    def _predict_batch(self, batch: Sequence[tuple[Path | str, bytes | str]]) -> list[Prediction]:
        answer = self.answer([content for _, content in batch if isinstance(content, bytes)])
        rows = zip(answer["probabilities"], answer["confident"], answer["error"], strict=True)
        return [
            self._prediction(path, *next(rows)) if isinstance(content, bytes) else _refused(path, content)
            for path, content in batch
        ]

    def _prediction(self, path: Path | str, row: np.ndarray, confident: bool, error: bytes) -> Prediction:
        return row_prediction(self.labels, path_text(path), error.decode() or None, bool(confident), row.tolist())


def _refused(path: Path | str, reason: str) -> Prediction:
    return Prediction(path_text(path), "", None, {}, error=reason)


def _map_ahead(
    function: Callable[[_Given], _Made], items: Iterable[_Given], executor: Executor, ahead: int
) -> Iterator[_Made]:
    """Yields `function` of each item, in order, while it is being called for up to `ahead` more."""
    waiting: deque[Future[_Made]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches(items: Iterable[_Given], size: int) -> Iterator[list[_Given]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def _read(path: Path | str) -> bytes | str:
    """Returns what ingest would store of a file for the decoder, or why it would refuse it."""
    try:
        return _decodable(read_url(path) if isinstance(path, str) else read_contents(path))
    except (DataError, ValueError) as error:  # ValueError: a list may hold names that no file can have
        return str(error)


def _decodable(contents: bytes) -> bytes | str:
    """Returns the same of a file's bytes."""
    if is_plain_jpeg(contents):  # decoded once, by the graph: twice would cost as much as a small network
        return contents
    try:
        picture = read_picture(contents, suffix=None)
    except DataError as error:
        return str(error)
    return encode_png(picture.pixels) if picture.transcode else contents


def path_text(path: Path | str) -> str:
    """Returns a path as it is, but for bytes that are no UTF-8 and can be neither printed nor stored."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
