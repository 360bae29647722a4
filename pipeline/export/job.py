"""Predictions of many files into one, in pieces: what an interruption leaves is where the next attempt goes on.

Finished rows stand in `FILE.part`, one JSON list a line: `[path, error, confident, [p, ...]]`, the probabilities in the
order of the labels, below a line that says of which export they are. `FILE` is made of them at the end, whatever its
format, and appears whole. A row counts once its line has ended, so none can be there twice, half or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PipelineError, shown
from pipeline.export.predict import Model, Prediction, path_text, row_prediction
from pipeline.export.tables import write_predictions
from pipeline.export.verify import SUMS
from pipeline.files import file_digest, lock, text_digest
from pipeline.progress import Progress

#: Rows that may be lost when the process is killed.
_FLUSHED = 32

#: Bad files of which the last line says what is wrong.
_REASONS = 3


class Tally:
    """Counts of predictions, and the first reasons why files are bad."""

    def __init__(self) -> None:
        self.predicted = self.bad = self.not_confident = 0
        self._reasons: list[str] = []

    def add(self, prediction: Prediction) -> None:
        """Counts one."""
        if prediction.error is None:
            self.predicted += 1
            self.not_confident += not prediction.confident
            return
        self.bad += 1
        if len(self._reasons) < _REASONS:
            self._reasons.append(f"{shown(prediction.path)}: {prediction.error}")

    def line(self) -> str:
        """Returns the counts in words: "8 predicted, 1 bad (a.jpg: the file is empty), 2 not confident"."""
        more = ["..."] if self.bad > len(self._reasons) else []
        reasons = f" ({'; '.join([*self._reasons, *more])})" if self.bad else ""
        return f"{self.predicted:,} predicted, {self.bad:,} bad{reasons}, {self.not_confident:,} not confident"


class PartFile:
    """Rows that are finished, beside the output that they are for.

    Args:
        output: The file that will be made of them.
        export: What tells the export from others (`export_digest`).
        labels: Its classes.
    """

    def __init__(self, output: Path, export: str, labels: Sequence[str]) -> None:
        self.path = output.with_name(f"{output.name}.part")
        self._first = (json.dumps({"predictions": 1, "export": export}) + "\n").encode()
        self._labels = tuple(labels)
        self._file: BinaryIO | None = None
        self._end = len(self._first)

    def resume(self, paths: Iterator[Path | str], tally: Tally) -> Iterator[Path | str]:
        """Returns the paths that are left; rows of the others are kept and counted, all further rows dropped.

        Rows are kept as long as they are of `paths`, from the first one on.
        """
        for row, length in self._rows():
            path = next(paths, None)
            if path is None:
                break
            if path_text(path) != row.path:
                return chain([path], paths)
            self._end += length
            tally.add(row)
        return paths

    def __enter__(self) -> PartFile:
        """Opens the file behind the rows that are kept."""
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        if self._end == len(self._first):
            self._file.truncate(0)
            self._file.write(self._first)
        self._file.truncate(self._end)
        self._file.seek(self._end)
        return self

    def add(self, prediction: Prediction) -> None:
        """Appends a row."""
        assert self._file
        row = [prediction.path, prediction.error, prediction.confident, list(prediction.probabilities.values())]
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def flush(self) -> None:
        """Hands the rows to the system, which keeps them when this process is killed."""
        assert self._file
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        """Closes the file, whole rows in it, however the block ended."""
        if self._file:
            self._file.close()

    def predictions(self, count: int) -> Iterator[Prediction]:
        """Yields the rows.

        Raises:
            PipelineError: There are not `count` of them.
        """
        found = 0
        for row, _ in self._rows():
            yield row
            found += 1
        if found != count:
            raise PipelineError(
                f"{self.path} has {found:,} whole rows, not {count:,}: something else wrote to it; try again"
            )

    def has_rows(self) -> bool:
        """Returns whether there is a whole row of this export."""
        return next(self._rows(), None) is not None

    def is_of_another_export(self) -> bool:
        """Returns whether there are rows that cannot be used."""
        try:
            with self.path.open("rb") as file:
                return file.readline() != self._first
        except FileNotFoundError:
            return False

    def _rows(self) -> Iterator[tuple[Prediction, int]]:
        """Yields the whole rows of this export, and how many bytes each takes."""
        if not self.path.exists() or self.is_of_another_export():
            return
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                row = self._parse(line)
                if row is None:
                    return
                yield row, len(line)

    def _parse(self, line: bytes) -> Prediction | None:
        """Returns a row, or None of a line that is not whole."""
        if not line.endswith(b"\n"):
            return None
        try:
            path, error, confident, values = json.loads(line)
            return row_prediction(self._labels, path, error, confident, values)
        except (ValueError, TypeError):  # a power cut may leave zeros where a line was
            return None


def export_digest(folder: Path) -> str:
    """Returns what tells an export from every other, in hex: a digest of its files' digests."""
    sums = folder / SUMS
    if sums.is_file():
        return file_digest(sums)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return text_digest(*(part for path in files for part in (str(path.relative_to(folder)), file_digest(path))))


def predict_to_file(
    model: Model, images: Iterator[Path | str], total: int | None, output: Path, progress: Progress
) -> Tally:
    """Returns the counts of all predictions, which stand in `output` then.

    An earlier attempt's rows are used if they are of the same export and of the same files; `progress` hears so.

    Raises:
        PipelineError: Another process is writing the same file.
    """
    tally = Tally()
    with _alone(output):
        part = PartFile(output, export_digest(model.folder), model.labels)
        existed = part.path.exists()
        left = part.resume(images, tally)
        done = tally.predicted + tally.bad
        if existed:
            progress.say(_resumption(part, done, total))
        with part, progress.bar("predict", None if total is None else max(0, total - done)) as bar:
            for number, prediction in enumerate(model.predict(left), 1):
                part.add(prediction)
                tally.add(prediction)
                if number % _FLUSHED == 0:
                    part.flush()
                bar.advance()
        write_predictions(part.predictions(tally.predicted + tally.bad), model.labels, output)
        part.path.unlink()
    return tally


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keeps other processes from writing the same rows for the block; only a killed one leaves the lock's file."""
    guard = output.with_name(f".{output.name}.lock")
    with lock(guard, timeout=1.0):
        try:
            yield
        finally:
            guard.unlink(missing_ok=True)


def _resumption(part: PartFile, done: int, total: int | None) -> str:
    if done:
        return f"resumes after {done:,}{'' if total is None else f' of {total:,}'}: {part.path} has their rows"
    if part.is_of_another_export():
        return f"starts anew: {part.path} is of another export"
    return f"starts anew: {part.path} {'is of other files' if part.has_rows() else 'has no rows yet'}"
