"""A call of the pipeline: looked over first, then its stages one after the other inside one tracked run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.conductor import Conductor
from pipeline.config import dump_yaml
from pipeline.errors import SpaceError, TrackingError
from pipeline.files import read_json, write_text
from pipeline.ingest import check_source
from pipeline.models.backbones import find_backbone, input_size
from pipeline.places import check_places
from pipeline.plan import Plan, Request, plan_run
from pipeline.progress import Progress, Silent
from pipeline.tasks.table import check_task
from pipeline.tracking import MlflowTracker, Tracker
from pipeline.workdir import RunDir, claim_run, environment


@dataclass(frozen=True)
class RunResult:
    """What a call of the pipeline left behind.

    Attributes:
        run: Name of the run.
        path: Its folder.
        headline: The score in one line, None before evaluate has run.
        metrics: `test/top_1` and the others, empty before evaluate has run.
        pictures: PNG files of the run.
        report: The page that shows all of it, None before evaluate has run.
        export: The SavedModel's folder, None before export has run.
    """

    run: str
    path: Path
    headline: str | None
    metrics: Mapping[str, float]
    pictures: tuple[Path, ...]
    report: Path | None
    export: Path | None


def run_pipeline(
    request: Request, root: Path | None = None, *, progress: Progress | None = None, tracker: Tracker | None = None
) -> RunResult:
    """Returns the result of running the stages that a request asks for, in a new, a joined or a resumed run.

    Args:
        request: As the options of `pipeline run`.
        root: The project's folder, with `runs/`, `data/` and `mlflow.db`; the current one by default.
        progress: Where to show how far it is; silent by default.
        tracker: Where to log; MLflow by default.

    Raises:
        PipelineError: The user's input cannot be used; one line that says what to do.
    """
    root = root or Path.cwd()
    plan = plan_run(request, root / "runs")
    tracker = tracker or MlflowTracker(root)
    preflight(plan, root, tracker)
    return execute(plan, root, progress or Silent(), tracker)


def preflight(plan: Plan, root: Path, tracker: Tracker, *, fetch: bool = True) -> None:
    """Looks for everything that would fail later and can be known now. Writes nothing in the project.

    Args:
        plan: What is to be done.
        root: The project's folder.
        tracker: Where the run will be logged.
        fetch: Whether missing weights may be downloaded.

    Raises:
        PipelineError: The first thing found.
    """
    from pipeline.augment.policy import load_policy
    from pipeline.export.formats.table import check_installed
    from pipeline.models.weights import locate_weights

    check_places(plan, root, tracker)
    check_task(plan.config.task)
    row = find_backbone(plan.config.model.backbone)
    row.check_size(input_size(plan.config.model))
    row.check_options(plan.config.model.options)
    load_policy(plan.config.augment.transforms)
    if "export" in plan.stages:
        check_installed(plan.config.export.formats)
    if fetch and {"build", "train"} & set(plan.stages):
        check_places(plan, root, tracker, locate_weights(row, plan.config.model.weights))
    if "ingest" in plan.stages:
        check_source(plan.config.ingest, root / "data", root / ".cache")
    if "export" in plan.stages and plan.config.export.register_ is not None:
        tracker.check_model_name(plan.config.export.register_)


def execute(plan: Plan, root: Path, progress: Progress, tracker: Tracker) -> RunResult:
    """Returns the result of a plan that passed its preflight; a failed or interrupted stage is noted as such."""
    run = plan.run or claim_run(root / "runs", plan.name, plan.stem, _identity(plan))
    conductor = Conductor(plan, run, root, progress, tracker)
    with run.exclusive():
        with _forgotten_on_error(plan, run):
            write_text(run.config, dump_yaml(plan.config))
        with _tracked(plan, run, tracker):
            for stage in plan.stages:
                conductor.run_stage(stage)
        return _result(run)


def _identity(plan: Plan) -> dict[str, Any]:
    return {
        "recipe": str(plan.recipe) if plan.recipe else None,
        "experiment": plan.experiment,
        "fingerprints": dict(plan.fingerprints),
        "mlflow_run_id": None,
    }


@contextmanager
def _forgotten_on_error(plan: Plan, run: RunDir) -> Iterator[None]:
    """Removes a new run's folder where the block fails: nothing has been done in it, and its name stays free."""
    try:
        yield
    except BaseException:
        if plan.kind == "new":
            shutil.rmtree(run.path, ignore_errors=True)
        raise


@contextmanager
def _tracked(plan: Plan, run: RunDir, tracker: Tracker) -> Iterator[None]:
    """Opens the run's one MLflow run for the block and closes it with the status that the block ended in."""
    with _forgotten_on_error(plan, run):
        run_id = tracker.start(
            experiment=plan.experiment,
            run_name=run.name,
            run_id=run.load_state()["mlflow_run_id"],
            tags={"task": plan.config.task, "backbone": plan.config.model.backbone},
        )
        run.update_state(mlflow_run_id=run_id, fingerprints=dict(plan.fingerprints))
    try:
        write_text(run.file("environment.txt"), environment())
        for artifact in (run.config, run.file("environment.txt")):
            tracker.log_artifact(artifact)
        yield
    except KeyboardInterrupt:
        _end(tracker, "KILLED", "interrupted")
        raise
    except BaseException as error:
        told = [*getattr(error, "__notes__", []), str(error) or type(error).__name__]
        _end(tracker, "FAILED", ": ".join(told))
        raise
    tracker.finish("FINISHED")


def _end(tracker: Tracker, status: Literal["FAILED", "KILLED"], reason: str) -> None:
    # What ended the run is what the user must see, not that a dead server or a full disk could not be told of it.
    with contextlib.suppress(TrackingError, SpaceError):
        tracker.finish(status, reason)


def _result(run: RunDir) -> RunResult:
    done = run.stage_state("evaluate") == "done"
    evaluation = read_json(run.evaluation) if done else {"headline": None, "metrics": {}}
    return RunResult(
        run=run.name,
        path=run.path,
        headline=evaluation["headline"],
        metrics=evaluation["metrics"],
        pictures=(*sorted(run.path.glob("*.png")), *sorted(run.explanations.glob("*.png"))),
        report=run.report if done else None,
        export=run.export if run.stage_state("export") == "done" else None,
    )
