"""How `fit` goes on in mid-epoch as if it had never stopped: the state of model, optimizer, metrics and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from pipeline.train.checkpoint import Checkpoint, Checkpoints, numbered


@dataclass(frozen=True)
class Position:
    """Where training is: `step` batches of an epoch, counted from 0 over both phases, are done."""

    epoch: int
    step: int = 0


@dataclass(frozen=True)
class Recovery:
    """How a phase is kept, and where it goes on.

    Attributes:
        checkpoints: Where to.
        told: Returns what else a checkpoint of this phase holds.
        begin: A moment of this phase to go on from; None at its start.
        frozen: Variables of the model that never change, and need not be kept.
    """

    checkpoints: Checkpoints
    told: Callable[[], Checkpoint]
    begin: Checkpoint | None
    frozen: Sequence[Any] = ()

    def position(self, first: int) -> Position:
        """Returns where to go on; the start of epoch `first` where nothing has been done."""
        return Position(**self.begin.document["position"]) if self.begin else Position(first)

    def done(self, first: int, steps: int) -> int:
        """Returns the steps of whole epochs that are done; those of the epoch in progress count themselves."""
        return (self.position(first).epoch - first) * steps

    @property
    def stopped(self) -> bool:
        """Whether the phase had come to its end already."""
        return self.begin is not None and self.begin.document["stopper"]["stopped_epoch"] > 0


class Keeper(keras.callbacks.Callback):
    """Puts back what a checkpoint holds and writes new ones. The last of the callbacks: it keeps what others did.

    Args:
        recovery: How.
        stopper: Chooses the best weights.
        averager: Swaps in averaged weights, if that is asked for.
        position: Tells what is done.
    """

    def __init__(
        self, recovery: Recovery, stopper: keras.callbacks.EarlyStopping,
        averager: keras.callbacks.SwapEMAWeights | None, position: Callable[[], Position],
    ) -> None:  # fmt: skip
        super().__init__()
        self._recovery, self._stopper, self._averager, self._position = recovery, stopper, averager, position
        self._kept = position()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Puts back variables and callbacks; `fit` has reset the others by now."""
        begin = self._recovery.begin
        if begin is None:
            return
        if not self.model.optimizer.built:  # by the first step, else
            self.model.optimizer.build(self.model.trainable_variables)
        assign(self._changing(), begin.part("model"))
        assign(self.model.optimizer.variables, begin.part("optimizer"))
        state = begin.document["stopper"]
        self._stopper.wait, self._stopper.stopped_epoch = state["wait"], state["stopped_epoch"]
        self._stopper.best, self._stopper.best_epoch = state["best"], state["best_epoch"]
        if self._averager is not None:
            self._averager._ema_weights_in_model = begin.document["averaged"]
        if state["has_weights"]:
            best, fixed = iter(begin.part("best")), self._fixed()
            self._stopper.best_weights = [
                variable.numpy() if id(variable) in fixed else next(best) for variable in self.model.weights
            ]

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Puts back the metrics of an epoch that had begun; `fit` has just reset them."""
        begin = self._recovery.begin
        if begin and begin.document["position"]["step"] and begin.document["position"]["epoch"] == epoch:
            assign(self.model.metrics_variables, begin.part("metrics"))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keeps a step if it is asked for."""
        every = self._recovery.checkpoints.every_steps
        if every and (batch + 1) % every == 0:
            self.keep()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keeps an epoch if it is asked for, or costs little of its time."""
        if self._recovery.checkpoints.every_steps or self._recovery.checkpoints.due():
            self.keep()

    def keep(self) -> None:
        """Writes a checkpoint of this moment, if there is anything new in it."""
        if self._position() != self._kept:
            told = self._recovery.told()
            self._recovery.checkpoints.save(
                Checkpoint({**told.document, **self._document()}, {**told.arrays, **self._arrays()})
            )
            self._kept = self._position()

    def _fixed(self) -> set[int]:
        return {id(variable) for variable in self._recovery.frozen}

    def _changing(self) -> list[Any]:
        fixed = self._fixed()
        # Unlike weights, variables have the state of dropout.
        return [variable for variable in self.model.variables if id(variable) not in fixed]

    def _document(self) -> dict[str, Any]:
        stopper = self._stopper
        return {
            "position": asdict(self._position()),
            "averaged": self._averager is not None and self._averager._ema_weights_in_model,
            "stopper": {
                "wait": stopper.wait, "stopped_epoch": stopper.stopped_epoch, "best_epoch": stopper.best_epoch,
                "best": None if stopper.best is None else float(stopper.best),
                "has_weights": stopper.best_weights is not None,
            },
        }  # fmt: skip

    def _arrays(self) -> dict[str, np.ndarray]:
        fixed = self._fixed()
        pairs = zip(self.model.weights, self._stopper.best_weights or (), strict=False)
        best = [np.asarray(values) for variable, values in pairs if id(variable) not in fixed]
        return {
            **numbered("model", values_of(self._changing())),
            **numbered("optimizer", values_of(self.model.optimizer.variables)),
            **numbered("metrics", values_of(self.model.metrics_variables)),
            **numbered("best", best),
        }


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """Returns the values of Keras variables."""
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Gives Keras variables their values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
