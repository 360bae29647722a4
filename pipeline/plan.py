"""Which run, which recipe, which stages: decided and checked before anything is written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import Config, build_config, load_config, override, parse_yaml
from pipeline.errors import ConfigError, PipelineError, StageOrderError
from pipeline.files import read_json, text_digest
from pipeline.workdir import STAGES, RunDir, check_known, check_order, find_run, list_runs, name_taken

#: The recipe when none is named: of a user's own folder, and of the sample without one.
PHOTOS, DEFAULT = Path("configs/photos.yaml"), Path("configs/default.yaml")

#: The stages that read a part of the recipe; once one of them has run, the part is fixed.
READERS = {
    "task": ("ingest",), "experiment": ("ingest",), "ingest": ("ingest",), "augment": ("augment", "train"),
    "model": ("build",), "seed": ("train",), "train": ("train",), "evaluate": ("evaluate",), "export": ("export",),
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What the caller said: the options of `pipeline run`."""

    config: Path | None = None
    data: str | None = None
    name: str | None = None
    settings: tuple[str, ...] = ()
    resume: bool = False
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Before:
    """An earlier run of the same experiment, and whether it dealt its images out by the same settings."""

    run: RunDir
    same_splits: bool


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        kind: "new", "joined" or "resumed".
        config: The resolved recipe.
        recipe: The recipe's file, None for the built-in defaults.
        run: The run to go on in, None for a new one.
        name: The new run's name, None for the next free number.
        stages: To run, in order.
        fingerprints: Of each part of the recipe's file, to see later what was edited.
        previous: What a new manifest is compared with, None where ingest is not run or nothing came before.
    """

    kind: str
    config: Config
    recipe: Path | None
    run: RunDir | None
    name: str | None
    stages: tuple[str, ...]
    fingerprints: Mapping[str, str]
    previous: Before | None = None

    @property
    def stem(self) -> str:
        """The recipe's name: of the experiment, unless the recipe names another, and of runs."""
        return self.recipe.stem if self.recipe else "photos"

    @property
    def experiment(self) -> str:
        """The MLflow experiment."""
        return self.config.experiment or self.stem

    def lines(self) -> list[str]:
        """Returns the plan in words, for `--dry-run`."""
        where = f"run {self.run.name}" if self.run else f"new run {self.name or self.stem + '-<n>'}"
        model, train = self.config.model, self.config.train
        searched = f"; searched: {', '.join(train.searched)}" if train.searched else ""
        return [
            f"{self.kind}: {where}, experiment {self.experiment}",
            f"recipe:  {self.recipe or 'built-in defaults'}",
            f"data:    {self.config.ingest.data}",
            f"model:   {model.backbone}, weights {model.weights}",
            f"train:   head {train.head.epochs} epochs ({train.features}{searched}), "
            f"fine-tune {train.fine_tune.epochs} epochs from {train.fine_tune.from_}",
            f"stages:  {' -> '.join(self.stages)}",
        ]


def plan_run(request: Request, runs: Path) -> Plan:
    """Returns the plan for a request.

    Raises:
        ConfigError: The recipe, a setting or the name cannot be used.
        StageOrderError: A stage would not find its input.
    """
    check_known(request.stages)
    stages = tuple(stage for stage in STAGES if stage in (request.stages or STAGES))
    if request.resume:
        plan = _resumed(request, runs)
    elif "ingest" in stages:
        plan = _new(request, runs, stages)
    else:
        plan = _joined(request, runs, stages)
    return replace(plan, previous=_before(plan, runs)) if "ingest" in plan.stages else plan


def _before(plan: Plan, runs: Path) -> Before | None:
    """Returns the newest earlier run of the experiment on the same source, else the newest of the experiment."""
    wanted, origin = plan.config.ingest.model_dump(mode="json"), _origin(plan.config.ingest.data)
    newest: Before | None = None
    for run in list_runs(runs):
        try:
            state = run.load_state()
            if state["experiment"] != plan.experiment or state["stages"]["ingest"]["state"] != "done":
                continue
            stored = parse_yaml(run.config.read_text(encoding="utf-8"), str(run.config))["ingest"]
            source = read_json(run.file("ingest.json"))["source"]
            before = Before(run, all(stored[name] == wanted[name] for name in ("split", "duplicates")))
        except (PipelineError, OSError, KeyError, TypeError, AttributeError):
            continue  # damaged, or of an older version: there is nothing to compare with
        if source == origin:
            return before
        newest = newest or before
    return newest


def _origin(data: str | None) -> str:
    """Returns a source as `ingest.json` names it, so that `photos` and `photos/` are the same."""
    if data is None or data.startswith(("sample:", "tfds:")):
        return str(data)
    return str(Path(data).expanduser().resolve())


