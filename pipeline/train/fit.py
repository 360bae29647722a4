"""The stage train: the head on a frozen backbone, then the layers above a cut together with the head."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.config import AugmentConfig, FineTuneConfig, HeadPhaseConfig, TrainConfig
from pipeline.errors import ModelError
from pipeline.ingest.manifest import Manifest
from pipeline.models.cuts import INPUT
from pipeline.models.network import FEATURES, Cut, InferenceMode, Network
from pipeline.progress import Bar, Progress
from pipeline.tasks.base import Task
from pipeline.train.bank.features import feature_batches, plain_batches
from pipeline.train.bank.fill import Bank, Wanted
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import Images, InputSpec, live_batches, load_images, naming_bad_images, view_batches
from pipeline.train.mixing import mix_batches
from pipeline.train.optimizer import build_optimizer, rate_multipliers

#: One row of `history.csv`: epoch from 1, phase and the metrics, `train/loss`, `validation/top_1` and so on.
EpochRow = Mapping[str, float | int | str]


@dataclass(frozen=True)
class TrainResult:
    """What training did; the weights are in the network that was passed in.

    Attributes:
        history: A row an epoch, both phases in one count.
        seconds: Wall time.
        forward_passes: Passes of images through the frozen part, made before or during the epochs.
    """

    history: tuple[EpochRow, ...]
    seconds: float
    forward_passes: int


@dataclass(frozen=True)
class _Data:
    """What both phases read."""

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
) -> TrainResult:  # fmt: skip
    """Returns the history of training `network` in place; the weights of the best validation loss are kept.

    Args:
        network: Built under `strategy_scope(config.strategy)`, as this call must be.
        task: Gives targets, loss and metrics.
        manifest: Its rows of train are learnt from, those of validation choose the epoch. Test is not read.
        policy: Changes training images; validation images stay as they are.
        augment: Number and seed of the views in the bank.
        config: Both phases.
        seed: Of order, mixing and the choice of views.
        store: The feature bank.
        progress: Shown a bar for each thing that takes long.
        on_epoch: Called with each row of the history as it is made.

    Raises:
        ModelError: `config.fine_tune.from` names no cut, or the loss is never finite.
        DataError: TensorFlow cannot decode an image, or one is not what it was at ingest.
    """
    began = time.perf_counter()
    data = _load(network, task, manifest, policy, augment, config)
    trainer = _Trainer(network, task, config, data, seed, store, progress, on_epoch)
    with naming_bad_images([*data.train.paths, *data.validation.paths]):
        if config.head.epochs:
            trainer.head_phase()
        if config.fine_tune.epochs:
            trainer.fine_tune_phase()
    return TrainResult(tuple(trainer.history), time.perf_counter() - began, trainer.forward_passes)


def _load(
    network: Network, task: Task, manifest: Manifest, policy: Policy, augment: AugmentConfig, config: TrainConfig
) -> _Data:
    def images(split: str, scheme: str) -> Images:
        rows = manifest.split(split)
        targets = task.encode_targets(rows.column("label"), manifest.classes)
        return load_images(rows, targets, task.target_weights(targets, scheme), augment.seed)

    spec = InputSpec(network.image_size, network.channels, network.resize)
    kept = augment.views if policy else 0
    return _Data(images("train", config.class_weights), images("validation", "none"), spec, policy, kept)


class _Trainer:
    """The two phases and what passes from one to the next."""

    def __init__(
        self, network: Network, task: Task, config: TrainConfig, data: _Data, seed: int, store: FeatureStore,
        progress: Progress, on_epoch: Callable[[EpochRow], None],
    ) -> None:  # fmt: skip
        self.network, self.task, self.config, self.data = network, task, config, data
        self.seed, self.store, self.progress, self.on_epoch = seed, store, progress, on_epoch
        self.history: list[EpochRow] = []
        self.forward_passes = 0

    def head_phase(self) -> None:
        """Trains the classifier alone."""
        if self.config.features == "live":
            return self._fit_live("head", self.network.cut(FEATURES), self.config.head, [])
        # Cutmix pastes a box: into feature maps here, which must not have been pooled then.
        cut = self.network.cut(1.0 if self.config.cutmix else FEATURES)
        return self._fit_top("head", cut, self.config.head, [])

    def fine_tune_phase(self) -> None:
        """Trains what is above the cut; keeps the head phase's weights should this make validation worse."""
        phase = self.config.fine_tune
        before, best_before = self.network.full.get_weights(), self._best_loss("head")
        cut = self.network.cut(phase.from_)
        frozen = {id(layer) for layer in cut.trunk._flatten_layers()}
        trained = [layer for layer in self.network.backbone.layers if id(layer) not in frozen]
        live = self.config.features == "live" or cut.name == INPUT  # with nothing frozen there is nothing to keep
        (self._fit_live if live else self._fit_top)("fine_tune", cut, phase, trained)
        if best_before < self._best_loss("fine_tune"):
            self.network.full.set_weights(before)
            self.progress.say("fine-tuning did not lower the validation loss; the head phase's weights are kept")

    def _best_loss(self, phase: str) -> float:
        losses = [float(row["validation/loss"]) for row in self.history if row["phase"] == phase]
        return min(filter(math.isfinite, losses), default=math.inf)

    def _fit_top(
        self, name: str, cut: Cut, phase: HeadPhaseConfig | FineTuneConfig, trained: Sequence[keras.layers.Layer]
    ) -> None:
        """Trains the top on what the trunk answers once for each image and view."""
        first, shape = len(self.history), cut.top.input_shape[1:]
        bank = Bank(
            self.store, cut.trunk, self.data.spec, self.data.policy, batch_size=self.network.row.extraction_batch,
            dtype=self.config.bank.dtype, title=f"{self.network.row.name} to {cut.name}",
        )  # fmt: skip
        wanted = [Wanted(self.data.train, self.data.kept), Wanted(self.data.validation)]
        train, validation = bank.open(wanted, self.progress, f"features of {name}")
        batches = feature_batches(
            train, shape, seed=self.seed, epochs=range(first, first + phase.epochs), batch_size=self.config.batch_size
        )
        # A model of its own: compiling the classifier would put this phase's optimizer into the saved network.
        features = keras.Input(shape, dtype=cut.top.input.dtype)
        top = keras.Model(features, cut.top(features))
        self._fit(name, top, batches, plain_batches(validation, shape), phase, trained)
        self.forward_passes += bank.forward_passes

    def _fit_live(
        self, name: str, cut: Cut, phase: HeadPhaseConfig | FineTuneConfig, trained: Sequence[keras.layers.Layer]
    ) -> None:
        """Trains the top while the trunk answers anew, to fresh views, in every epoch."""
        first = len(self.history)
        batches = live_batches(
            self.data.train, self.data.spec, self.data.policy,
            seed=self.seed, epochs=range(first, first + phase.epochs), batch_size=self.config.batch_size,
        )  # fmt: skip
        images = len(self.data.train) + len(self.data.validation)
        self.progress.say(
            f"{name}: live, {images:,} images an epoch, fresh views in each; "
            f"{phase.epochs * images:,} forward passes in {phase.epochs} epochs"
        )
        self._fit(name, self._join(cut), batches, self._validation_pixels(), phase, trained)
        self.forward_passes += (len(self.history) - first) * images

    def _validation_pixels(self) -> tf.data.Dataset:
        images = self.data.validation
        batch = self.config.batch_size
        pixels = view_batches(images, self.data.spec, self.data.policy, 0, batch)
        return tf.data.Dataset.zip(pixels, tf.data.Dataset.from_tensor_slices(images.targets).batch(batch))

    def _join(self, cut: Cut) -> keras.Model:
        pixels = keras.Input(cut.trunk.input_shape[1:])
        return keras.Model(pixels, cut.top(InferenceMode(cut.trunk)(pixels)), name="live")

    def _fit(
        self, name: str, model: keras.Model, batches: tf.data.Dataset, validation: tf.data.Dataset,
        phase: HeadPhaseConfig | FineTuneConfig, trained_backbone: Sequence[keras.layers.Layer],
    ) -> None:  # fmt: skip
        config, first = self.config, len(self.history)
        steps = math.ceil(len(self.data.train) / config.batch_size)
        rate_at_cut = phase.rate_at_cut if isinstance(phase, FineTuneConfig) else 1.0
        rates = rate_multipliers(model, trained_backbone, rate_at_cut)
        optimizer = build_optimizer(phase, model, rates, steps_per_epoch=steps, ema=config.ema)
        if self.network.precision == "mixed_float16":  # else gradients below 6e-8 would be taken for 0
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        # XLA makes depthwise networks 5 to 10 times slower on a CPU.
        model.compile(
            optimizer, self.task.loss(config.label_smoothing), metrics=self.task.training_metrics(), jit_compile=False
        )
        mixed = mix_batches(batches, mixup=config.mixup, cutmix=config.cutmix, seed=self.seed + first)
        with self.progress.bar(name, phase.epochs * steps) as bar:
            model.fit(
                mixed, validation_data=validation, initial_epoch=first, epochs=first + phase.epochs,
                steps_per_epoch=steps, verbose=0, shuffle=False,
                callbacks=[*_keepers(config, phase.epochs), _EpochLog(name, bar, self._log, self.task.headline_metric)],
            )  # fmt: skip
        if not math.isfinite(self._best_loss(name)):
            raise ModelError(
                f"training diverged: no finite validation loss in {name}; lower train.{name}.learning_rate"
            )

    def _log(self, row: EpochRow) -> None:
        self.history.append(row)
        self.on_epoch(row)


def _keepers(config: TrainConfig, epochs: int) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that choose the weights: averaged where asked for, then the best on validation."""
    averaged = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema else []
    best = keras.callbacks.EarlyStopping("val_loss", patience=config.patience or epochs, restore_best_weights=True)
    return [*averaged, best]


class _EpochLog(keras.callbacks.Callback):
    """Moves the bar with every step and hands on a row with every epoch."""

    def __init__(self, phase: str, bar: Bar, log: Callable[[EpochRow], None], metric: str) -> None:
        super().__init__()
        self._phase, self._bar, self._log, self._metric = phase, bar, log, metric

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._bar.advance()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        logs = dict(logs or {})
        splits = {
            f"validation/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}": float(value)
            for name, value in logs.items()
        }
        rate = float(np.asarray(self.model.optimizer.learning_rate))
        self._log({"epoch": epoch + 1, "phase": self._phase, **splits, "train/learning_rate": rate})
        self._bar.advance(0, f"validation {logs[f'val_{self._metric}']:.3f}")
