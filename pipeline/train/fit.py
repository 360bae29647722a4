"""The stage train: the head on a frozen backbone, then the layers above a cut together with the head."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.config import AugmentConfig, TrainConfig
from pipeline.errors import ModelError
from pipeline.ingest.manifest import Manifest
from pipeline.models.cuts import INPUT
from pipeline.models.network import Cut, InferenceMode, Network
from pipeline.progress import Bar, Progress, Silent
from pipeline.tasks.base import UNCALIBRATED, Calibration, Task
from pipeline.train.bank.features import BankedFeatures, Features, feature_batches, plain_batches
from pipeline.train.bank.fill import Bank, Lower, Wanted
from pipeline.train.bank.frozen import head_cut
from pipeline.train.bank.store import FeatureStore
from pipeline.train.checkpoint import Checkpoint, Checkpoints, numbered
from pipeline.train.dataset import (
    Images,
    InputSpec,
    decode_in_memory,
    live_batches,
    load_images,
    naming_bad_images,
    untuned,
    view_batches,
)
from pipeline.train.epochs import EpochRow, Epochs, Quick, Sided, best_loss, fit_epochs
from pipeline.train.extraction import Speedometer, expected
from pipeline.train.recovery import Position, Recovery, assign, values_of
from pipeline.train.search import SearchResult, Trial
from pipeline.train.trials import HeadTrials, Recorded


@dataclass(frozen=True)
class TrainResult:
    """What training did; the weights are in the network that was passed in.

    Attributes:
        history: A row an epoch, both phases in one count.
        seconds: Wall time.
        forward_passes: Passes of images through the frozen part, made before or during the epochs.
        search: What was tried and chosen, None where nothing was searched; `history` has the chosen trial's epochs.
        calibration: Fitted on validation with the weights that were kept.
    """

    history: tuple[EpochRow, ...]
    seconds: float
    forward_passes: int
    search: SearchResult | None = None
    calibration: Calibration = UNCALIBRATED


@dataclass(frozen=True)
class TrainData:
    """What both phases read.

    Attributes:
        train, validation: The images.
        spec: What the network takes.
        policy: Makes an augmented view.
        kept: How many of them are kept of an image in a bank.
    """

    train: Images
    validation: Images
    spec: InputSpec
    policy: Policy
    kept: int


def strategy_scope(name: str) -> AbstractContextManager[object]:
    """Returns the scope to build and train in: for "mirrored" that of a `MirroredStrategy` over all local GPUs."""
    return tf.distribute.MirroredStrategy().scope() if name == "mirrored" else nullcontext()


def train(
    network: Network, task: Task, manifest: Manifest, policy: Policy, augment: AugmentConfig, config: TrainConfig,
    *, seed: int, store: FeatureStore, progress: Progress, on_epoch: Callable[[EpochRow], None] = lambda row: None,
    on_trial: Callable[[Trial], None] = lambda trial: None, checkpoints: Checkpoints | None = None,
) -> TrainResult:  # fmt: skip
    """Returns the history of training `network` in place; the weights of the best validation loss are kept.

    Args:
        network: Built under `strategy_scope(config.strategy)`, as this call must be.
        task: Gives targets, loss and metrics.
        manifest: Its rows of train are learnt from, those of validation choose epoch and settings. Test is not read.
        policy: Changes training images; validation images stay as they are.
        augment: Number and seed of the views in the bank.
        config: Both phases, and whether settings of the head are searched; a chosen dropout is set in the network.
        seed: Of order, mixing and the choice of views.
        store: The feature bank.
        progress: Shown a bar for each thing that takes long.
        on_epoch: Called with each row of the history as it is made; after a search with those of the chosen trial.
        on_trial: Called with each trial of a search as it ends.
        checkpoints: Where training is kept, and gone on from: the outcome is that of training that was never
            interrupted, to the last bit on one machine. The callbacks hear of everything again from the start.

    Raises:
        Interrupted: The user has asked to stop, and the last step is kept.
        ModelError: `config.fine_tune.from` names no cut, or the loss is never finite.
        DataError: TensorFlow cannot decode an image, or one is not what it was at ingest.
    """
    began = time.perf_counter()
    data = load_data(network, task, manifest, policy, augment, config)
    trainer = _Trainer(network, task, config, data, seed, store, progress, on_epoch, on_trial, checkpoints)
    with naming_bad_images([*data.train.paths, *data.validation.paths]):
        if config.head.epochs:
            trainer.head_phase()
        if config.fine_tune.epochs:
            trainer.fine_tune_phase()
        calibration = task.fit_calibration(*trainer.validate(), config.confident_accuracy)
    seconds = time.perf_counter() - began
    return TrainResult(tuple(trainer.history), seconds, trainer.forward_passes, trainer.found, calibration)


def load_data(
    network: Network, task: Task, manifest: Manifest, policy: Policy, augment: AugmentConfig, config: TrainConfig
) -> TrainData:
    """Returns the images of both splits with what is to be learnt of them."""

    def images(split: str, scheme: str) -> Images:
        rows = manifest.split(split)
        targets = task.encode_targets(rows.column("label"), manifest.classes)
        return load_images(rows, targets, task.target_weights(targets, scheme), augment.seed)

    spec = InputSpec(network.image_size, network.channels, network.resize)
    kept = augment.views if policy else 0
    return TrainData(images("train", config.class_weights), images("validation", "none"), spec, policy, kept)


class _Trainer:
    """The two phases and what passes from one to the next."""

    def __init__(
        self, network: Network, task: Task, config: TrainConfig, data: TrainData, seed: int, store: FeatureStore,
        progress: Progress, on_epoch: Callable[[EpochRow], None], on_trial: Callable[[Trial], None],
        checkpoints: Checkpoints | None = None,
    ) -> None:  # fmt: skip
        self.network, self.task, self.config, self.data = network, task, config, data
        self.seed, self.store, self.progress = seed, store, progress
        self.on_epoch, self.on_trial = on_epoch, on_trial
        self.history: list[EpochRow] = []
        self._live_passes = 0
        self._banks: list[Bank] = []
        self._opened: dict[str, list[Features]] = {}  # by the name of the cut
        self._validation: tuple[tuple[keras.Model, ...], tf.data.Dataset] | None = None
        self.found: SearchResult | None = None
        self.checkpoints = checkpoints or Checkpoints()
        self._begin = self.checkpoints.load()
        self._recorded, self._head_end = Recorded(), dict[str, np.ndarray]()
        if self._begin:
            self._live_passes = self._begin.document["passes"]
            trials = [Trial.from_document(document) for document in self._begin.document["trials"]]
            self._recorded = Recorded(trials, self._begin.part("trial"))

    @property
    def forward_passes(self) -> int:
        """Passes of images through frozen layers so far, those before an interruption among them."""
        return self._live_passes + sum(bank.forward_passes for bank in self._banks)

    def head_phase(self) -> None:
        """Trains the classifier alone."""
        cut = head_cut(self.network, self.config)
        if self._begin and self._begin.document["phase"] == "fine_tune":
            return self._recall_head(cut, self._begin)
        if self.config.features == "live":
            return self._fit_live("head", cut, [])
        lower = self._lower(cut.name) if self.config.fine_tune.epochs else None
        return self._fit_top("head", cut, [], lower)

    def _recall_head(self, cut: Cut, begin: Checkpoint) -> None:
        """Does what the head phase did before an interruption, without its training."""
        if self.config.searched:
            self._search(cut, None)
        else:
            for row in begin.document["history"]:
                if row["phase"] == "head":
                    self._log(row)
        assign(cut.top.variables, begin.part("head"))

    def _told(self, phase: str) -> Checkpoint:
        """Returns what a checkpoint of a phase holds beside the state of `fit`."""
        document = {
            "phase": phase, "history": [dict(row) for row in self.history], "passes": self.forward_passes,
            "trials": [trial.document() for trial in self._recorded.trials],
        }  # fmt: skip
        return Checkpoint(document, self._head_end)

    def _lower(self, name: str) -> Lower | None:
        """Returns the features that fine-tuning will begin from, when those of a head phase at a cut can follow.

        So an image and view passes the frozen part once, not once a phase.
        """
        cut = self.network.cut(self.config.fine_tune.from_)
        if cut.name in (INPUT, name):
            return None
        features = self._open("fine_tune", cut)
        banked = [of for of in features if isinstance(of, BankedFeatures)]
        return Lower(cut.name, self.network.rest(cut.name, name), banked) if len(banked) == len(features) else None

    def fine_tune_phase(self) -> None:
        """Trains what is above the cut; keeps the head phase's weights should this make validation worse."""
        before, best_before = self.network.full.get_weights(), best_loss(self.history, "head")
        self._head_end = numbered("head", values_of(head_cut(self.network, self.config).top.variables))
        if not (self._begin and self._begin.document["phase"] == "fine_tune"):
            self.checkpoints.save(self._told("fine_tune"))
        cut = self.network.cut(self.config.fine_tune.from_)
        frozen = {id(layer) for layer in cut.trunk._flatten_layers()}
        trained = [layer for layer in self.network.backbone.layers if id(layer) not in frozen]
        live = self.config.features == "live" or cut.name == INPUT  # with nothing frozen there is nothing to keep
        (self._fit_live if live else self._fit_top)("fine_tune", cut, trained)
        if best_before < best_loss(self.history, "fine_tune"):
            self.network.full.set_weights(before)
            self.progress.say("fine-tuning did not lower the validation loss; the head phase's weights are kept")

    def validate(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits and targets of the validation images, from what the last phase validated on."""
        assert self._validation is not None, "a phase comes first"
        networks, batches = self._validation

        @tf.function(reduce_retracing=True, autograph=False)
        def answer(values: tf.Tensor) -> tf.Tensor:
            for network in networks:
                values = network(values, training=False)
            return tf.cast(values, tf.float32)

        pairs = [(answer(values).numpy(), targets.numpy()) for values, targets in batches]
        logits, targets = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        return logits, targets

    def _open(self, phase: str, cut: Cut, lower: Lower | None = None) -> list[Features]:
        """Returns the features of train and validation at a cut, made when they are first asked for."""
        if cut.name not in self._opened:
            bank = Bank(
                self.store, cut.trunk, self.data.spec, self.data.policy, batch_size=self.network.row.extraction_batch,
                dtype=self.config.bank.dtype, title=f"{self.network.row.name} to {cut.name}", lower=lower,
            )  # fmt: skip
            wanted = [Wanted(self.data.train, self.data.kept), Wanted(self.data.validation)]
            self._opened[cut.name] = bank.open(wanted, self.progress, f"features of {phase}")
            self._banks.append(bank)
        return self._opened[cut.name]

    def _fit_top(self, name: str, cut: Cut, trained: Sequence[keras.layers.Layer], lower: Lower | None = None) -> None:
        """Trains the top on what the trunk answers once for each image and view."""
        shape = cut.top.input_shape[1:]
        train, validation = self._open(name, cut, lower)

        def batches(start: Position, epochs: range) -> tf.data.Dataset:
            size = self.config.batch_size
            return feature_batches(train, shape, seed=self.seed, epochs=epochs, batch_size=size, done=start.step)

        data = self._epochs(name, batches, plain_batches(validation, shape))
        self._validation = ((cut.top,), data.validation)
        if name == "head" and self.config.searched:
            if not isinstance(train, BankedFeatures):
                self.progress.say("search: without the bank each trial computes all features anew in every epoch")
            self._search(cut, data)
        else:
            self._fit(self._apart(cut), data, trained)

    def _search(self, cut: Cut, data: Epochs | None) -> None:
        """Trains the head with several settings; what the chosen one gave is what training with it alone would give.

        Without `data` all of them have been recorded.
        """

        def fit(config: TrainConfig, log: Callable[[EpochRow], None]) -> None:
            assert data is not None
            self._fit_with(config, self._apart(cut), data, [], Silent(), log)

        def keep(recorded: Recorded) -> None:
            told = self._told("head")
            self.checkpoints.save(Checkpoint(told.document, numbered("trial", recorded.state)))

        self._recorded.keep = keep
        validation = data.validation if data else None
        trials = HeadTrials(self.network, cut.top, fit, validation, self.task, self.on_trial, self._recorded)
        self.found = trials.search(self.config, self.progress)
        self.progress.say(self.found.words())
        self.config = self.found.setting.applied_to(self.config)
        for row in self.found.chosen.history:
            self._log(row)

    def _fit_live(self, name: str, cut: Cut, trained: Sequence[keras.layers.Layer]) -> None:
        """Trains the top while the trunk answers anew, to fresh views, in every epoch."""
        first, numbers = len(self.history), self._numbers(name)
        decoded = decode_in_memory(self.data.train, self.data.spec, self.progress)

        def batches(start: Position, epochs: range) -> tf.data.Dataset:
            return live_batches(
                self.data.train, self.data.spec, self.data.policy, seed=self.seed, epochs=epochs,
                batch_size=self.config.batch_size, decoded=decoded, done=start.step,
            )  # fmt: skip

        images = len(self.data.train) + len(self.data.validation)
        passes = len(numbers) * images

        def tell(rate: float) -> None:
            self.progress.say(
                f"{name}: live, fresh views in each epoch; {passes:,} forward passes{expected(passes, rate)}, no disk"
            )

        clock = Speedometer(tell)
        data = self._epochs(name, batches, self._validation_pixels())
        self._validation = ((cut.trunk, cut.top), data.validation)
        self._fit(self._join(cut), data, trained, cut.trunk.variables, lambda: clock.count(self.config.batch_size))
        self._live_passes += (len(self.history) - first) * images

    def _numbers(self, name: str) -> range:
        """Returns the numbers of the epochs that a phase begins with now."""
        first = len(self.history)
        return range(first, first + (self.config.fine_tune if name == "fine_tune" else self.config.head).epochs)

    def _epochs(
        self, name: str, batches: Callable[[Position, range], tf.data.Dataset], validation: tf.data.Dataset
    ) -> Epochs:
        steps, numbers = math.ceil(len(self.data.train) / self.config.batch_size), self._numbers(name)
        return Epochs(
            name, numbers, steps, lambda start: batches(start, range(start.epoch, numbers.stop)), validation
        )  # fmt: skip

    def _validation_pixels(self) -> tf.data.Dataset:
        images = self.data.validation
        batch = self.config.batch_size
        decoded = decode_in_memory(images, self.data.spec, Silent())
        if decoded is None:
            pixels = view_batches(images, self.data.spec, self.data.policy, 0, batch)
        else:
            pixels = tf.data.Dataset.from_tensor_slices(decoded).batch(batch)
        return untuned(tf.data.Dataset.zip(pixels, tf.data.Dataset.from_tensor_slices(images.targets).batch(batch)))

    def _join(self, cut: Cut) -> keras.Model:
        pixels = keras.Input(cut.trunk.input_shape[1:])
        return self._trained(pixels, cut, InferenceMode(cut.trunk)(pixels))

    def _apart(self, cut: Cut) -> keras.Model:
        """Returns the top as a model of its own: compiling it would put a phase's optimizer into the saved network."""
        features = keras.Input(cut.top.input_shape[1:], dtype=cut.top.input.dtype)
        return self._trained(features, cut, features)

    def _trained(self, inputs: keras.KerasTensor, cut: Cut, features: keras.KerasTensor) -> keras.Model:
        """Returns what is fitted: inputs -> logits, and where there are auxiliary classifiers theirs too."""
        auxiliary = self.network.row.auxiliary
        if auxiliary and cut.sided:
            return Sided(inputs, cut.sided(features), auxiliary_weight=auxiliary.weight)
        return Quick(inputs, cut.top(features))

    def _fit(
        self, model: keras.Model, data: Epochs, trained: Sequence[keras.layers.Layer], frozen: Sequence[Any] = (),
        on_step: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        begin = self._begin if self._begin and self._begin.document["phase"] == data.phase else None
        for row in begin.document["history"][len(self.history) :] if begin else ():
            self._log(row)
        going_on = begin if begin and "position" in begin.document else None
        recovery = Recovery(self.checkpoints, partial(self._told, data.phase), going_on, frozen)
        with self.progress.bar(data.phase, len(data.numbers) * data.steps) as bar, self.progress.gently():
            bar.advance(recovery.done(data.numbers.start, data.steps))
            counted = _Counted(bar, on_step)
            self._fit_with(self.config, model, data, trained, counted, self._log, recovery)
        if not math.isfinite(best_loss(self.history, data.phase)):
            raise ModelError(
                f"training diverged: no finite validation loss in {data.phase}; lower train.{data.phase}.learning_rate"
            )

    def _fit_with(
        self, config: TrainConfig, model: keras.Model, data: Epochs, trained: Sequence[keras.layers.Layer], bar: Bar,
        log: Callable[[EpochRow], None], recovery: Recovery | None = None,
    ) -> None:  # fmt: skip
        fit_epochs(
            model, data, config, self.task, trained_backbone=trained, seed=self.seed,
            scale_loss=self.network.precision == "mixed_float16", bar=bar, log=log, recovery=recovery,
        )  # fmt: skip

    def _log(self, row: EpochRow) -> None:
        self.history.append(row)
        self.on_epoch(row)


class _Counted:
    """A bar that tells of each step it is moved by."""

    def __init__(self, bar: Bar, on_step: Callable[[], None]) -> None:
        self._bar, self._on_step = bar, on_step

    def advance(self, steps: int = 1, note: str = "") -> None:
        if steps:
            self._on_step()
        self._bar.advance(steps, note)
