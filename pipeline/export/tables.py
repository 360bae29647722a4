"""Predictions as files: CSV, JSON lines or Parquet, written a piece at a time whatever their number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.export.predict import Prediction
from pipeline.files import atomic_path

#: Numbers that are held at a time: 30 MB of Python's.
_CELLS = 2**20

#: Rows of a piece, and of a row group of Parquet, at most.
_MOST_ROWS = 2**14


def check_output(path: Path) -> None:
    """Looks whether predictions can be written to a file of this name.

    Raises:
        DataError: The ending is of no known format, or the folder does not exist.
    """
    if path.suffix not in _WRITERS:
        raise DataError(f"-o {path}: the ending says the format; allowed: {', '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise DataError(f"-o {path}: there is no folder {path.parent}")


def write_predictions(predictions: Iterable[Prediction], labels: Sequence[str], path: Path) -> None:
    """Writes predictions as CSV or Parquet (a column `p:<class>` a class) or as JSON lines, atomically."""
    with atomic_path(path) as draft:
        _WRITERS[path.suffix](predictions, labels, draft)


def _write_jsonl(predictions: Iterable[Prediction], labels: Sequence[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction.document(), ensure_ascii=False) + "\n")


def _write_csv(predictions: Iterable[Prediction], labels: Sequence[str], path: Path) -> None:
    import pyarrow.csv

    with pyarrow.csv.CSVWriter(path, _schema(labels)) as writer:
        for table in _tables(predictions, labels):
            writer.write_table(table)


def _write_parquet(predictions: Iterable[Prediction], labels: Sequence[str], path: Path) -> None:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(path, _schema(labels)) as writer:
        for table in _tables(predictions, labels):
            writer.write_table(table)


def _schema(labels: Sequence[str]) -> Any:
    import pyarrow as pa

    fixed = {"path": pa.string(), "label": pa.string(), "probability": pa.float64(), "confident": pa.bool_()}
    return pa.schema([*fixed.items(), ("error", pa.string()), *((f"p:{label}", pa.float64()) for label in labels)])


def _tables(predictions: Iterable[Prediction], labels: Sequence[str]) -> Iterator[Any]:
    """Yields tables of at most `_CELLS` cells."""
    import pyarrow as pa

    schema, left = _schema(labels), iter(predictions)
    rows = min(_MOST_ROWS, max(1, _CELLS // len(schema)))
    while piece := list(islice(left, rows)):
        columns: list[list[Any]] = [
            [getattr(prediction, name) for prediction in piece]
            for name in ("path", "label", "probability", "confident", "error")
        ]
        columns += [[prediction.probabilities.get(label) for prediction in piece] for label in labels]
        yield pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


_WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
