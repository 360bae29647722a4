"""One run, stage by stage: what a stage reads is loaded, what it returns is stored and logged."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError, SpaceError, shown
from pipeline.files import atomic_path, json_digest, write_bytes, write_csv, write_json
from pipeline.ingest import Previous, ingest
from pipeline.ingest.manifest import Manifest, load_manifest, save_manifest
from pipeline.ingest.result import DuplicatePair
from pipeline.models.backbones import find_backbone, input_size
from pipeline.models.backbones.row import gflops
from pipeline.plan import Plan
from pipeline.progress import Progress
from pipeline.registration import version_tags
from pipeline.run_card import load_card
from pipeline.run_report import save_run_report
from pipeline.space import check_room, writing
from pipeline.tasks.table import load_task
from pipeline.tracking import Tracker
from pipeline.trained import load_calibration, load_predictions, load_trained, load_trained_network
from pipeline.workdir import RunDir

if TYPE_CHECKING:
    import keras

    from pipeline.augment.policy import Policy
    from pipeline.models.network import Network
    from pipeline.tasks.base import Calibration, Chapter, Evaluation, Task
    from pipeline.train.bank.store import FeatureStore
    from pipeline.train.checkpoint import Checkpoints
    from pipeline.train.epochs import EpochRow
    from pipeline.train.search import SearchResult, Trial

#: Images beside their variants in `augment.png`.
PREVIEW_IMAGES = 6


class Conductor:
    """One method a stage: load what it reads, call it, store and log what it returns.

    Args:
        plan: What is to be done.
        run: The run's folder.
        root: The project's folder.
        progress: Where to show how far it is.
        tracker: Where to log.
    """

    def __init__(self, plan: Plan, run: RunDir, root: Path, progress: Progress, tracker: Tracker) -> None:
        self.config, self.run, self.root = plan.config, run, root
        self.progress, self.tracker, self._stages = progress, tracker, plan.stages
        self._previous_run = plan.previous

    def run_stage(self, stage: str) -> None:
        """Runs one stage and notes how it went."""
        began = time.perf_counter()
        self.run.mark(stage, "running")
        try:
            self._run_interruptible(stage)
        except KeyboardInterrupt:
            self.run.mark(stage, "killed")
            raise
        except BaseException as error:
            with contextlib.suppress(SpaceError):  # where the disk is full, that is what must be said
                self.run.mark(stage, "failed")
            error.add_note(f"in stage {stage}")
            raise
        self.run.mark(stage, "done", time.perf_counter() - began)

    def _run_interruptible(self, stage: str) -> None:
        try:
            with writing(self.run.path):  # what no narrower place has said
                getattr(self, stage)()
        except SpaceError as error:
            raise SpaceError(f"{error}, then: pipeline run --resume --name {self.run.name}") from error
        except Exception:
            self.progress.check()  # an interrupt inside a callback of TensorFlow arrives as an error of TensorFlow's
            raise

    def ingest(self) -> None:
        """Source -> manifest, what was left out and why, what shows the same picture, what changed."""
        from pipeline.pictures.views import save_dataset_view

        config = self.config.ingest
        self.tracker.log_params({"task": self.config.task, "ingest": config.model_dump(mode="json")})
        found = ingest(config, self.root / "data", self.root / ".cache", self.progress, self._previous())
        save_manifest(found.manifest, self.run.manifest)
        if config.relabel is not None:  # a copy: whoever edits the file later does not change what was done here
            write_bytes(self.run.file("relabel.csv"), Path(config.relabel).expanduser().read_bytes())
        write_json(self.run.file("ingest.json"), found.summary() | {"words": [*found.words()]})
        artifacts = [self.run.manifest, self.run.file("ingest.json")]
        artifacts += [self.run.file("relabel.csv")] if config.relabel is not None else []
        rejected = [{"path": shown(bad.item.path), "reason": bad.reason} for bad in found.rejected]
        write_csv(self.run.file("quarantine.csv"), rejected, ["path", "reason"])
        duplicates = [asdict(pair) | {"leak": pair.leak} for pair in found.duplicates]
        write_csv(
            self.run.file("duplicates.csv"), duplicates, [*(field.name for field in fields(DuplicatePair)), "leak"]
        )
        artifacts += [self.run.file("quarantine.csv")] if rejected else []
        artifacts += [self.run.file("duplicates.csv")] if duplicates else []
        save_dataset_view(found, self.run.file("data.png"))
        self._log(*artifacts, self.run.file("data.png"))
        sizes = {split: sum(counts.values()) for split, counts in found.manifest.counts().items()}
        digest = found.manifest.digest
        self.tracker.log_dataset(name=found.name, digest=digest, source=found.source, counts=sizes)
        self.tracker.set_tags({"dataset": digest[:12]})
        for line in found.words():
            self.progress.say(line)
        if rejected:
            self.progress.say(f"{len(rejected)} files left out, with reasons in {self.run.file('quarantine.csv')}")

    def augment(self) -> None:
        """Manifest, policy -> preview."""
        from pipeline.augment.preview import save_preview
        from pipeline.train.dataset import InputSpec, preview_images

        self.tracker.log_params({"augment": self.config.augment.model_dump(mode="json")})
        policy = self._policy()
        train = load_manifest(self.run.manifest).split("train")
        model = self.config.model
        spec = InputSpec(input_size(model), find_backbone(model.backbone).channels, model.resize)
        images, titles = preview_images(train, spec, PREVIEW_IMAGES)
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
        description = network.describe()
        write_json(self.run.file("model.json"), description)
        self._log(self.run.file("model.json"))
        self.tracker.log_metrics(
            {"model/parameters": description["parameters"], "model/gflops": gflops(description["multiply_adds"])}
        )
        self.tracker.log_params({"model": {"parameters": network.full.count_params()}})

    def train(self) -> None:
        """Manifest, network -> model.keras, calibration, history."""
        from pipeline.evaluate.figures import history_figure
        from pipeline.figures import save_figure
        from pipeline.train.bank.keys import numeric_settings
        from pipeline.train.fit import strategy_scope, train

        augment, settings = self.config.augment.model_dump(mode="json"), self.config.train.model_dump(mode="json")
        numeric = numeric_settings(find_backbone(self.config.model.backbone).extraction_batch)
        params = {"seed": self.config.seed, "augment": augment, "train": settings, "numeric": numeric}
        self.tracker.log_params(params)
        manifest = load_manifest(self.run.manifest)
        precision = self.config.model.precision
        checkpoints, policy = self._checkpoints(manifest), self._policy()
        with strategy_scope(self.config.train.strategy):
            network = self._network(manifest, precision)
            self._look_ahead(network, manifest, policy)
            outcome = train(
                network, self._task(), manifest, policy, self.config.augment, self.config.train,
                seed=self.config.seed, store=self._bank(), progress=self.progress,
                on_epoch=lambda row: self.tracker.log_metrics(_metrics(row), int(row["epoch"])),
                on_trial=self._log_trial, checkpoints=checkpoints,
            )  # fmt: skip
        if outcome.search:
            self._store_search(outcome.search)
        first = next((row["epoch"] for row in outcome.history if row["phase"] == "fine_tune"), None)
        if first is not None:
            self.tracker.set_tags({"fine_tune_from_epoch": str(first)})
        if precision != "float32":
            dropout = outcome.search.setting.dropout if outcome.search else None
            trained, network = network, self._network(manifest, dropout=dropout)
            network.full.set_weights(trained.full.get_weights())
        with atomic_path(self.run.model) as draft:
            network.full.save(draft)
        write_json(self.run.calibration, asdict(outcome.calibration))
        write_csv(self.run.history, outcome.history, list(outcome.history[0]))
        save_figure(history_figure(outcome.history, self._task().headline_metric), self.run.file("history.png"))
        self._log(self.run.history, self.run.file("history.png"), self.run.calibration)
        self.tracker.log_metrics({"train/seconds": outcome.seconds, "train/forward_passes": outcome.forward_passes})
        checkpoints.clear()

    def _look_ahead(self, network: Network, manifest: Manifest, policy: Policy) -> None:
        """Says what training and the stages after it will take; too little space for it ends the run here."""
        from pipeline.estimate import disk_needs, gather, lines
        from pipeline.train.demand import count_demand
        from pipeline.train.fit import load_data

        data = load_data(network, self._task(), manifest, policy, self.config.augment, self.config.train)
        store, test = self._bank(), manifest.split("test")
        demand = count_demand(network, data, self.config.train, store, len(test))
        facts = gather(network, manifest, demand, self.config.export.golden)
        mlruns = next(iter(self.tracker.places()), None)
        needs = disk_needs(facts, self.config, self._stages, self.run, store.root, mlruns)
        for line in lines(facts, needs, self.root):
            self.progress.say(line)
        check_room(needs)

    def _checkpoints(self, manifest: Manifest) -> Checkpoints:
        """Returns the checkpoints of this run's training, for this recipe and data and for these versions alone."""
        import keras
        import tensorflow as tf

        from pipeline.train.checkpoint import Checkpoints

        recipe = self.config.model_dump(mode="json", include={"seed", "task", "augment", "model", "train"})
        identity = {
            "recipe": json_digest(recipe), "data set": manifest.digest, "TensorFlow": tf.__version__,
            "Keras": keras.__version__,
        }  # fmt: skip
        return Checkpoints(self.run.checkpoints, identity, self.config.train.checkpoint_every_steps)

    def evaluate(self) -> None:
        """Model, test split -> evaluation, predictions, chapters with their pictures."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from pipeline.evaluate.stage import Subject, evaluate

        self.tracker.log_params({"evaluate": self.config.evaluate.model_dump(mode="json")})
        task, manifest, calibration = self._task(), load_manifest(self.run.manifest), load_calibration(self.run)
        network = load_trained_network(self.run, self.config, manifest)
        pretrained = None if self.config.model.weights == "none" else partial(self._network, manifest)
        subject = Subject(network, pretrained, task, manifest, calibration, self.config.train, self._bank())
        found = evaluate(subject, self.config.evaluate, self.progress)
        with atomic_path(self.run.predictions) as draft:
            pq.write_table(pa.table(dict(found.evaluation.predictions)), draft)
        write_json(self.run.evaluation, found.document())
        self._log(self.run.predictions, self.run.evaluation)
        for chapter in found.chapters:
            self._store_chapter(chapter)
        self.tracker.log_metrics(found.metrics() | {"evaluate/forward_passes": found.forward_passes})
        self.tracker.set_description(found.evaluation.headline)
        self._explain(network.full, task, manifest, found.evaluation, calibration)
        save_run_report(self.run, self.config, manifest, found)
        self._log(self.run.report)

    def _store_chapter(self, chapter: Chapter) -> None:
        from pipeline.figures import save_figure

        for name, picture in chapter.pictures.items():
            save_figure(picture.figure, self.run.file(name))
        for name, write in chapter.files.items():
            write(self.run.file(name))
        self._log(*map(self.run.file, (*chapter.pictures, *chapter.files)))
        for name, table in chapter.tables.items():
            self.tracker.log_table(name, table)

    def export(self) -> None:
        """Model, calibration, labels, recorded answers -> SavedModel, verified in a process of its own."""
        from pipeline.export.formats.stage import Wanted
        from pipeline.export.golden import Original
        from pipeline.export.stage import Origin, publish
        from pipeline.export.verify import lines

        self.tracker.log_params({"export": self.config.export.model_dump(mode="json")})
        manifest, model = load_manifest(self.run.manifest), self.config.model
        original = Original(
            load_trained(self.run), self._task(), manifest.classes, load_calibration(self.run), model.resize
        )
        run_id = self.run.load_state().get("mlflow_run_id")
        origin = Origin(self.run.name, run_id, manifest.digest, model.backbone)
        golden, recorded = self.config.export.golden, load_predictions(self.run)
        wanted = Wanted(self.config.export.formats, manifest.split("train"), self.progress)
        card = load_card(self.run, self.config)
        report = publish(original, origin, manifest.split("test"), recorded, golden, self.run.export, wanted, card)
        for line in lines(report):
            self.progress.say(f"export verified: {line}")
        missing = min(golden, len(manifest.split("test"))) - report["test_images"]
        if missing:
            self.progress.say(f"{missing} of the golden test images are left out: too large, gone, or not as at ingest")
        self._log(self.run.export)
        self.tracker.log_metrics({"export/largest_difference": report["largest_difference"]})
        if len(report["formats"]) > 1:
            self._store_formats(report["formats"])
        if self.config.export.logged_model:
            self._log_model(manifest)

    def _log_model(self, manifest: Manifest) -> None:
        """Puts the verified export into MLflow, and into its registry where the recipe names a model there."""
        # One that is in the export anyway: test images may be private.
        example = next(
            path for kind in ("test-01.*", "probe-coloured.*") for path in (self.run.export / "golden").glob(kind)
        ).read_bytes()
        model_id = self.tracker.log_model(self.run.export, labels=manifest.classes, example=example)
        name = self.config.export.register_
        if name is not None and model_id is not None:
            number = self.tracker.register_model(name, model_id, version_tags(self.run))
            self.progress.say(f"registered: version {number} of {name}, its candidate now")

    def _store_formats(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from pipeline.export.formats.listing import format_lines, format_metrics, format_table

        for line in format_lines(rows):
            self.progress.say(line)
        self.tracker.log_table("formats", format_table(rows))
        self.tracker.log_metrics(format_metrics(rows))

    def _explain(
        self, model: keras.Model, task: Task, manifest: Manifest, evaluation: Evaluation, calibration: Calibration
    ) -> None:
        """Draws what the network sees in a few test images, if the task names any."""
        from pipeline.evaluate.explain import explain_examples
        from pipeline.figures import save_figure
        from pipeline.pictures.explain import explain_figure

        folder = self.run.explanations
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier evaluation
        examples = explain_examples(
            model, task, manifest, evaluation, self.config.evaluate.explain, resize=self.config.model.resize,
            calibration=calibration, progress=self.progress,
        )  # fmt: skip
        for number, (example, image, explanation) in enumerate(examples, start=1):
            figure = explain_figure(explanation, f"what run {self.run.name} sees in {image}", example.reason)
            save_figure(figure, folder / f"{number}.png")
        if folder.is_dir():
            self._log(folder)

    def _log_trial(self, trial: Trial) -> None:
        # `validation/loss` is each epoch's, with label smoothing; these are without, of the weights that were kept.
        kept = {f"validation/kept_{name}": value for name, value in trial.metrics.items()}
        numbers = {"train/epochs": len(trial.history), "train/seconds": trial.seconds}
        self.tracker.log_trial(
            f"{self.run.name} trial {trial.number}", trial.setting.values(), kept | numbers,
            [_metrics(row) for row in trial.history],
        )  # fmt: skip

    def _store_search(self, found: SearchResult) -> None:
        rows = found.rows()
        write_csv(self.run.file("search.csv"), rows, list(rows[0]))
        self._log(self.run.file("search.csv"))
        self.tracker.log_table("search", {name: [row[name] for row in rows] for name in rows[0]})
        # Metrics, which unlike parameters may differ should the stage be run again, on another machine perhaps.
        self.tracker.log_metrics({f"train/chosen/{name}": value for name, value in found.setting.values().items()})

    def _previous(self) -> Previous | None:
        before = self._previous_run
        if before is None:
            return None
        try:
            return Previous(before.run.name, load_manifest(before.run.manifest), before.same_splits)
        except DataError:  # of an older version of this program: nothing to compare with
            return None

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

    def _bank(self) -> FeatureStore:
        from pipeline.train.bank.store import GIB, FeatureStore

        return FeatureStore(self.root / ".cache" / "features", int(self.config.train.bank.budget_gb * GIB))

    def _network(self, manifest: Manifest, precision: str = "float32", dropout: float | None = None) -> Network:
        """Returns the network of the recipe, with another dropout where one was chosen."""
        from pipeline.models.network import build_network
        from pipeline.models.weights import locate_weights

        model = self.config.model
        if dropout is not None:
            model = model.model_copy(update={"head": model.head.model_copy(update={"dropout": dropout})})
        weights = locate_weights(find_backbone(model.backbone), model.weights)
        return build_network(
            model, self._task(), len(manifest.classes), seed=self.config.seed, weights=weights, precision=precision
        )


def _metrics(row: EpochRow) -> dict[str, float]:
    """Returns what is measured in a row of the history."""
    return {name: float(value) for name, value in row.items() if name not in ("epoch", "phase")}
