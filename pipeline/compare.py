"""Two runs compared on the test images they share: loaded, matched, judged, written down. TensorFlow is not loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Config
from pipeline.errors import CheckError, ConfigError, DataError
from pipeline.evaluate.compare import Answers, ChangedImage, Comparison, compare_answers
from pipeline.evaluate.shared_tests import SharedTests, dataset_differences, match_test_sets, without_learnt
from pipeline.files import read_json, write_json
from pipeline.ingest.manifest import Manifest, load_manifest
from pipeline.trained import load_recipe, printable, read_predictions
from pipeline.workdir import RunDir, check_done, find_run

#: The score that two runs are compared by; a task that has another one answers another question.
HEADLINE = "test/top_1"


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        run: Its folder.
        name: What it is called here.
        config: Its recipe.
        manifest: Its data.
        predictions: A row a test image, in the order of `manifest.split("test")`.
    """

    run: RunDir
    name: str
    config: Config
    manifest: Manifest
    predictions: pa.Table

    @property
    def mlflow_run_id(self) -> str | None:
        """Of the run it was recorded as, if it was."""
        found: str | None = self.run.load_state().get("mlflow_run_id")
        return found

    @cached_property
    def files(self) -> dict[str, list[str]]:
        """The test images: "id", "path" (the file the network read) and "original" (the one that the source named)."""
        test = self.manifest.split("test")
        return {column: test.column(column) for column in ("id", "path", "original")}

    def answers(self, rows: Sequence[int]) -> Answers:
        """Returns what the run said to some of its test images."""
        table = self.predictions.take(pa.array(rows, pa.int64()))
        of_truth = np.full(len(rows), np.nan)
        labels = np.array(table.column("label").to_pylist(), dtype=object)
        for label in set(labels) & set(self.manifest.classes):
            where = labels == label
            of_truth[where] = table.column(f"p:{label}").to_numpy()[where]
        return Answers(table.column("predicted").to_pylist(), table.column("probability").to_numpy(), of_truth)


@dataclass(frozen=True)
class Compared:
    """Two runs, compared.

    Attributes:
        a, b: The runs; a difference is B less A.
        comparison: Of their answers.
        shared: Which test images were compared.
        left_out: Shared test images that were not, since a run has learnt from them.
        settings: `{key: (A's value, B's)}` of those that differ, as the recipe spells them; None where it has no key.
        data: How their data differ.
    """

    a: Side
    b: Side
    comparison: Comparison
    shared: SharedTests
    left_out: int
    settings: dict[str, tuple[str | None, str | None]]
    data: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        return self.comparison.verdict(self.a.name, self.b.name)

    @property
    def scope(self) -> str:
        """On what the runs were compared, in one line."""
        images = f"{self.comparison.images:,} test images"
        if self.shared.equal and not self.left_out:
            return f"{images}, the same for both"
        parts = [] if self.shared.equal else [self.shared.differences(self.a.name, self.b.name)]
        if self.left_out:
            parts.append(f"{self.left_out:,} of both that a run has learnt from")
        return f"{images} that both have; left out: {', '.join(parts)}"

    def notes(self) -> list[str]:
        """Returns what must be known to read the numbers, a line each."""
        learnt = self.shared.learnt - self.left_out
        told = f"{learnt:,} of the test images a run has learnt from too; --intersection leaves them out"
        return self.comparison.notes() + ([told] if learnt else [])

    def path(self, image: ChangedImage, column: str = "path") -> str:
        """Returns the file of an image: B's, or A's where that is gone."""
        row_a, row_b = self.shared.pairs[image.row]
        first, second = self.b.files[column][row_b], self.a.files[column][row_a]
        return second if Path(second).is_file() and not Path(first).is_file() else first

    def document(self, picture: Path | None) -> dict[str, Any]:
        """Returns what `compare --json` prints; `picture` is the file that was drawn, if one was."""
        return {
            "a": {"run": self.a.name, "mlflow_run_id": self.a.mlflow_run_id},
            "b": {"run": self.b.name, "mlflow_run_id": self.b.mlflow_run_id},
            "verdict": self.verdict,
            "scope": self.scope,
            **self.comparison.document(),
            "notes": self.notes(),
            "fixed": [self._image(image) for image in self.comparison.fixed],
            "broken": [self._image(image) for image in self.comparison.broken],
            "test_sets": self.shared.document() | {"compared": self.comparison.images, "left_out": self.left_out},
            "config": {key: {"a": one, "b": other} for key, (one, other) in self.settings.items()},
            "data": self.data,
            "picture": None if picture is None else printable(picture),
        }

    def _image(self, image: ChangedImage) -> dict[str, Any]:
        fields = {name: value for name, value in asdict(image).items() if name != "row"}
        name = self.b.files["id"][self.shared.pairs[image.row][1]]
        return {"id": name, "path": printable(Path(self.path(image, "original")))} | fields

    def save_picture(self, output: Path) -> None:
        """Writes the scores, the classes, and what was fixed and what broke as a picture."""
        from pipeline.figures import one_line, save_figure
        from pipeline.pictures.compare import Bar, Gallery, Mark, Tile, compare_figure

        found = self.comparison
        marks = [
            Mark(name, *(100 * number for number in (one.value, one.low, one.high)))
            for name, one in (("top-1", found.top_1), ("macro-F1", found.macro_f1))
        ]
        bars = [Bar(one.label, one.images, one.fixed, one.broken) for one in found.classes]

        def gallery(images: Sequence[ChangedImage]) -> Gallery:
            return Gallery(
                len(images),
                [
                    Tile(
                        self.path(one), one.label, one.predicted_a, one.predicted_b, one.probability_a,
                        one.probability_b,
                    )
                    for one in images[: Gallery.MOST]
                ],
            )  # fmt: skip

        note = f"A is {self.a.name}, B is {self.b.name}; {self.scope}"
        settings = [f"{key}: {one} in A, {other} in B" for key, (one, other) in self.settings.items()]
        title = found.verdict(one_line(self.a.name, 24), one_line(self.b.name, 24))
        figure = compare_figure(
            title, note, marks, bars, settings, fixed=gallery(found.fixed), broken=gallery(found.broken)
        )
        save_figure(figure, output)


