"""The epochs of one phase: one model is fitted, and the weights of the best validation loss are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import FineTuneConfig, TrainConfig
from pipeline.progress import Bar, Interrupted
from pipeline.tasks.base import Task
from pipeline.train.mixing import mix_batches
from pipeline.train.optimizer import build_optimizer, rate_multipliers
from pipeline.train.recovery import Keeper, Position, Recovery

#: One row of `history.csv`: epoch from 1, phase and the metrics, `train/loss`, `validation/top_1` and so on.
EpochRow = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Epochs:
    """What a phase trains on, whatever its settings are.

    Attributes:
        phase: "head" or "fine_tune".
        numbers: Of its epochs, counted from 0 over both phases.
        steps: Batches an epoch.
        train: Gives (inputs, targets, loss weights) of the epochs from a position on, one after the other.
        validation: (inputs, targets).
    """

    phase: str
    numbers: range
    steps: int
    train: Callable[[Position], tf.data.Dataset]
    validation: tf.data.Dataset


def fit_epochs(
    model: keras.Model, data: Epochs, config: TrainConfig, task: Task, *,
    trained_backbone: Sequence[keras.layers.Layer], seed: int, scale_loss: bool, bar: Bar,
    log: Callable[[EpochRow], None], recovery: Recovery | None = None,
) -> None:  # fmt: skip
    """Trains a model in place with the phase's settings.

    Args:
        model: Compiled here.
        data: What it sees.
        config: Of both phases; `head.learning_rate` is a number.
        task: Gives loss and metrics.
        trained_backbone: The layers of the backbone that are in the model and learn.
        seed: Of mixing.
        scale_loss: Whether the loss is scaled, as float16 needs it: else gradients below 6e-8 would be taken for 0.
        bar: Moved with every step.
        log: Called with a row an epoch.
        recovery: Where it is kept, and gone on from.

    Raises:
        Interrupted: The user has asked to stop; `recovery` has kept the step that was done last.
    """
    phase = config.fine_tune if data.phase == "fine_tune" else config.head
    rate_at_cut = phase.rate_at_cut if isinstance(phase, FineTuneConfig) else 1.0
    rates = rate_multipliers(model, trained_backbone, rate_at_cut)
    optimizer = build_optimizer(phase, model, rates, steps_per_epoch=data.steps, ema=config.ema)
    if scale_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # XLA makes depthwise networks 5 to 10 times slower on a CPU.
    model.compile(optimizer, task.loss(config.label_smoothing), metrics=task.training_metrics(), jit_compile=False)
    first = data.numbers.start
    start = recovery.position(first) if recovery else Position(first)
    averager, stopper = _keepers(config, len(data.numbers))
    rows = _EpochLog(data.phase, bar, log, task.headline_metric, start)
    keeper = Keeper(recovery, stopper, averager, lambda: rows.position) if recovery else None
    model.steps_to_skip = start.step
    batches = mix_batches(
        data.train(start), mixup=config.mixup, cutmix=config.cutmix, seed=seed + first,
        first=(start.epoch - first) * data.steps + start.step,
    )  # fmt: skip
    if start.step:  # metrics, which only a batch brings into being, have values to be put back
        model.test_on_batch(*next(iter(data.validation)))
    try:
        model.fit(
            batches, validation_data=data.validation, initial_epoch=start.epoch,
            epochs=start.epoch if recovery and recovery.stopped else data.numbers.stop, steps_per_epoch=data.steps,
            verbose=0, shuffle=False, callbacks=[of for of in (averager, stopper, rows, keeper) if of],
        )  # fmt: skip
    except Interrupted:
        if keeper:
            keeper.keep()
        raise


class Quick(keras.Model):
    """A model whose first step comes sooner: Keras would search its own training step for conditions to convert.

    That search is a good part of the time of a head on features, which trains in a second.

    Attributes:
        steps_to_skip: That many first steps of `fit` are only counted: they were done before an interruption.
    """

    steps_to_skip = 0
    train_function: Any

    def make_train_function(self, force: bool = False) -> None:
        """Builds the step of `fit`."""
        self._make("train_function", self.train_step, super().make_train_function, force)
        step = self.train_function

        def step_unless_done(iterator: Any) -> Any:
            if self.steps_to_skip:
                self.steps_to_skip -= 1
                return self.get_metrics_result()
            return step(iterator)

        self.train_function = step_unless_done if self.steps_to_skip else step

    def make_test_function(self, force: bool = False) -> None:
        """Builds the step of `evaluate`."""
        self._make("test_function", self.test_step, super().make_test_function, force)

    def _make(self, name: str, step: Callable[[Any], Any], usual: Callable[[bool], None], force: bool) -> None:
        if tf.distribute.has_strategy():
            usual(force)
        elif getattr(self, name) is None or force:
            function = tf.function(lambda iterator: step(next(iterator)), autograph=False, reduce_retracing=True)
            setattr(self, name, function)


class Sided(Quick):
    """A model of several outputs: logits, which count, and those of auxiliary classifiers, which only help to train.

    The losses of the latter are added with a weight (Szegedy et al. 2014); validation does not see them.
    """

    def __init__(self, *args: Any, auxiliary_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._auxiliary_weight = auxiliary_weight

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a step."""
        logits, *sides = y_pred
        loss = super().compute_loss(x, y, logits, sample_weight, training)
        if training:
            for side in sides:
                loss += self._auxiliary_weight * super().compute_loss(x, y, side, sample_weight, training)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the metrics of the logits that count."""
        return super().compute_metrics(x, y, y_pred[0], sample_weight)


def best_loss(history: Sequence[EpochRow], phase: str) -> float:
    """Returns the lowest validation loss of a phase, infinity where none was finite."""
    losses = [float(row["validation/loss"]) for row in history if row["phase"] == phase]
    return min(filter(math.isfinite, losses), default=math.inf)


def _keepers(
    config: TrainConfig, epochs: int
) -> tuple[keras.callbacks.SwapEMAWeights | None, keras.callbacks.EarlyStopping]:
    """Returns the callbacks that choose the weights: averaged where asked for, then the best on validation."""
    averager = keras.callbacks.SwapEMAWeights(swap_on_epoch=True) if config.ema else None
    best = keras.callbacks.EarlyStopping("val_loss", patience=config.patience or epochs, restore_best_weights=True)
    return averager, best


class _EpochLog(keras.callbacks.Callback):
    """Moves the bar with every step and hands on a row with every epoch.

    Attributes:
        position: What is done by now.
    """

    def __init__(
        self, phase: str, bar: Bar, log: Callable[[EpochRow], None], metric: str, start: Position
    ) -> None:  # fmt: skip
        super().__init__()
        self._phase, self._bar, self._log, self._metric = phase, bar, log, metric
        self.position = start

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        # The bar comes last: it may say that the user wants to stop.
        self.position = Position(self.position.epoch, max(self.position.step, batch + 1))
        self._bar.advance()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        logs = dict(logs or {})
        splits = {
            f"validation/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}": float(value)
            for name, value in logs.items()
        }
        rate = float(np.asarray(self.model.optimizer.learning_rate))
        self._log({"epoch": epoch + 1, "phase": self._phase, **splits, "train/learning_rate": rate})
        self.position = Position(epoch + 1)
        self._bar.advance(0, f"validation {logs[f'val_{self._metric}']:.3f}")
