"""The conductor: runs the stages in order, keeps the run directory, and tells the tracker. Knows all three."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.config import Config, dump_yaml
from pipeline.errors import ModelError, TrackingError
from pipeline.files import atomic_path, read_json, write_csv, write_json, write_text
from pipeline.ingest import check_source, ingest
from pipeline.ingest.manifest import Manifest, load_manifest, save_manifest
from pipeline.models.backbones import find_backbone, input_size
from pipeline.plan import Plan, Request, plan_run
from pipeline.progress import Progress, Silent
from pipeline.tasks.table import check_task, load_task
from pipeline.tracking import MlflowTracker, Tracker
from pipeline.workdir import RunDir, claim_run, environment

if TYPE_CHECKING:
    from pipeline.augment.policy import Policy
    from pipeline.models.network import Network
    from pipeline.tasks.base import Task

#: Images beside their variants in `augment.png`.
PREVIEW_IMAGES = 6


@dataclass(frozen=True)
class RunResult:
    """What a call of the pipeline left behind.

    Attributes:
        run: Name of the run.
        path: Its folder.
        headline: The score in one line, None before evaluate has run.
        metrics: `test/top_1` and the others, empty before evaluate has run.
        pictures: PNG files of the run.
        export: The SavedModel's folder, None before export has run.
    """

    run: str
    path: Path
    headline: str | None
    metrics: Mapping[str, float]
    pictures: tuple[Path, ...]
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
    preflight(plan, root)
    return execute(plan, root, progress or Silent(), tracker or MlflowTracker(root))


def preflight(plan: Plan, root: Path, *, fetch: bool = True) -> None:
    """Looks for everything that would fail later and can be known now. Writes nothing in the project.

    Args:
        plan: What is to be done.
        root: The project's folder.
        fetch: Whether missing weights may be downloaded.

    Raises:
        PipelineError: The first thing found.
    """
    from pipeline.augment.policy import load_policy
    from pipeline.models.weights import locate_weights

    check_task(plan.config.task)
    row = find_backbone(plan.config.model.backbone)
    row.check_size(input_size(plan.config.model))
    load_policy(plan.config.augment.transforms)
    if fetch and {"build", "train"} & set(plan.stages):
        locate_weights(row, plan.config.model.weights)
    if "ingest" in plan.stages:
        check_source(plan.config.ingest, root / "data")


def execute(plan: Plan, root: Path, progress: Progress, tracker: Tracker) -> RunResult:
    """Returns the result of a plan that passed its preflight; a failed or interrupted stage is noted as such."""
    run = plan.run or claim_run(root / "runs", plan.name, plan.stem, _identity(plan))
    conductor = _Conductor(plan.config, run, root, progress, tracker)
    with run.exclusive():
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
def _tracked(plan: Plan, run: RunDir, tracker: Tracker) -> Iterator[None]:
    """Opens the run's one MLflow run for the block and closes it with the status that the block ended in."""
    try:
        run_id = tracker.start(
            experiment=plan.experiment,
            run_name=run.name,
            run_id=run.load_state()["mlflow_run_id"],
            tags={"task": plan.config.task, "backbone": plan.config.model.backbone},
        )
    except BaseException:
        if plan.kind == "new":  # nothing has been done in it; a store that cannot be opened leaves no folder either
            shutil.rmtree(run.path, ignore_errors=True)
        raise
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
    # What ended the run is what the user must see, not that a dead server could not be told of it.
    with contextlib.suppress(TrackingError):
        tracker.finish(status, reason)


