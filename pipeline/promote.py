"""An alias of the registry moved to a run's model, after the model was verified and compared with the one before it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.compare import Compared, compare_runs, record_comparison
from pipeline.errors import CheckError, ConfigError, ExportError, PipelineError
from pipeline.export import verify
from pipeline.files import file_digest
from pipeline.registration import answers_digest, version_tags
from pipeline.tracking import Registry, Version, check_alias, check_model_name
from pipeline.workdir import RunDir, check_done, find_run

_ANYWAY = "--even-if-worse promotes it all the same"


@dataclass(frozen=True)
class Options:
    """How to promote.

    Attributes:
        alias: That is to be moved.
        register: The registered model to make a version of where the run has none in it.
        intersection: Whether different test sets may be compared on what they share.
        even_if_worse: Whether to promote what is worse, or cannot be compared.
    """

    alias: str
    register: str | None = None
    intersection: bool = False
    even_if_worse: bool = False


@dataclass(frozen=True)
class Judged:
    """What speaks for a version and against it.

    Attributes:
        verdict: The outcome of the comparison, or why there is none.
        against: Why the version should not be promoted; None where nothing is known against it.
        compared: The comparison, where there is one.
    """

    verdict: str
    against: str | None = None
    compared: Compared | None = None


@dataclass(frozen=True)
class Promotion:
    """What came of a promotion.

    Attributes:
        run: That was to be promoted.
        alias: That was to be moved.
        version: Of the run.
        before: The version that had the alias; None where none had.
        judged: How the two compare.
        moved: Whether the alias has moved.
    """

    run: RunDir
    alias: str
    version: Version
    before: Version | None
    judged: Judged
    moved: bool

    @property
    def refusal(self) -> str | None:
        """Why the alias was not moved; None where it was, or was there already."""
        return None if self.moved or self.judged.against is None else f"{self.judged.against}; {_ANYWAY}"

    def document(self) -> dict[str, Any]:
        """Returns what `promote --json` prints."""
        compared = self.judged.compared
        return {
            "run": self.run.name, "model": self.version.name, "version": self.version.number, "alias": self.alias,
            "moved": self.moved, "verdict": self.judged.verdict, "against": self.judged.against,
            "before": self.before and {"version": self.before.number, "run": self.before.tags.get("run")},
            "comparison": compared and compared.document(None),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Returns it for people."""
        if not self.moved:
            return [self.judged.verdict]
        instead = f" instead of {_called(self.before)}" if self.before else ""
        return [self.judged.verdict, f"{self.version} is its {self.alias} now{instead}"]


def promote_run(runs: Path, name: str, options: Options) -> Promotion:
    """Returns what came of giving an alias to the version that a run's export has in the registry.

    Args:
        runs: The project's folder of runs.
        name: The run's name, folder or MLflow run id.
        options: How.

    Raises:
        ConfigError: There is no such run, it was not registered, or the alias cannot be.
        StageOrderError: The stage export is not done.
        CheckError: The export is not what was exported, or the two cannot be compared.
        PipelineError: Something of a run or of the store cannot be read; one line.
    """
    check_alias(options.alias)
    if options.register is not None:
        check_model_name(options.register, "--register")
    run = find_run(runs, name)
    check_done("promote", "export", run)
    registry = Registry(run.project)
    with run.exclusive():  # the export and the answers stay what they are meanwhile
        digest = _verified(run)
        version = _registered(run, digest, registry, options.register)
        before = registry.holder(version.name, options.alias)
        if before and before.number == version.number:
            judged = Judged(f"{version} is its {options.alias} already")
            return Promotion(run, options.alias, version, before, judged, moved=False)
        judged = _judge(run, before, options)
        if judged.against is None or options.even_if_worse:
            registry.move_alias(options.alias, version, before, _tags(options.alias, before, judged))
            return Promotion(run, options.alias, version, before, judged, moved=True)
    return Promotion(run, options.alias, version, before, judged, moved=False)


