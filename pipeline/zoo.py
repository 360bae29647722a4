"""The zoo measured on this machine, and drawn beside the models one has trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError
from pipeline.models.backbones import Backbone
from pipeline.progress import Progress

if TYPE_CHECKING:
    from pipeline.pictures.zoo import Bubble

#: Runs that are drawn: the newest ones.
MOST_RUNS = 60

#: What a run must have recorded to be drawn.
NEEDED = ("test/top_1", "model/gflops", "model/parameters")


def measure_zoo(rows: Sequence[Backbone], progress: Progress) -> dict[str, float]:
    """Returns images/s of a forward pass of each headless backbone, by name.

    At its default size, in batches of its extraction batch, with random weights: those do not change the speed.
    """
    import keras

    from pipeline.models.backbones import build_scaling
    from pipeline.train.dataset import InputSpec
    from pipeline.train.extraction import measure_speed, padded_forward

    speeds = {}
    with progress.bar("images/s", len(rows)) as bar:
        for row in rows:
            network = row.build(row.default_size)
            pixels = keras.Input(network.input_shape[1:])
            model = keras.Model(pixels, network(build_scaling(row)(pixels)))
            forward = padded_forward(model, row.extraction_batch)
            speeds[row.name] = measure_speed(forward, InputSpec(row.default_size, row.channels), row.extraction_batch)
            bar.advance(1, row.name)
            keras.utils.clear_session()
    return speeds


def save_zoo_picture(rows: Sequence[dict[str, Any]], root: Path, output: Path) -> str:
    """Writes the chart of listed backbones and of the project's finished runs; returns what is in it, in words.

    Raises:
        ModelError: There is nothing to draw.
        TrackingError: The runs cannot be read.
    """
    from pipeline.figures import save_figure
    from pipeline.pictures.zoo import zoo_figure

    published, trained = _published(rows), trained_bubbles(root)[:MOST_RUNS]
    if not (published or trained):
        raise ModelError("nothing to draw: none of these has a published top-1 accuracy; name others, or none for all")
    save_figure(zoo_figure(published, trained, len(rows) - len(published)), output)
    return f"{len(published)} published models, {len(trained)} runs of this project"


def _published(rows: Sequence[dict[str, Any]]) -> list[Bubble]:
    from pipeline.pictures.zoo import Bubble

    return [
        Bubble(row["name"], row["source"], row["gflops"], row["top_1"], row["parameters"])
        for row in rows
        if row["top_1"] is not None
    ]


def trained_bubbles(root: Path) -> list[Bubble]:
    """Returns the finished runs of a project that recorded what is drawn, from MLflow, the newest first.

    Raises:
        TrackingError: The store cannot be read.
    """
    from pipeline.pictures.zoo import Bubble
    from pipeline.tracking import finished_runs

    return [
        Bubble(
            run.name, run.experiment, run.metrics["model/gflops"], run.metrics["test/top_1"],
            run.metrics["model/parameters"], _interval(run.metrics),
        )
        for run in finished_runs(root)
        if all(name in run.metrics for name in NEEDED)
    ]  # fmt: skip


def _interval(metrics: Mapping[str, float]) -> tuple[float, float] | None:
    ends = ("test/top_1_low", "test/top_1_high")
    return (metrics[ends[0]], metrics[ends[1]]) if all(end in metrics for end in ends) else None