def _new(request: Request, runs: Path, stages: tuple[str, ...]) -> Plan:
    recipe = request.config or _default_recipe(request.data, runs.parent)
    config = load_config(recipe, _settings(request))
    if request.name is not None:
        _check_name(request.name, runs)
    check_order(stages, None)
    return Plan("new", config, recipe, None, request.name, stages, _fingerprints(recipe))


def _joined(request: Request, runs: Path, stages: tuple[str, ...]) -> Plan:
    run = find_run(runs, request.name) if request.name else _newest(runs, request.config, unfinished=False)
    if run is None:
        of = f" of {request.config}" if request.config else ""
        raise StageOrderError(f"{stages[0]} joins a run, and there is none{of} in {runs}; run: pipeline run ingest ...")
    check_order(stages, run)
    return _going_on("joined", request, run, stages)


def _resumed(request: Request, runs: Path) -> Plan:
    run = find_run(runs, request.name) if request.name else _newest(runs, request.config, unfinished=True)
    if run is None:
        raise ConfigError(f"nothing to resume: no unfinished run in {runs}; `pipeline runs` lists them all")
    wanted = request.stages or STAGES
    stages = tuple(stage for stage in run.unfinished() if stage in wanted)
    if not stages:
        raise ConfigError(f"nothing to resume: run {run.name!r} has finished its stages")
    check_order(stages, run)
    return _going_on("resumed", request, run, stages)


def _going_on(kind: str, request: Request, run: RunDir, stages: tuple[str, ...]) -> Plan:
    state = run.load_state()
    try:
        stored = parse_yaml(run.config.read_text(encoding="utf-8"), str(run.config))
    except OSError as error:
        raise ConfigError(f"run {run.name!r} ended before its recipe was kept; delete {run.path}") from error
    recipe = Path(state["recipe"]) if state["recipe"] else None
    fingerprints = state["fingerprints"]
    tree = dict(stored)
    if request.config:
        edited, fingerprints = _edited(request.config, fingerprints)
        tree |= edited
    config = build_config(override(tree, _settings(request)))
    _check_unchanged(build_config(stored), config, run)
    return Plan(kind, config, recipe, run, run.name, stages, fingerprints)


def _edited(recipe: Path, before: Mapping[str, str]) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Returns the parts of a recipe that were edited since its run began, resolved, and the new fingerprints."""
    resolved = load_config(recipe).model_dump(mode="json")
    now = _fingerprints(recipe)
    return {part: resolved[part] for part in READERS if now.get(part) != before.get(part)}, now


def _check_unchanged(stored: Config, config: Config, run: RunDir) -> None:
    for part, stages in READERS.items():
        stage = next((stage for stage in stages if run.stage_state(stage) is not None), None)
        if stage and getattr(stored, part) != getattr(config, part):
            raise ConfigError(
                f"{part}: stage {stage} has run in {run.name!r} with other values; "
                "start a new run for these (name the stage ingest, or no stage)"
            )


def _newest(runs: Path, recipe: Path | None, unfinished: bool) -> RunDir | None:
    for run in list_runs(runs):
        same = recipe is None or _same_file(run.load_state()["recipe"], recipe)
        if same and not (unfinished and not run.unfinished()):
            return run
    return None


def _same_file(stored: str | None, recipe: Path) -> bool:
    return stored is not None and Path(stored).resolve() == recipe.resolve()


def _settings(request: Request) -> list[str]:
    data = [f"ingest.data={json.dumps(request.data)}"] if request.data is not None else []
    return [*request.settings, *data]


def _default_recipe(data: str | None, root: Path) -> Path | None:
    recipe = root / (DEFAULT if data is None else PHOTOS)
    if recipe.exists():
        return Path(os.path.relpath(recipe))
    if data is not None:
        return None  # the built-in defaults are the photo recipe
    raise ConfigError(f"no {DEFAULT} here; name a folder of images with --data, or a recipe with -c")


def _check_name(name: str, runs: Path) -> None:
    if name != Path(name).name or name.startswith(".") or not name:
        raise ConfigError(f"--name {name!r} must be a plain folder name, without '/' and no leading dot")
    if len(name.encode()) > 200:
        raise ConfigError(f"--name of {len(name)} characters is too long for a folder; use a shorter one")
    if (runs / name).exists():
        raise name_taken(name, runs)


def _fingerprints(recipe: Path | None) -> dict[str, str]:
    if recipe is None:
        return {}
    tree = parse_yaml(recipe.read_text(encoding="utf-8"), str(recipe)) or {}
    return {part: text_digest(repr(value)) for part, value in tree.items()}
