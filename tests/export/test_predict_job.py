"""Predictions of many files in one: whole in every format, and on from wherever an earlier attempt was cut off."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
from subjects import CLASSES, COUNT, export_small, write_many

from pipeline.errors import PipelineError
from pipeline.export import job, predict
from pipeline.export.inputs import find_images
from pipeline.export.job import PartFile, Tally, export_digest, predict_to_file
from pipeline.export.predict import Prediction, Predictor
from pipeline.export.tables import write_predictions
from pipeline.progress import Silent


class Told(Silent):
    """A `Progress` that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.totals: list[int | None] = []
        self.steps = 0

    def bar(self, title: str, total: int | None) -> Any:
        self.totals.append(total)
        return super().bar(title, total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.steps += steps

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(export_small(tmp_path_factory.mktemp("run") / "export"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def alone(predictor: Predictor, photos: Path) -> list[Prediction]:
    """Every file, asked by itself."""
    return [next(predictor.predict([path])) for path in sorted(photos.iterdir())]


def run(predictor: Predictor, photos: Path, output: Path) -> tuple[Tally, Told]:
    progress = Told()
    images, total = find_images([photos])
    return predict_to_file(predictor, images, total, output, progress), progress


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of any format, in the form of Parquet's."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            {**{name: row[name] for name in ("path", "label", "probability", "confident", "error")},
             **{f"p:{label}": row["probabilities"].get(label) for label in CLASSES}}
            for row in rows
        ]  # fmt: skip
    if path.suffix == ".csv":
        options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
        return pyarrow.csv.read_csv(path, convert_options=options).to_pylist()
    return pyarrow.parquet.read_table(path).to_pylist()


def assert_same(rows: Sequence[dict[str, Any]], wanted: Sequence[Prediction]) -> None:
    assert [row["path"] for row in rows] == [one.path for one in wanted]
    for row, one in zip(rows, wanted, strict=True):
        assert (row["label"], row["confident"], row["error"]) == (one.label, one.confident, one.error)
        found = [row[f"p:{label}"] for label in CLASSES]
        assert found == pytest.approx([one.probabilities.get(label) for label in CLASSES], abs=1e-5)


# One job.


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_holds_the_same(
    predictor: Predictor, photos: Path, alone: list[Prediction], tmp_path: Path, suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pipeline.export.tables._MOST_ROWS", 8)
    output = tmp_path / f"labels.{suffix}"
    tally, progress = run(predictor, photos, output)
    assert_same(read(output), alone)
    assert os.listdir(tmp_path) == [output.name]
    assert (progress.totals, progress.steps, progress.lines) == ([COUNT], COUNT, [])
    unsure = sum(one.confident is False for one in alone)
    assert 0 < unsure < COUNT
    assert (tally.predicted, tally.bad, tally.not_confident) == (COUNT - 2, 2, unsure)
    if suffix == "parquet":
        assert pyarrow.parquet.ParquetFile(output).num_row_groups == 6


def test_the_counts_name_the_first_reasons() -> None:
    tally = Tally()
    tally.add(Prediction("a.jpg", "ant", 0.9, {"ant": 0.9}, True))
    tally.add(Prediction("b.jpg", "ant", 0.4, {"ant": 0.4}, False))
    assert tally.line() == "2 predicted, 0 bad, 1 not confident"
    for number in range(4):
        tally.add(Prediction(f"{number}\n.jpg", "", None, {}, error="the file is empty"))
    told = "; ".join(f"{number}\\n.jpg: the file is empty" for number in range(3))
    assert tally.line() == f"2 predicted, 4 bad ({told}; ...), 1 not confident"


# On from where it was cut off.


class Stop(BaseException):
    """What an interruption is to the job."""


def interrupt(predictor: Predictor, photos: Path, output: Path, after: int) -> Path:
    """Stops a job after some answers; returns its part file."""

    class Stopping(Told):
        def advance(self, steps: int = 1, note: str = "") -> None:
            super().advance(steps, note)
            if self.steps == after:
                raise Stop

    images, total = find_images([photos])
    with pytest.raises(Stop):
        predict_to_file(predictor, images, total, output, Stopping())
    assert not output.exists()
    assert not output.with_name(f".{output.name}.lock").exists()
    return output.with_name(f"{output.name}.part")


@pytest.fixture
def asked(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    names: list[str] = []
    read_file = predict._read

    def reading(path: Path) -> bytes | str:
        names.append(path.name)
        return read_file(path)

    monkeypatch.setattr(predict, "_read", reading)
    return names


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_interrupted_job_goes_on(
    predictor: Predictor, photos: Path, alone: list[Prediction], tmp_path: Path, suffix: str, asked: list[str]
) -> None:
    output = tmp_path / f"labels.{suffix}"
    part = interrupt(predictor, photos, output, after=25)
    asked.clear()
    tally, progress = run(predictor, photos, output)
    assert progress.lines == [f"resumes after 25 of 41: {part} has their rows"]
    assert progress.totals == [16]
    assert sorted(asked) == [Path(one.path).name for one in alone[25:]]
    assert (tally.predicted, tally.bad) == (COUNT - 2, 2)
    assert_same(read(output), alone)
    assert os.listdir(tmp_path) == [output.name]


def test_wherever_the_part_file_ends_each_row_is_there_once(
    predictor: Predictor, photos: Path, alone: list[Prediction], tmp_path: Path
) -> None:
    output = tmp_path / "labels.jsonl"
    whole = interrupt(predictor, photos, output, after=12).read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 13
    for length in sorted({0, 1, 30, *ends[:3], ends[5] - 1, ends[5] + 1, ends[8] + 17, ends[9] + 60, len(whole) - 1}):
        (tmp_path / "labels.jsonl.part").write_bytes(whole[:length])
        _, progress = run(predictor, photos, output)
        rows = max(0, sum(end <= length for end in ends) - 1)
        assert len(progress.lines) == 1
        assert progress.lines[0].startswith(f"resumes after {rows} of 41" if rows else "starts anew"), length
        assert progress.totals == [COUNT - rows]
        assert_same(read(output), alone)


def test_zeros_where_a_power_cut_ended_the_file_are_dropped(
    predictor: Predictor, photos: Path, alone: list[Prediction], tmp_path: Path
) -> None:
    output = tmp_path / "labels.jsonl"
    part = interrupt(predictor, photos, output, after=12)
    part.write_bytes(part.read_bytes() + b"\0" * 500 + b"\n")
    _, progress = run(predictor, photos, output)
    assert "resumes after 12 of 41" in progress.lines[0]
    assert_same(read(output), alone)


def test_a_job_that_had_only_to_be_put_in_place(
    predictor: Predictor, photos: Path, alone: list[Prediction], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    output = tmp_path / "labels.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_predictions", full)
        with pytest.raises(OSError, match="No space"):
            run(predictor, photos, output)
    monkeypatch.setattr(predictor, "answer", full)
    _, progress = run(predictor, photos, output)
    assert "resumes after 41 of 41" in progress.lines[0]
    assert_same(read(output), alone)


def test_another_export_starts_anew(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.jsonl"
    part = interrupt(predictor, photos, output, after=12)
    other = Predictor(export_small(tmp_path / "other", seed=1))
    assert export_digest(other.folder) != export_digest(predictor.folder)
    _, progress = run(other, photos, output)
    assert progress.lines == [f"starts anew: {part} is of another export"]
    assert_same(read(output), list(other.predict(sorted(photos.iterdir()))))


def test_other_files_keep_the_rows_they_share(
    predictor: Predictor, photos: Path, tmp_path: Path, asked: list[str]
) -> None:
    """One file is taken out, one is put in; what stands before is kept, what stands behind is asked again."""
    output, root = tmp_path / "labels.jsonl", shutil.copytree(photos, tmp_path / "photos")
    interrupt(predictor, root, output, after=30)
    (root / "10 ä.png").rename(root / "14 new.png")
    asked.clear()
    tally, progress = run(predictor, root, output)
    assert "resumes after 10 of 41" in progress.lines[0]
    wanted = [path.name for path in sorted(root.iterdir())]
    assert sorted(asked) == wanted[10:]
    assert [Path(row["path"]).name for row in read(output)] == wanted
    assert tally.bad == 2
    part = interrupt(predictor, root, output.with_name("more.csv"), after=30)
    _, progress = run(predictor, photos, output.with_name("more.csv"))
    assert progress.lines == [f"starts anew: {part} is of other files"]


def test_fewer_files_than_rows(predictor: Predictor, photos: Path, alone: list[Prediction], tmp_path: Path) -> None:
    output = tmp_path / "labels.csv"
    interrupt(predictor, photos, output, after=30)
    tally = predict_to_file(predictor, iter(sorted(photos.iterdir())[:9]), 9, output, Silent())
    assert tally.predicted + tally.bad == 9
    assert_same(read(output), alone[:9])


def test_a_list_of_unknown_length_resumes_too(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    output, progress = tmp_path / "labels.csv", Told()
    part = interrupt(predictor, photos, output, after=9)
    predict_to_file(predictor, iter(sorted(photos.iterdir())), None, output, progress)
    assert progress.lines == [f"resumes after 9: {part} has their rows"]
    assert progress.totals == [None]


def test_rows_are_on_disk_before_the_job_ends(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    """What kill -9 would leave: the file as others see it while the job goes on."""
    output = tmp_path / "labels.csv"
    seen: list[int] = []

    class Looking(Told):
        def advance(self, steps: int = 1, note: str = "") -> None:
            seen.append((tmp_path / "labels.csv.part").read_bytes().count(b"\n"))

    images, total = find_images([photos])
    predict_to_file(predictor, images, total, output, Looking())
    assert seen[31] == 33


def test_two_jobs_do_not_write_the_same_file(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.csv"

    class Second(Told):
        def advance(self, steps: int = 1, note: str = "") -> None:
            with pytest.raises(PipelineError, match="is held by another process"):
                predict_to_file(predictor, iter([]), 0, output, Silent())
            raise Stop

    images, total = find_images([photos])
    with pytest.raises(Stop):
        predict_to_file(predictor, images, total, output, Second())


def test_rows_that_vanish_are_an_error(tmp_path: Path) -> None:
    with PartFile(tmp_path / "a.csv", "d", ("x", "y")) as part:
        part.add(Prediction("1.jpg", "y", 0.75, {"x": 0.25, "y": 0.75}, True))
        part.add(Prediction("2.jpg", "", None, {}, error="odd"))
    assert [row.label for row in part.predictions(2)] == ["y", ""]
    with pytest.raises(PipelineError, match="has 2 whole rows, not 3"):
        write_predictions(part.predictions(3), ("x", "y"), tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
