"""Where each artefact of a run lives, and in which state its stages are."""

from __future__ import annotations

import importlib.metadata
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock

from pipeline.errors import ConfigError, PipelineError, StageOrderError, nearest
from pipeline.files import read_json, write_json

#: In the order in which they run.
STAGES = ("ingest", "augment", "build", "train", "evaluate", "export")

#: What each stage reads of the others.
NEEDS = {
    "ingest": (),
    "augment": ("ingest",),
    "build": ("ingest",),
    "train": ("ingest", "build"),
    "evaluate": ("ingest", "train"),
    "export": ("ingest", "train"),
}

State = Literal["running", "done", "failed", "killed", "stale"]


@dataclass(frozen=True)
class RunDir:
    """A folder `runs/<name>/`. Paths are attributes; the state of its stages is in `run.json`."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def project(self) -> Path:
        """The folder that `runs/` is in; the current one where the run lies elsewhere."""
        return self.path.parent.parent if self.path.parent.name == "runs" else Path.cwd()

    def file(self, name: str) -> Path:
        """Returns the path of an artefact, by the name it has in the design's table."""
        return self.path / name

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """The images, their labels and splits."""
        return self.path / "manifest.parquet"

    @property
    def checkpoints(self) -> Path:
        """Where unfinished training goes on from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained Keras model: raw pixels -> logits."""
        return self.path / "model.keras"

    @property
    def history(self) -> Path:
        """A row an epoch."""
        return self.path / "history.csv"

    @property
    def calibration(self) -> Path:
        """Temperature and threshold, fitted on validation."""
        return self.path / "calibration.json"

    @property
    def evaluation(self) -> Path:
        """Metrics and tables of the test split."""
        return self.path / "evaluation.json"

    @property
    def predictions(self) -> Path:
        """A row a test image."""
        return self.path / "predictions.parquet"

    @property
    def report(self) -> Path:
        """All of it on one page."""
        return self.path / "report.html"

    @property
    def explanations(self) -> Path:
        """Pictures of what the network sees in a few test images."""
        return self.path / "explain"

    @property
    def export(self) -> Path:
        """The SavedModel."""
        return self.path / "export"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps every other process out of this run for the block; the system lets go of it when a process dies.

        Raises:
            ConfigError: Another process is in it.
        """
        try:
            with filelock.FileLock(self.path / ".lock", timeout=0):
                yield
        except filelock.Timeout as error:
            raise ConfigError(
                f"run {self.name!r} is in use by another process; wait for it, or begin a new run"
            ) from error

    def load_state(self) -> dict[str, Any]:
        """Returns what `run.json` holds."""
        state: dict[str, Any] = read_json(self.path / "run.json")
        return state

    def update_state(self, **changes: Any) -> None:
        """Writes some keys of `run.json`."""
        write_json(self.path / "run.json", {**self.load_state(), **changes})

    def stage_state(self, stage: str) -> State | None:
        """Returns the state of a stage, None where it has not been started."""
        state: State | None = self.load_state()["stages"].get(stage, {}).get("state")
        return state

    def mark(self, stage: str, state: State, seconds: float | None = None) -> None:
        """Notes the state of a stage; starting one makes what came after it stale."""
        stages = self.load_state()["stages"]
        stages[stage] = {"state": state} | ({} if seconds is None else {"seconds": round(seconds, 2)})
        if state == "running":
            for later in STAGES[STAGES.index(stage) + 1 :]:
                if later in stages and stages[later]["state"] == "done":
                    stages[later]["state"] = "stale"
        self.update_state(stages=stages)

    def unfinished(self) -> list[str]:
        """Returns the stages that are not done, in order."""
        return [stage for stage in STAGES if self.stage_state(stage) != "done"]


def claim_run(runs: Path, name: str | None, stem: str, state: dict[str, Any]) -> RunDir:
    """Returns a new run's folder, made in one step so that two processes never share one.

    Raises:
        ConfigError: The name is taken, or nothing can be written there.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(runs, error) from error
    try:
        if name is not None:
            (runs / name).mkdir()
            run = RunDir(runs / name)
        else:
            run = _claim_next(runs, stem)
    except FileExistsError:
        raise name_taken(name or stem, runs) from None
    except OSError as error:
        raise _unwritable(runs, error) from error
    try:
        write_json(run.path / "run.json", {"name": run.name, "created": time.time(), "stages": {}, **state})
    except BaseException:
        run.path.rmdir()  # a folder without it would be no run, and its name taken
        raise
    return run


