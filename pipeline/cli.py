"""The command line: parse, call, print. Only click and the errors are loaded before a command runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.export.predict import Prediction
    from pipeline.progress import Progress
    from pipeline.run import RunResult

STAGE_HELP = {
    "ingest": "Find the images, check each, deal them out to train, validation and test.",
    "augment": "Resolve the augmentation policy and draw a preview of it.",
    "build": "Build the network, load its weights, describe it.",
    "train": "Train the head, then fine-tune above the cut.",
    "evaluate": "Measure on the test split.",
    "export": "Write the SavedModel.",
}

PATH = click.Path(path_type=Path)


class _Group(click.Group):
    """A group whose commands turn a `PipelineError` into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            ctx.exit(1)
        except BrokenPipeError:  # `| head` has seen enough; Click ends quietly
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            reason = error.strerror or error
            click.secho(f"error: {place}{reason}; check permissions and space", fg="red", err=True)
            ctx.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command of a name; a misspelt one is a usage error that offers the nearest."""
        from pipeline.errors import nearest

        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"no {'stage' if self.chain else 'command'} {name!r}: {nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="transfer-pipeline")
def cli() -> None:
    """Retrain a vision model on a folder of labelled images.

    \b
    pipeline run --data photos/        one sub-folder a class; everything else by default
    pipeline run -c configs/default.yaml
    """


@cli.group(chain=True, invoke_without_command=True, cls=_Group, subcommand_metavar="[STAGE]...")
@click.option("-c", "--config", type=PATH, help="Recipe (YAML). `pipeline init` writes one.")
@click.option(
    "--data", metavar="SOURCE", help="Folder with a sub-folder a class, .csv, .parquet, tfds:NAME or sample:NAME."
)
@click.option("--name", help="Name of a new run, or of the run to join or resume.")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change one setting, e.g. train.head.epochs=20."
)
@click.option("--resume", is_flag=True, help="Go on with the newest unfinished run, or --name.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
def run(**options: Any) -> None:
    """Run stages, in order; all six when none is named.

    With the stage ingest (or no stage) a new run begins; without it the stages join --name, or the newest run of the
    recipe. Options stand before stages.

    \b
    pipeline run -c configs/default.yaml
    pipeline run -c configs/default.yaml ingest augment build
    pipeline run -c configs/default.yaml train evaluate export
    """


def _stage_command(name: str, text: str) -> click.Command:
    return click.Command(name, callback=lambda: name, help=text, short_help=text)


for _name, _text in STAGE_HELP.items():
    run.add_command(_stage_command(_name, _text))


@run.result_callback()
def _run(
    stages: Sequence[str], config: Path | None, data: str | None, name: str | None, settings: tuple[str, ...],
    resume: bool, dry_run: bool,
) -> None:  # fmt: skip
    from pipeline.plan import Request, plan_run
    from pipeline.run import execute, preflight
    from pipeline.terminal import Interrupts, TerminalProgress, announce, quiet_tensorflow
    from pipeline.tracking import MlflowTracker

    root = Path.cwd()
    plan = plan_run(Request(config, data, name, settings, resume, tuple(stages)), root / "runs")
    if dry_run:
        preflight(plan, root, fetch=False)
        click.echo("\n".join(plan.lines()))
        return
    with Interrupts("go on with: pipeline run --resume") as interrupts:
        progress = TerminalProgress(interrupts)
        announce(progress)
        preflight(plan, root)
        for line in plan.lines():
            progress.say(line)
        # Ingest alone takes less time than TensorFlow takes to load.
        with contextlib.nullcontext() if plan.stages == ("ingest",) else quiet_tensorflow():
            result = execute(plan, root, progress, MlflowTracker(root))
    _summarise(result)


def _summarise(result: RunResult) -> None:
    click.echo()
    if result.headline:
        click.secho(result.headline, bold=True)
    here = Path.cwd()

    def show(path: Path) -> str:
        return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

    rows = [("run", show(result.path)), ("pictures", "  ".join(show(path) for path in result.pictures))]
    if result.export:
        rows += [("export", show(result.export)), ("predict", f"{_program()} predict {show(result.export)} IMAGE...")]
    rows.append(("compare", f"make ui  (or: {_program()} ui), then open the address it prints"))
    for name, text in rows:
        if text:
            click.echo(f"  {name:<10}{text}")


def _program() -> str:
    """Returns how this command can be called again: the script may be in a virtual environment that is not active."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return "python -m pipeline"
    found = shutil.which(script.name)
    here = found is not None and Path(found).resolve() == script.resolve()
    if here:
        return script.name
    return os.path.relpath(script) if script.resolve().is_relative_to(Path.cwd()) else str(script)


