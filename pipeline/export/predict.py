"""Predictions from an export alone: nothing of the run, the recipe or the Keras model is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError, ExportError
from pipeline.files import atomic_path
from pipeline.images.headers import SUFFIXES, quiet_pillow, read_contents
from pipeline.images.pixels import encode_png, read_picture

#: Input of the default signature: `(B,)` strings, each an encoded image.
BYTES = "image_bytes"


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


class Predictor:
    """An exported model, loaded.

    Raises:
        ExportError: The folder holds no export.
    """

    def __init__(self, export_dir: Path) -> None:
        import tensorflow as tf

        if not (export_dir / "saved_model.pb").is_file():
            raise ExportError(f"{export_dir} holds no saved_model.pb; name an export folder such as runs/NAME/export")
        try:
            self._model = tf.saved_model.load(str(export_dir))
            self._signature = self._model.signatures["serving_default"]
            self._signature.structured_outputs["error"]  # what an older version exported has none
            self.labels = tuple((export_dir / "labels.txt").read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{export_dir} cannot be loaded ({reason}); run the stage export again") from error

    def predict(self, paths: Sequence[Path], batch_size: int = 16) -> Iterator[Prediction]:
        """Yields a prediction for each file, in order; a bad file does not fail its neighbours."""
        for start in range(0, len(paths), batch_size):
            with quiet_pillow():
                found = self._predict_batch(paths[start : start + batch_size])
            yield from found

    def answer(self, contents: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the signature's outputs for B encoded images; `error` says of each what is wrong with it."""
        import tensorflow as tf

        answer = self._signature(**{BYTES: tf.constant(list(contents), tf.string, shape=(len(contents),))})
        return {name: values.numpy() for name, values in answer.items()}

    def _predict_batch(self, paths: Sequence[Path]) -> list[Prediction]:
        contents = [_read(path) for path in paths]
        readable = [content for content in contents if isinstance(content, bytes)]
        answer = self.answer(readable)
        rows = zip(answer["probabilities"], answer["confident"], answer["error"], strict=True)
        return [
            self._prediction(path, *next(rows)) if isinstance(content, bytes) else _refused(path, content)
            for path, content in zip(paths, contents, strict=True)
        ]

    def _prediction(self, path: Path, row: np.ndarray, confident: bool, error: bytes) -> Prediction:
        if error:
            return _refused(path, error.decode())
        best = int(row.argmax())
        probabilities = dict(zip(self.labels, map(float, row), strict=True))
        return Prediction(_text(path), self.labels[best], float(row[best]), probabilities, bool(confident))


def _refused(path: Path, reason: str) -> Prediction:
    return Prediction(_text(path), "", None, {}, error=reason)


def collect_images(paths: Sequence[Path]) -> list[Path]:
    """Returns the files named, and the image files below the folders named, in order.

    Raises:
        DataError: A path does not exist, or no image is left.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if _is_image_below(path, file))
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"no file or folder {path}; name images, or folders that hold some")
    if not found:
        raise DataError(f"no image files in {', '.join(map(str, paths))}; endings looked for: {', '.join(SUFFIXES)}")
    return found


def _is_image_below(folder: Path, file: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def check_output(path: Path) -> None:
    """Looks whether predictions can be written to a file of this name.

    Raises:
        DataError: The ending is of no known format, or the folder does not exist.
    """
    if path.suffix not in _WRITERS:
        raise DataError(f"-o {path}: the ending says the format; allowed: {', '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise DataError(f"-o {path}: there is no folder {path.parent}")


def write_predictions(predictions: Sequence[Prediction], labels: Sequence[str], path: Path) -> None:
    """Writes predictions as CSV or Parquet (a column `p:<class>` a class) or as JSON lines, atomically."""
    with atomic_path(path) as draft:
        _WRITERS[path.suffix](predictions, labels, draft)


def _write_jsonl(predictions: Sequence[Prediction], labels: Sequence[str], path: Path) -> None:
    lines = (json.dumps(prediction.document(), ensure_ascii=False) for prediction in predictions)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_csv(predictions: Sequence[Prediction], labels: Sequence[str], path: Path) -> None:
    import pyarrow.csv

    pyarrow.csv.write_csv(_table(predictions, labels), path)


def _write_parquet(predictions: Sequence[Prediction], labels: Sequence[str], path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(_table(predictions, labels), path)


def _table(predictions: Sequence[Prediction], labels: Sequence[str]) -> Any:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        name: [getattr(prediction, name) for prediction in predictions]
        for name in ("path", "label", "probability", "confident", "error")
    }
    for label in labels:
        columns[f"p:{label}"] = [prediction.probabilities.get(label) for prediction in predictions]
    return pa.table(columns)


_WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


def _read(path: Path) -> bytes | str:
    """Returns what ingest would store of a file for the decoder, or why it would refuse it."""
    try:
        contents = read_contents(path)
        picture = read_picture(contents, suffix=None)
    except DataError as error:
        return str(error)
    return encode_png(picture.pixels) if picture.transcode else contents


def _text(path: Path) -> str:
    """Returns a path as it is, but for bytes that are no UTF-8 and can be neither printed nor stored."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