def _unwritable(runs: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{runs} cannot be written: {error.strerror}; check permissions and space")


def name_taken(name: str, runs: Path) -> ConfigError:
    """Returns the error for a new run whose name an older one has."""
    return ConfigError(f"run {name!r} exists in {runs}; choose another --name, or name a later stage to join it")


def _claim_next(runs: Path, stem: str) -> RunDir:
    taken = [path.name.removeprefix(f"{stem}-") for path in runs.glob(f"{stem}-*")]
    number = max((int(rest) for rest in taken if rest.isdecimal()), default=0) + 1
    while True:
        try:
            (runs / f"{stem}-{number}").mkdir()
        except FileExistsError:
            number += 1  # another process was faster
        else:
            return RunDir(runs / f"{stem}-{number}")


def environment() -> str:
    """Returns the installed packages, a line `name==version` each: what `environment.txt` holds."""
    found = {(dist.metadata["Name"] or "?", dist.version) for dist in importlib.metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found, key=lambda pair: pair[0].lower()))


def list_runs(runs: Path) -> Iterator[RunDir]:
    """Yields the runs in a folder, the newest first."""
    found = [RunDir(path.parent) for path in runs.glob("*/run.json")]
    yield from sorted(found, key=lambda run: run.load_state()["created"], reverse=True)


def find_run(runs: Path, name: str) -> RunDir:
    """Returns the run of a name, a folder or an MLflow run id.

    Raises:
        ConfigError: There is no such run; the nearest name is offered.
    """
    for path in (runs / name, Path(os.path.abspath(name))):
        if (path / "run.json").is_file():
            return RunDir(path)
    names = []
    for run in list_runs(runs):
        if run.load_state().get("mlflow_run_id") == name:
            return run
        names.append(run.name)
    if names and re.fullmatch("[0-9a-f]{32}", name):
        raise ConfigError(
            f"no run in {runs} has the MLflow run id {name}; `pipeline runs --json` lists the ids there are"
        )
    raise ConfigError(f"no run {name!r} in {runs}: {nearest(name, names) if names else 'there are no runs yet'}")


def check_order(stages: tuple[str, ...], run: RunDir | None) -> None:
    """Looks whether every stage will find its input, made earlier or by an earlier stage of the same call.

    Raises:
        StageOrderError: It will not; the message says which stages to run.
    """
    for place, stage in enumerate(stages):
        missing = [
            needed
            for needed in NEEDS[stage]
            if needed not in stages[:place] and (run is None or run.stage_state(needed) != "done")
        ]
        if missing:
            raise _out_of_order(stage, missing[-1], stages, run)


def check_done(command: str, stage: str, run: RunDir) -> None:
    """Looks whether a command will find in a run what a stage makes.

    Raises:
        StageOrderError: It will not; the message says which stages to run.
    """
    if run.stage_state(stage) != "done":
        raise _out_of_order(command, stage, (stage,), run)


def _out_of_order(who: str, needed: str, stages: tuple[str, ...], run: RunDir | None) -> StageOrderError:
    """Returns the error for what needs a stage that is not done, where `stages` were to be run."""
    state = (run.stage_state(needed) if run else None) or "missing"
    where = f"run {run.name!r}" if run else "a new run"
    todo = _with_inputs(stages, run)
    # Stages with ingest would begin a new run; one whose ingest is not done can only be resumed.
    named = (f"--name {run.name} " + ("--resume " if "ingest" in todo else "")) if run else ""
    return StageOrderError(
        f"{who} needs {needed}, which is {state} in {where}; run: pipeline run {named}{' '.join(todo)}"
    )


def _with_inputs(stages: tuple[str, ...], run: RunDir | None) -> list[str]:
    """Returns the stages, and before them all that they need and that is not done."""
    wanted = set(stages)
    for stage in reversed(STAGES):
        if stage in wanted:
            wanted |= {needed for needed in NEEDS[stage] if run is None or run.stage_state(needed) != "done"}
    return [stage for stage in STAGES if stage in wanted]


def check_known(stages: tuple[str, ...]) -> None:
    """Looks whether the names are stages.

    Raises:
        PipelineError: One is not; the nearest spelling is offered.
    """
    for stage in stages:
        if stage not in STAGES:
            raise PipelineError(f"unknown stage {stage!r}: {nearest(stage, STAGES)}")
