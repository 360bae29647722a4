"""The trials of a search: the head trained with one setting after the other, on features that are opened once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import TrainConfig
from pipeline.models.network import Network
from pipeline.progress import Bar, Progress
from pipeline.tasks.base import Task
from pipeline.train.epochs import EpochRow
from pipeline.train.search import SearchResult, Setting, Trial, search, search_grid, trial_count

#: Trains the head in place with a config, and calls back with each epoch.
FitHead = Callable[[TrainConfig, Callable[[EpochRow], None]], None]


@dataclass
class Recorded:
    """The trials that were made before an interruption, and how new ones are kept.

    Attributes:
        trials: In their order.
        state: The variables of the head after the best of them; empty where there are none.
        keep: Told of the trials and that state after each new one.
    """

    trials: list[Trial] = field(default_factory=list)
    state: list[np.ndarray] = field(default_factory=list)
    keep: Callable[[Recorded], None] = lambda recorded: None


class HeadTrials:
    """Trains one head again and again from the same start.

    What it leaves in the network is what training with the chosen setting alone would: weights, dropout, and the state
    of its random numbers, from which fine-tuning goes on.

    Args:
        network: The one that the head is part of.
        top: The head: what is trained.
        fit: Trains it.
        validation: (features, targets), by which trials are compared; None where all have been recorded.
        task: Gives loss and metrics.
        on_trial: Called with each trial as it ends, and with each that was recorded before.
        recorded: Those are not made again.
    """

    def __init__(
        self, network: Network, top: keras.Model, fit: FitHead, validation: tf.data.Dataset | None, task: Task,
        on_trial: Callable[[Trial], None], recorded: Recorded | None = None,
    ) -> None:  # fmt: skip
        self._top, self._fit, self._validation, self._task = top, fit, validation, task
        self._on_trial = on_trial
        self._recorded = recorded or Recorded()
        layers = network.classifier._flatten_layers()
        self._dropouts = [layer for layer in layers if isinstance(layer, keras.layers.Dropout)]

    def search(self, config: TrainConfig, progress: Progress) -> SearchResult:
        """Returns what was tried and chosen; the network has the chosen trial's weights and dropout.

        Raises:
            ModelError: Training diverged at every learning rate.
        """
        start, grid = search_grid(config, self._dropouts[0].rate if self._dropouts else None)
        initial, recorded = self._state(), self._recorded
        before = len(recorded.trials)
        with progress.bar("search", trial_count(grid)) as bar:

            def attempt(number: int, setting: Setting) -> Trial:
                if number <= before:
                    return recorded.trials[number - 1]
                self._restore(initial)
                return self._trial(number, setting, config, bar)

            def on_trial(trial: Trial, best: Trial) -> None:
                if trial.number > before:
                    recorded.trials.append(trial)
                    if trial is best:
                        recorded.state = self._state()
                    recorded.keep(recorded)
                bar.advance(1, f"best validation loss {best.loss:.3f}")
                self._on_trial(trial)

            found = search(start, grid, attempt, on_trial)
        self._restore(recorded.state or initial)
        self._set_dropout(found.setting)
        return found

    def _trial(self, number: int, setting: Setting, config: TrainConfig, bar: Bar) -> Trial:
        began, history = time.perf_counter(), list[EpochRow]()

        def log(row: EpochRow) -> None:
            history.append(row)
            bar.advance(0)  # a sign of life, and the moment at which an interrupt is heeded

        self._set_dropout(setting)
        self._fit(setting.applied_to(config), log)
        return Trial(number, setting, self._measure(), tuple(history), time.perf_counter() - began)

    def _measure(self) -> dict[str, float]:
        """Returns loss and metrics on validation; without label smoothing, so that trials that differ in it compare."""
        assert self._validation is not None, "only recorded trials need none"
        batches = [(self._top(inputs, training=False), targets) for inputs, targets in self._validation]
        logits, targets = (tf.concat(parts, axis=0) for parts in zip(*batches, strict=True))
        found = {"loss": float(self._task.loss(0.0)(targets, logits))}
        for metric in self._task.training_metrics():
            metric.update_state(targets, logits)
            found[metric.name] = float(metric.result())
        return found

    def _set_dropout(self, setting: Setting) -> None:
        for layer in self._dropouts:
            layer.rate = setting.dropout

    def _state(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self._top.variables]  # unlike weights with the state of dropout

    def _restore(self, state: list[np.ndarray]) -> None:
        for variable, value in zip(self._top.variables, state, strict=True):
            variable.assign(value)