@cli.command()
@click.argument("export_dir", type=PATH)
@click.argument("paths", type=PATH, nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Labels to show per image.")
@click.option("-o", "--output", type=PATH, help="Write a .csv, .jsonl or .parquet file instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def predict(export_dir: Path, paths: tuple[Path, ...], top: int, output: Path | None, as_json: bool) -> None:
    """Label images with an exported model; PATH is an image or a folder of them.

    \b
    pipeline predict runs/default-1/export photo.jpg
    pipeline predict runs/default-1/export photos/ --top 3 -o labels.csv
    """
    from pipeline.export.predict import Predictor, check_output, collect_images, write_predictions
    from pipeline.terminal import Interrupts, TerminalProgress, quiet_tensorflow

    if output:
        check_output(output)
    images = collect_images(paths)
    with Interrupts() as interrupts, quiet_tensorflow():
        predictor = Predictor(export_dir)
        with TerminalProgress(interrupts).bar("predict", len(images)) as bar:
            found = []
            for prediction in predictor.predict(images):
                found.append(prediction)
                bar.advance()
    if output:
        write_predictions(found, predictor.labels, output)
        click.echo(f"{len(found)} predictions in {output}", err=True)
    elif as_json:
        click.echo(json.dumps([prediction.document() for prediction in found], ensure_ascii=False, indent=2))
    else:
        for prediction in found:
            click.echo(_prediction_line(prediction, top))
    if all(prediction.error for prediction in found):
        sys.exit(1)


def _prediction_line(prediction: Prediction, top: int) -> str:
    from pipeline.errors import shown

    path = shown(prediction.path)  # a line an image, whatever its name
    if prediction.error:
        return f"{path}: error: {prediction.error}"
    labels = ", ".join(f"{label} {probability:.3f}" for label, probability in prediction.top(top))
    return f"{path}: {labels}"


@cli.command()
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


@cli.command()
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

    output = output or Path(f"inspect-{path.resolve().stem[:200]}{f'-{other.stem[:40]}' if other else ''}.png")
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
    click.echo("\n".join([*lines, f"picture: {output}"]))


@contextlib.contextmanager
def _looking() -> Iterator[tuple[Path, Progress]]:
    """Yields where to keep what is seen of images, and where to show how far it is.

    A project remembers what it has seen; elsewhere nothing is left behind.
    """
    from pipeline.terminal import Interrupts, TerminalProgress

    cache = Path.cwd() / ".cache"
    with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="pipeline-") as empty:
        yield cache if cache.is_dir() else Path(empty), TerminalProgress(interrupts)


@cli.command()
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


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def models(as_json: bool) -> None:
    """List the backbones: size, parameters, published accuracy, weights."""
    from pipeline.models.listing import model_rows, print_models

    if as_json:
        click.echo(json.dumps(model_rows(), indent=2))
    else:
        print_models(model_rows())


@cli.command()
@click.argument("names", nargs=-1, required=True)
def weights(names: tuple[str, ...]) -> None:
    """Fetch and check the ImageNet weights of backbones, for machines that will have no network.

    \b
    pipeline weights efficientnet_lite0 inception_v3
    """
    from pipeline.models.backbones import find_backbone
    from pipeline.models.weights import locate_weights
    from pipeline.terminal import TerminalProgress, announce

    announce(TerminalProgress())
    for row in [find_backbone(name) for name in names]:
        click.echo(f"{row.name}: {locate_weights(row, 'imagenet')}")


@cli.command()
@click.argument("file", type=PATH)
def init(file: Path) -> None:
    """Write a recipe with every setting, its default and what it does.

    \b
    pipeline init configs/mine.yaml
    """
    from pipeline.config import Config, commented_yaml
    from pipeline.errors import ConfigError
    from pipeline.files import write_text

    if file.exists():
        raise ConfigError(f"{file} exists; name a new file, or delete it first")
    try:
        write_text(file, f"# pipeline run -c {file} --data FOLDER\n\n{commented_yaml(Config())}")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}; name a file in a folder of your own") from error
    click.echo(f"wrote {file}; edit it, then: pipeline run -c {file} --data FOLDER")


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port to listen on.")
def ui(port: int) -> None:
    """Open the MLflow UI on this project's runs, on this machine only."""
    from pipeline.tracking import serve_ui

    serve_ui(Path.cwd(), port)


def main() -> None:
    """Runs the command line."""
    cli()