def _verified(run: RunDir) -> str:
    """Returns the digest of a run's export, which was asked its golden images again.

    Raises:
        CheckError: It is not what was exported.
        ExportError: It is gone.
    """
    try:
        report = verify.verify(run.export)
    except verify.NotAnExport as error:
        raise ExportError(f"{error}; run: pipeline run --name {run.name} export") from error
    if not report["ok"]:
        first = report["problems"][0]
        raise CheckError(
            f"{run.export} is not what was exported: {first['file']}: {first['problem']}; "
            f"nothing was promoted; run: pipeline run --name {run.name} export"
        )
    return file_digest(run.export / verify.SUMS)


def _registered(run: RunDir, digest: str, registry: Registry, name: str | None) -> Version:
    """Returns the version that was made of a run's export, or is made now where a model to register it in is named."""
    run_id = run.load_state().get("mlflow_run_id")
    if run_id is None:
        raise ConfigError(f"run {run.name!r} was not recorded in MLflow, so it has no model there to promote")
    versions = registry.versions(run_id)
    same = [one for one in versions if one.tags.get("export") == digest and name in (None, one.name)]
    if len({one.name for one in same}) > 1:
        names = ", ".join(sorted({one.name for one in same}))
        raise ConfigError(f"run {run.name!r} is registered in several models: {names}; name one with --register")
    if same:
        return same[0]
    if name is None and versions:
        newest = versions[0]
        raise ConfigError(
            f"{newest} is not of the export that {run.name!r} has now; --register {newest.name} makes one"
        )
    if name is None:
        raise ConfigError(f"run {run.name!r} was never registered; --register NAME does that now")
    model_id = registry.logged_model(run_id, digest)
    if model_id is None:
        raise ConfigError(
            f"run {run.name!r} has no LoggedModel of its export; with export.logged_model true, run: "
            f"pipeline run --name {run.name} export"
        )
    return registry.register(name, model_id, version_tags(run))


def _judge(run: RunDir, before: Version | None, options: Options) -> Judged:
    """Returns how a run compares with the version that has the alias."""
    if before is None:
        return Judged(f"nothing had the alias {options.alias} before")
    holder = _run_of(before, run)
    if holder is None:
        known = before.tags.get("run") or before.run_id or "no run"
        return _unknown(
            f"{before} comes from {known}, which is not in {run.path.parent}, so nothing shows which is better"
        )
    answers = answers_digest(holder)
    if before.tags.get("answers", answers) != answers:
        return _unknown(
            f"{holder.name} was trained or evaluated again since {before} was made of it: its answers are gone"
        )
    if holder.path.resolve() == run.path.resolve():
        if "answers" not in before.tags:
            return _unknown(f"{before} is an earlier export of {run.name}, from before the stage evaluate was run")
        return Judged(f"{before} is an earlier export of {run.name}, with the same answers to its test images")
    try:
        found = compare_runs(run.path.parent, str(holder.path), str(run.path), intersection=options.intersection)
    except PipelineError as error:
        if options.even_if_worse:
            return _unknown(f"not compared with {holder.name}: {error}")
        raise
    record_comparison(found, None)
    return Judged(found.verdict, found.verdict if found.comparison.outcome == "worse" else None, found)


def _run_of(version: Version, beside: RunDir) -> RunDir | None:
    """Returns the run that a version comes from, where it is in the same project as another."""
    try:
        return find_run(beside.path.parent, version.run_id) if version.run_id else None
    except ConfigError:
        return None


def _unknown(reason: str) -> Judged:
    return Judged(reason, reason)


def _tags(alias: str, before: Version | None, judged: Judged) -> dict[str, str]:
    """Returns when a version was promoted, instead of which, and on what grounds."""
    return {
        f"{alias}.since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        f"{alias}.instead_of": _called(before) if before else "nothing",
        f"{alias}.verdict": judged.verdict + (" (promoted all the same)" if judged.against else ""),
    }


def _called(version: Version) -> str:
    known = version.tags.get("run")
    return f"version {version.number}" + (f" (run {known})" if known else "")