class _Conductor:
    """One method a stage: load what it reads, call it, store and log what it returns."""

    def __init__(self, config: Config, run: RunDir, root: Path, progress: Progress, tracker: Tracker) -> None:
        self.config, self.run, self.root = config, run, root
        self.progress, self.tracker = progress, tracker

    def run_stage(self, stage: str) -> None:
        """Runs one stage and notes how it went."""
        began = time.perf_counter()
        self.run.mark(stage, "running")
        try:
            getattr(self, stage)()
        except KeyboardInterrupt:
            self.run.mark(stage, "killed")
            raise
        except BaseException as error:
            self.run.mark(stage, "failed")
            error.add_note(f"in stage {stage}")
            raise
        self.run.mark(stage, "done", time.perf_counter() - began)

    def ingest(self) -> None:
        """Source -> manifest, quarantine list."""
        config = self.config.ingest
        self.tracker.log_params({"task": self.config.task, "ingest": config.model_dump(mode="json")})
        found = ingest(config, self.root / "data", self.progress)
        save_manifest(found.manifest, self.run.manifest)
        write_json(self.run.file("ingest.json"), found.summary())
        quarantine = self.run.file("quarantine.csv")
        rejected = [{"path": str(bad.item.path), "reason": bad.reason} for bad in found.rejected]
        write_csv(quarantine, rejected, ["path", "reason"])
        sizes = {split: sum(counts.values()) for split, counts in found.manifest.counts().items()}
        digest = found.manifest.digest
        self.tracker.log_dataset(name=found.name, digest=digest, source=found.source, counts=sizes)
        self.tracker.set_tags({"dataset": digest[:12]})
        self._log(self.run.manifest, self.run.file("ingest.json"), *([quarantine] if rejected else []))
        self.progress.say(
            f"{len(found.manifest)} images in {len(found.manifest.classes)} classes: "
            + ", ".join(f"{count} {split}" for split, count in sizes.items())
        )
        if found.rejected:
            self.progress.say(f"{len(found.rejected)} files left out, with reasons in {quarantine}")

    def augment(self) -> None:
        """Manifest, policy -> preview."""
        from pipeline.augment.preview import save_preview
        from pipeline.train.dataset import preview_images

        self.tracker.log_params({"augment": self.config.augment.model_dump(mode="json")})
        policy = self._policy()
        train = load_manifest(self.run.manifest).split("train")
        row = find_backbone(self.config.model.backbone)
        images, titles = preview_images(train, input_size(self.config.model), row.channels, PREVIEW_IMAGES)
        picture = self.run.file("augment.png")
        save_preview(images, titles, policy, picture, seed=self.config.augment.seed)
        write_json(self.run.file("augment.json"), {"transforms": policy.describe(), "digest": policy.digest})
        self._log(picture, self.run.file("augment.json"))

    def build(self) -> None:
        """Classes -> model.json; what cannot be built fails here, before anything is trained."""
        self.tracker.log_params({"model": self.config.model.model_dump(mode="json")})
        network = self._network(load_manifest(self.run.manifest))
        if self.config.train.fine_tune.epochs:
            network.cut(self.config.train.fine_tune.from_)
        write_json(self.run.file("model.json"), network.describe())
        self._log(self.run.file("model.json"))
        self.tracker.log_params({"model": {"parameters": network.full.count_params()}})

    def train(self) -> None:
        """Manifest, network -> model.keras, history."""
        from pipeline.evaluate.figures import history_figure, save_figure
        from pipeline.train.fit import EpochRow, strategy_scope, train

        augment, settings = self.config.augment.model_dump(mode="json"), self.config.train.model_dump(mode="json")
        self.tracker.log_params({"seed": self.config.seed, "augment": augment, "train": settings})
        manifest = load_manifest(self.run.manifest)
        precision = self.config.model.precision

        def on_epoch(row: EpochRow) -> None:
            metrics = {name: float(value) for name, value in row.items() if name not in ("epoch", "phase")}
            self.tracker.log_metrics(metrics, int(row["epoch"]))

        with strategy_scope(self.config.train.strategy):
            network = self._network(manifest, precision)
            outcome = train(
                network, self._task(), manifest, self._policy(), self.config.augment, self.config.train,
                seed=self.config.seed, progress=self.progress, on_epoch=on_epoch,
            )  # fmt: skip
        first = next((row["epoch"] for row in outcome.history if row["phase"] == "fine_tune"), None)
        if first is not None:
            self.tracker.set_tags({"fine_tune_from_epoch": str(first)})
        if precision != "float32":
            trained, network = network, self._network(manifest)
            network.full.set_weights(trained.full.get_weights())
        with atomic_path(self.run.model) as draft:
            network.full.save(draft)
        write_csv(self.run.history, outcome.history, list(outcome.history[0]))
        save_figure(history_figure(outcome.history, self._task().headline_metric), self.run.file("history.png"))
        self._log(self.run.history, self.run.file("history.png"))
        self.tracker.log_metrics({"train/seconds": outcome.seconds, "train/forward_passes": outcome.forward_passes})

    def evaluate(self) -> None:
        """Model, test split -> evaluation, predictions, figures."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from pipeline.evaluate.stage import evaluate

        self.tracker.log_params({"evaluate": self.config.evaluate.model_dump(mode="json")})
        task = self._task()
        row = find_backbone(self.config.model.backbone)
        found = evaluate(
            self._trained(), task, load_manifest(self.run.manifest), self.config.evaluate,
            batch_size=row.extraction_batch, progress=self.progress,
        )  # fmt: skip
        with atomic_path(self.run.predictions) as draft:
            pq.write_table(pa.table(dict(found.predictions)), draft)
        document = {
            "headline": found.headline,
            "headline_metric": f"test/{task.headline_metric}",
            "metrics": dict(found.metrics),
            "labels": list(found.labels),
            **found.document,
            **{name: dict(table) for name, table in found.tables.items()},
        }
        write_json(self.run.evaluation, document)
        figures = task.save_figures(found, self.run.path)
        self._log(self.run.predictions, self.run.evaluation, *figures)
        for name, table in found.tables.items():
            self.tracker.log_table(name, table)
        self.tracker.log_metrics(found.metrics)
        self.tracker.set_description(found.headline)

    def export(self) -> None:
        """Model, labels -> SavedModel."""
        from pipeline.export.savedmodel import export_savedmodel

        self.tracker.log_params({"export": self.config.export.model_dump(mode="json")})
        manifest = load_manifest(self.run.manifest)
        export_savedmodel(self._trained(), self._task(), manifest.classes, self.run.export)
        self._log(self.run.export)
        if self.config.export.logged_model:
            example = Path(manifest.split("test").column("path")[0]).read_bytes()
            self.tracker.log_model(self.run.export, labels=manifest.classes, example=example)

    def _log(self, *artifacts: Path) -> None:
        for path in artifacts:
            self.tracker.log_artifact(path)

    def _task(self) -> Task:
        return load_task(self.config.task)

    def _policy(self) -> Policy:
        from pipeline.augment.policy import load_policy

        policy = load_policy(self.config.augment.transforms)
        ignored = policy.ignored_for(self.config.task)
        if ignored:
            self.progress.say(f"augmentations not valid for {self.config.task} are left out: {', '.join(ignored)}")
        return policy.for_task(self.config.task)

    def _network(self, manifest: Manifest, precision: str = "float32") -> Network:
        from pipeline.models.network import build_network
        from pipeline.models.weights import locate_weights

        model = self.config.model
        weights = locate_weights(find_backbone(model.backbone), model.weights)
        return build_network(
            model, self._task(), len(manifest.classes), seed=self.config.seed, weights=weights, precision=precision
        )

    def _trained(self) -> Any:
        import keras

        try:
            return keras.models.load_model(self.run.model, compile=False, safe_mode=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.run.model} cannot be loaded ({error}); run the stage train again") from error


def _result(run: RunDir) -> RunResult:
    done = run.stage_state("evaluate") == "done"
    evaluation = read_json(run.evaluation) if done else {"headline": None, "metrics": {}}
    return RunResult(
        run=run.name,
        path=run.path,
        headline=evaluation["headline"],
        metrics=evaluation["metrics"],
        pictures=tuple(sorted(run.path.glob("*.png"))),
        export=run.export if run.stage_state("export") == "done" else None,
    )
