"""The commands that only look: at data, images, runs, backbones, the feature bank. Nothing heavy is loaded before."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli_group import PATH, Group, picture_name
from pipeline.errors import shown

if TYPE_CHECKING:
    from pipeline.progress import Progress
    from pipeline.train.bank.store import FeatureStore


@click.command()
@click.argument("source", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(source: str, as_json: bool) -> None:
    """Look for what would spoil a training: bad files, copies, leaks; DIR may be any SOURCE.

    Exit code 0 whatever is found; 1 when DIR itself cannot be used.

    \b
    pipeline doctor photos/
    pipeline doctor photos/ --json | jq .problems
    """
    from pipeline.config import IngestConfig
    from pipeline.ingest.doctor import diagnose, report

    with _looking() as (cache, progress):
        found = diagnose(IngestConfig(data=source), Path.cwd() / "data", cache, progress)
    if as_json:
        click.echo(json.dumps(found.document(), ensure_ascii=False, indent=2))
        return
    styles: dict[str, dict[str, Any]] = {
        "title": {"bold": True}, "bad": {"fg": "red"}, "note": {}, "good": {"fg": "green"}
    }  # fmt: skip
    for kind, line in report(found):
        click.secho(line if kind == "title" else f"  {line}", **styles[kind])


@click.command()
@click.argument("path", type=PATH)
@click.argument("other", type=PATH, required=False)
@click.option("-o", "--output", type=PATH, metavar="FILE.png", help="Where to write the picture.")
def inspect(path: Path, other: Path | None, output: Path | None) -> None:
    """Draw what there is to see: an image, what two images share, or a whole folder.

    \b
    pipeline inspect photo.jpg              channels, histogram, contrast, edges, pixel values
    pipeline inspect a.jpg b.jpg            the keypoints that match
    pipeline inspect photos/ -o data.png    classes, sizes, samples, means, duplicates
    """
    from pipeline.config import IngestConfig
    from pipeline.ingest.sources.table import SUFFIXES as TABLES
    from pipeline.ingest.stage import survey
    from pipeline.pictures import views

    output = output or picture_name("inspect", *(one.resolve().stem for one in (path, other) if one))
    views.check_picture_name(output)
    for named in filter(None, (path, other)):
        views.check_exists(named)
    if other is not None:
        lines = views.save_match_view(path, other, output)
    elif path.is_file() and path.suffix.lower() not in TABLES:
        lines = views.save_image_view(path, output)
    else:
        with _looking() as (cache, progress):
            found = survey(IngestConfig(data=str(path)), Path.cwd() / "data", cache, progress)
            views.save_dataset_view(found, output)  # what was stored anew is gone with the folder
        lines = list(found.words())
        if found.rejected:
            lines.append(f"cannot be used: {len(found.rejected)} (pipeline doctor says why)")
    click.echo("\n".join([*lines, f"picture: {shown(str(output))}"]))


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("image", type=PATH)
@click.option("--top", type=click.IntRange(1, 120), default=8, show_default=True, help="Training images to show.")
@click.option("-o", "--output", type=PATH, metavar="FILE.png", help="Where to write the picture.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; a picture is drawn with -o only.")
def similar(run: str, image: Path, top: int, output: Path | None, as_json: bool) -> None:
    """Show the training images that are nearest to an image in the eyes of a run's network.

    RUN is a run's name, its folder or its MLflow run id.

    \b
    pipeline similar default-1 photo.jpg
    pipeline similar runs/default-1 photo.jpg --top 20 -o nearest.png
    pipeline similar default-1 photo.jpg --json | jq '.neighbours[].label'
    """
    from pipeline.pictures.views import check_picture_name
    from pipeline.similar import find_similar
    from pipeline.terminal import Interrupts, TerminalProgress, quiet_tensorflow
    from pipeline.trained import read_query, trained_run

    if not as_json:
        output = output or picture_name("similar", image.resolve().stem)
    if output:
        check_picture_name(output)
    folder, query = trained_run("similar", Path.cwd() / "runs", run), read_query(image)
    with Interrupts() as interrupts, quiet_tensorflow():
        found = find_similar(folder, query, top, TerminalProgress(interrupts))
    if output:
        found.save_picture(output)
    if as_json:
        click.echo(json.dumps(found.document(output), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join([*found.lines(), f"picture: {shown(str(output))}"]))


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("image", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="FILE.png", help="Where to write the picture.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; a picture is drawn with -o only.")
def explain(run: str, image: Path, output: Path | None, as_json: bool) -> None:
    """Draw what a run's network sees in an image: filters, feature maps, what speaks for a class.

    RUN is a run's name, its folder or its MLflow run id.

    \b
    pipeline explain default-1 photo.jpg -o inside.png
    pipeline explain runs/default-1 photo.jpg
    pipeline explain default-1 photo.jpg --json | jq '.receptive_fields[].size'
    """
    from pipeline.explain import explain_image
    from pipeline.pictures.views import check_picture_name
    from pipeline.terminal import Interrupts, quiet_tensorflow
    from pipeline.trained import read_query, trained_run

    if not as_json:
        output = output or picture_name("explain", image.resolve().stem)
    if output:
        check_picture_name(output)
    folder, query = trained_run("explain", Path.cwd() / "runs", run), read_query(image)
    with Interrupts(), quiet_tensorflow():
        found = explain_image(folder, query)
        if output:
            found.save_picture(output)
    if as_json:
        click.echo(json.dumps(found.document(output), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join([*found.lines(), f"picture: {shown(str(output))}"]))


@contextlib.contextmanager
def _looking() -> Iterator[tuple[Path, Progress]]:
    """Yields where to keep what is seen of images, and where to show how far it is.

    A project remembers what it has seen; elsewhere nothing is left behind.
    """
    from pipeline.terminal import Interrupts, TerminalProgress

    cache = Path.cwd() / ".cache"
    with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="pipeline-") as empty:
        yield cache if cache.is_dir() else Path(empty), TerminalProgress(interrupts)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def runs(as_json: bool) -> None:
    """List the runs of this project, the newest first, failed ones too."""
    from pipeline.runs import print_runs, run_rows

    rows = run_rows(Path.cwd() / "runs")
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    elif rows:
        print_runs(rows)
    else:
        click.echo("no runs yet; start one with: pipeline run --data FOLDER", err=True)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.option("--plot", type=PATH, metavar="FILE.png", help="Draw accuracy against operations, trained models too.")
@click.option("--measure", is_flag=True, help="Measure images/s on this machine; some minutes for all of them.")
def models(names: tuple[str, ...], as_json: bool, plot: Path | None, measure: bool) -> None:
    """List the backbones: year, authors, parameters, published accuracy, operations, weights.

    \b
    pipeline models
    pipeline models resnet50 vgg16 efficientnet_lite0 --measure
    pipeline models --plot zoo.png          the published ones beside the runs of this project
    pipeline models --json | jq '.[] | select(.top_1 > 0.8) | .name'
    """
    from pipeline.models.listing import chosen_rows, model_row, print_models
    from pipeline.pictures.views import check_picture_name
    from pipeline.terminal import Interrupts, TerminalProgress, quiet_tensorflow
    from pipeline.zoo import measure_zoo, save_zoo_picture

    if plot:
        check_picture_name(plot, "--plot")
    chosen = chosen_rows(names)
    rows = [model_row(row) for row in chosen]
    if measure:
        with Interrupts() as interrupts, quiet_tensorflow():
            speeds = measure_zoo(chosen, TerminalProgress(interrupts))
        rows = [row | {"images_per_second": speeds[row["name"]]} for row in rows]
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    elif not plot or measure:
        print_models(rows)
    if plot:
        drawn = save_zoo_picture(rows, Path.cwd(), plot)
        click.echo(f"picture: {shown(str(plot))} ({drawn})", err=as_json)


@click.group(cls=Group, invoke_without_command=True, subcommand_metavar="[list|clear]")
@click.pass_context
def bank(ctx: click.Context) -> None:
    """List or clear the features that are kept between runs, in .cache/features.

    Nothing is lost by clearing but the time to compute them again.

    \b
    pipeline bank                   what is kept, for which backbone, how large, when it was last used
    pipeline bank list --json
    pipeline bank clear
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_bank)


@bank.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_bank(as_json: bool) -> None:
    """List what is kept, the most recently used first."""
    from pipeline.train.bank.listing import bank_document, print_bank

    document = bank_document(_store())
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    elif document["shelves"]:
        print_bank(document)
    else:
        click.echo("the bank is empty; training fills it", err=True)


@bank.command("clear")
def clear_bank() -> None:
    """Delete all features, but for those that a process is computing now."""
    from pipeline.train.bank.listing import clear_bank

    click.echo("\n".join(clear_bank(_store())))


def _store() -> FeatureStore:
    from pipeline.config import Config
    from pipeline.train.bank.store import GIB, FeatureStore

    return FeatureStore(Path.cwd() / ".cache" / "features", int(Config().train.bank.budget_gb * GIB))


LOOKING = (doctor, inspect, similar, explain, runs, models, bank)
