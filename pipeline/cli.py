"""The command line: parse, call, print. Only click and the errors are loaded before a command runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli_group import PATH, Group
from pipeline.cli_judging import JUDGING
from pipeline.cli_looking import LOOKING
from pipeline.cli_predict import predict
from pipeline.cli_serving import serve

if TYPE_CHECKING:
    from pipeline.run import RunResult

STAGE_HELP = {
    "ingest": "Find the images, check each, deal them out to train, validation and test.",
    "augment": "Resolve the augmentation policy and draw a preview of it.",
    "build": "Build the network, load its weights, describe it.",
    "train": "Train the head, then fine-tune above the cut.",
    "evaluate": "Measure on the test split.",
    "export": "Write the SavedModel.",
}


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="transfer-pipeline")
def cli() -> None:
    """Retrain a vision model on a folder of labelled images.

    \b
    pipeline run --data photos/        one sub-folder a class; everything else by default
    pipeline run -c configs/default.yaml
    """


@cli.group(chain=True, invoke_without_command=True, cls=Group, subcommand_metavar="[STAGE]...")
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
    from pipeline import places
    from pipeline.plan import Request, plan_run
    from pipeline.run import execute, preflight
    from pipeline.terminal import Interrupts, TerminalProgress, announce, quiet_tensorflow
    from pipeline.tracking import MlflowTracker

    root = Path.cwd()
    tracker = MlflowTracker(root)
    plan = plan_run(Request(config, data, name, settings, resume, tuple(stages)), root / "runs")
    if dry_run:
        preflight(plan, root, tracker, fetch=False)
        click.echo("\n".join([*plan.lines(), *places.lines(plan, root, tracker)]))
        return
    with Interrupts("go on with: pipeline run --resume") as interrupts:
        progress = TerminalProgress(interrupts)
        announce(progress)
        preflight(plan, root, tracker)
        for line in plan.lines():
            progress.say(line)
        # Ingest alone takes less time than TensorFlow takes to load.
        with contextlib.nullcontext() if plan.stages == ("ingest",) else quiet_tensorflow():
            result = execute(plan, root, progress, tracker)
    _summarise(result)


def _summarise(result: RunResult) -> None:
    click.echo()
    if result.headline:
        click.secho(result.headline, bold=True)
    here = Path.cwd()

    def show(path: Path) -> str:
        return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

    folders = dict.fromkeys(show(path.with_name("*.png")) for path in result.pictures)
    rows = [("run", show(result.path)), ("pictures", "  ".join(folders))]
    if result.report:
        rows.append(("report", show(result.report)))
    if result.export:
        rows += [
            ("export", show(result.export)),
            ("predict", f"{_program()} predict {show(result.export)} IMAGE..."),
            ("serve", f"{_program()} serve {show(result.export)}"),
        ]
    if result.report:
        rows.append(("compare", f"{_program()} compare OTHER-RUN {result.run}"))
    rows.append(("all runs", f"make ui  (or: {_program()} ui), then open the address it prints"))
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
@click.argument("run_name", metavar="RUN")
@click.argument("fixes", type=PATH, metavar="FIXES.csv")
@click.option("--name", help="Name of the new run; the next free number by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def relabel(run_name: str, fixes: Path, name: str | None, as_json: bool) -> None:
    """Correct labels in a new run of RUN's recipe; the images and their folders stay as they are.

    FIXES.csv is RUN's label_noise.csv with the column new_label filled in where a label is wrong, or any CSV with the
    columns id and new_label. Corrections that RUN was made with still hold. Only the stage ingest is run.

    \b
    pipeline relabel photos-1 runs/photos-1/label_noise.csv
    pipeline relabel photos-1 fixes.csv --name cleaned
    """
    from pipeline.relabel import relabel_run
    from pipeline.terminal import Interrupts, TerminalProgress, announce
    from pipeline.tracking import MlflowTracker

    root = Path.cwd()
    with Interrupts() as interrupts:
        progress = TerminalProgress(interrupts)
        announce(progress)
        done = relabel_run(run_name, fixes, root, new_name=name, progress=progress, tracker=MlflowTracker(root))
    click.echo(json.dumps(done.document(), ensure_ascii=False, indent=2) if as_json else "\n".join(done.lines()))


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


for _command in (predict, serve, *LOOKING, *JUDGING):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line."""
    cli()