def compare_runs(runs: Path, name_a: str, name_b: str, *, intersection: bool = False) -> Compared:
    """Returns the comparison of two runs, each given by its name, its folder or its MLflow run id.

    Args:
        runs: The project's folder of runs.
        name_a: The first run.
        name_b: The second run.
        intersection: Whether different test sets may be compared on what they share. Images that one of the runs has
            learnt from are left out then, since that run would be asked for what it was told.

    Raises:
        ConfigError: There is no such run, both are the same, or its task is not compared by top-1.
        StageOrderError: The stage evaluate is not done in one of them.
        CheckError: The test sets differ, or what they share is too little to compare on.
        PipelineError: Something of a run cannot be read; one line.
    """
    folders = [find_run(runs, name) for name in (name_a, name_b)]
    if folders[0].path.resolve() == folders[1].path.resolve():
        raise ConfigError(f"{name_a} and {name_b} are the same run; name another one (pipeline runs lists them)")
    for run in folders:
        check_done("compare", "evaluate", run)
    a, b = (_load_side(run, names) for run, names in zip(folders, _names(folders), strict=True))
    shared = match_test_sets(a.manifest, b.manifest)
    if not (shared.equal or intersection):
        raise _different(shared, a.name, b.name)
    count = len(shared.pairs)
    if intersection:
        shared = without_learnt(shared, a.manifest, b.manifest)
    if len(set(shared.clusters)) < 2:
        raise CheckError(f"{a.name} and {b.name} share {count} test images, too few to compare them on")
    rows_a, rows_b = zip(*shared.pairs, strict=True)
    labels = a.manifest.split("test").column("label")
    truth = [labels[row] for row in rows_a]
    comparison = compare_answers(truth, a.answers(rows_a), b.answers(rows_b), shared.clusters)
    settings = setting_differences(a.config, b.config)
    data = dataset_differences(a.manifest, b.manifest)
    return Compared(a, b, comparison, shared, count - len(shared.pairs), settings, data)


def _names(folders: Sequence[RunDir]) -> list[str]:
    """Returns what the runs are called: by name, by folder where two projects use one name."""
    names = [run.name for run in folders]
    return names if names[0] != names[1] else [printable(run.path) for run in folders]


def _different(shared: SharedTests, a: str, b: str) -> CheckError:
    what = f"the test sets of {a} and {b} differ: {shared.differences(a, b)}"
    usable = len(shared.pairs) - shared.learnt
    if not usable:
        return CheckError(f"{what}; they share no image that neither has learnt from, so nothing can be compared")
    return CheckError(f"{what}; --intersection compares on the {usable:,} they share")


def _load_side(run: RunDir, name: str) -> Side:
    headline = read_json(run.evaluation).get("headline_metric")
    if headline != HEADLINE:
        raise ConfigError(f"{name} is measured by {headline}; compare is for runs that are measured by {HEADLINE}")
    manifest = load_manifest(run.manifest)
    return Side(run, name, load_recipe(run), manifest, _load_predictions(run, manifest))


def _load_predictions(run: RunDir, manifest: Manifest) -> pa.Table:
    """Returns a run's predictions in the order of its test images.

    Raises:
        DataError: They cannot be read, or are of other images than the manifest's.
    """
    needed = {"id", "label", "predicted", "probability", *(f"p:{label}" for label in manifest.classes)}
    table = read_predictions(run)
    test = manifest.split("test")
    if needed <= set(table.column_names):
        place = {name: row for row, name in enumerate(table.column("id").to_pylist())}
        rows = [place.get(name) for name in test.column("id")]
        if len(place) == len(test) and None not in rows:
            table = table.take(pa.array(rows, pa.int64()))
            if table.column("label").to_pylist() == test.column("label"):
                return table
    raise DataError(f"{run.predictions} does not fit the run's manifest; run the stage evaluate again")


def setting_differences(a: Config, b: Config) -> dict[str, tuple[str | None, str | None]]:
    """Returns the settings that differ, under their dotted keys: (the first recipe's value, the second's)."""
    from pipeline.tracking.port import flatten

    one, other = (flatten(config.model_dump(mode="json", by_alias=True)) for config in (a, b))
    keys = [*one, *(key for key in other if key not in one)]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def record_comparison(found: Compared, picture: Path | None) -> None:
    """Adds a comparison to B's run in MLflow, where it was recorded: JSON and picture in the folder `compare/<A>`.

    Raises:
        TrackingError: The store cannot be reached or written.
    """
    from pipeline.tracking import attach_to_run

    run_id = found.b.mlflow_run_id
    if run_id is None:
        return
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        document = Path(folder) / "comparison.json"
        write_json(document, found.document(None))
        files = [document]
        if picture:
            files.append(Path(folder) / "comparison.png")
            files[-1].write_bytes(picture.read_bytes())
        name = found.a.run.name
        attach_to_run(
            found.b.run.project, run_id, f"compare/{name}", files, {"compared_with": name, "comparison": found.verdict}
        )
