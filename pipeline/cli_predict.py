"""The command `predict`: parse, call, print."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli_group import PATH

if TYPE_CHECKING:
    from pipeline.export.job import Tally
    from pipeline.export.predict import Model, Prediction
    from pipeline.progress import Bar
    from pipeline.terminal import TerminalProgress


@click.command()
@click.argument("export_dir")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Labels to show per image.")
@click.option("-o", "--output", type=PATH, help="Write a .csv, .jsonl or .parquet file instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="This process, or the workers of a Ray cluster.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), help="Workers of --engine ray; as many as fit by default.")
def predict(
    export_dir: str, paths: tuple[str, ...], top: int, output: Path | None, as_json: bool, engine: str,
    workers: int | None,
) -> None:  # fmt: skip
    """Label images with an exported model.

    PATH is an image, a folder of them, a pattern in quotes, a URL of one of these such as s3://bucket/photos, or - for
    a list on the standard input, one path a line. An interrupted job with -o goes on where it stopped when the same
    command is given again. Bad files are reported and do not stop the others. --engine ray asks the cluster of
    RAY_ADDRESS, or starts one on this machine.

    \b
    pipeline predict runs/default-1/export photo.jpg
    pipeline predict runs/default-1/export photos/ --top 3 -o labels.csv
    pipeline predict runs/default-1/export 'photos/**/*.jpg' --json
    find photos -name '*.jpg' -print0 | pipeline predict runs/default-1/export - -o labels.parquet
    pipeline predict s3://models/export s3://photos/2024 --engine ray -o labels.parquet
    """
    if workers and engine != "ray":
        raise click.UsageError("--workers needs --engine ray; the local engine uses all cores of this machine")
    from pipeline.export.inputs import STDIN, find_images
    from pipeline.export.job import Tally, predict_to_file
    from pipeline.export.tables import check_output
    from pipeline.export.urls import export_folder, place_of
    from pipeline.terminal import Interrupts, TerminalProgress

    if output:
        check_output(output)
    if engine == "ray":
        from pipeline.export.cluster import require_ray

        require_ray()
    places = [place_of(path) for path in paths]
    advice = f"the same command goes on where it stopped, after the rows of {output}.part" if output else ""
    with Interrupts(advice) as interrupts:
        images, total = find_images(places, sys.stdin.buffer if STDIN in places else None)
        progress = TerminalProgress(interrupts)
        with export_folder(place_of(export_dir)) as folder, _loaded(folder, engine, workers, progress) as model:
            if output:
                tally = predict_to_file(model, images, total, output, progress)
            else:
                tally = Tally()
                _print(_counted(model.predict(images), tally), total, top, as_json, progress)
    progress.say(tally.line() + (f", in {output}" if output else ""))
    if not tally.predicted:
        sys.exit(1)


@contextmanager
def _loaded(folder: Path, engine: str, workers: int | None, progress: TerminalProgress) -> Iterator[Model]:
    """Yields the export, ready to be asked by an engine."""
    from pipeline.export.predict import Predictor, require_model
    from pipeline.terminal import hidden_stderr, quiet_tensorflow

    if engine == "local":
        with quiet_tensorflow():
            yield Predictor(folder)
        return
    from pipeline.export.cluster import ray_cluster
    from pipeline.export.cluster_model import ClusterModel

    require_model(folder)  # before Ray is started for nothing
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with hidden_stderr(), ray_cluster(workers, size) as found:
        progress.say(f"ray: {found.line()}")
        yield ClusterModel(folder, found)


def _counted(predictions: Iterator[Prediction], tally: Tally) -> Iterator[Prediction]:
    for prediction in predictions:
        tally.add(prediction)
        yield prediction


def _print(
    predictions: Iterator[Prediction], total: int | None, top: int, as_json: bool, progress: TerminalProgress
) -> None:
    """Prints each prediction once it is there."""
    stdout = sys.stdout  # while a bar is drawn, rich puts something in its place that writes to the bar's stream
    pieces = _json_list(predictions) if as_json else (_prediction_line(one, top) + "\n" for one in predictions)
    with _bar(total, progress) as bar:
        for piece in pieces:
            click.echo(piece, nl=False, file=stdout)
            bar.advance()
    if as_json:
        click.echo("\n]")


class _Unseen:
    """A bar that draws nothing and still stops when the user wants to."""

    def __init__(self, progress: TerminalProgress) -> None:
        self._progress = progress

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Raises `Interrupted` if the user wants to stop."""
        self._progress.check()


def _bar(total: int | None, progress: TerminalProgress) -> contextlib.AbstractContextManager[Bar]:
    # On a terminal the lines are the progress; a bar would be drawn through them.
    return contextlib.nullcontext(_Unseen(progress)) if sys.stdout.isatty() else progress.bar("predict", total)


def _json_list(predictions: Iterator[Prediction]) -> Iterator[str]:
    """Yields a JSON list piece by piece, but for its closing bracket; as `json.dumps` would with an indent of 2."""
    before = "[\n  "
    for prediction in predictions:
        document = json.dumps(prediction.document(), ensure_ascii=False, indent=2)
        yield before + document.replace("\n", "\n  ")
        before = ",\n  "


def _prediction_line(prediction: Prediction, top: int) -> str:
    from pipeline.errors import shown

    path = shown(prediction.path)  # a line an image, whatever its name
    if prediction.error:
        return f"{path}: error: {prediction.error}"
    labels = ", ".join(f"{label} {probability:.3f}" for label, probability in prediction.top(top))
    return f"{path}: {labels}{'' if prediction.confident else ' (not confident)'}"
