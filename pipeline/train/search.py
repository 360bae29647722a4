"""Which settings of the head are tried, and which of them is chosen: the one of the lowest validation loss.

Not their full product: one setting after the other, each with the best so far of those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.config import TrainConfig
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.train.epochs import EpochRow

#: What is tried beside the recipe's own value, in the order in which the settings are searched. No learning rate above
#: these: Adam then blows up the logits, and a small validation split that happens to be all right rewards that.
VALUES: Mapping[str, tuple[float, ...]] = {
    "learning_rate": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "weight_decay": (0.0, 0.01, 0.1, 1.0),
    "dropout": (0.0, 0.2, 0.5),
    "label_smoothing": (0.0, 0.05, 0.1),
}

#: The values of each setting that is searched.
Grid = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Setting:
    """One setting of the head phase.

    Attributes:
        learning_rate, weight_decay: As in `train.head`.
        dropout: As in `model.head`; None where the head has no such layer.
        label_smoothing: As in `train`.
    """

    learning_rate: float
    weight_decay: float
    dropout: float | None
    label_smoothing: float

    def applied_to(self, config: TrainConfig) -> TrainConfig:
        """Returns the config with this setting and nothing to search; dropout is not part of it."""
        rates = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        head = config.head.model_copy(update=rates)
        return config.model_copy(update={"head": head, "label_smoothing": self.label_smoothing, "search": False})

    def values(self) -> dict[str, float]:
        """Returns names and values, without what the head does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def words(self, names: Iterable[str]) -> str:
        """Returns some of its values for people."""
        return ", ".join(f"{name.replace('_', ' ')} {getattr(self, name):g}" for name in names)


@dataclass(frozen=True)
class Trial:
    """A head trained with one setting.

    Attributes:
        number: From 1.
        setting: The one tried.
        metrics: `loss`, without label smoothing, `top_1` and so on, of the best epoch's weights on validation; not
            finite where training diverged.
        history: A row an epoch.
        seconds: Wall time.
    """

    number: int
    setting: Setting
    metrics: Mapping[str, float]
    history: Sequence[EpochRow]
    seconds: float

    def document(self) -> dict[str, Any]:
        """Returns it as JSON can hold it; `from_document` reads it back."""
        return {**asdict(self), "history": [dict(row) for row in self.history]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Trial:
        """Returns the trial that `document` described."""
        return cls(**{**document, "setting": Setting(**document["setting"]), "history": tuple(document["history"])})

    @property
    def loss(self) -> float:
        """What trials are compared by; infinite where training diverged."""
        loss = self.metrics["loss"]
        return loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True)
class SearchResult:
    """What was tried, in order.

    Attributes:
        names: The settings that were searched.
        trials: All of them.
        chosen: The one of the lowest validation loss.
    """

    names: tuple[str, ...]
    trials: tuple[Trial, ...]
    chosen: Trial

    @property
    def setting(self) -> Setting:
        """The chosen one."""
        return self.chosen.setting

    def rows(self) -> list[dict[str, object]]:
        """Returns a row for each trial, as in `search.csv`."""
        return [
            {
                "trial": trial.number, **trial.setting.values(),
                **{f"validation/{name}": value for name, value in trial.metrics.items()},
                "epochs": len(trial.history), "seconds": round(trial.seconds, 2), "chosen": trial is self.chosen,
            }
            for trial in self.trials
        ]  # fmt: skip

    def words(self) -> str:
        """Returns the outcome in one line."""
        setting = self.setting.words(self.names)
        worth = ", ".join(f"{name} {value:.3f}" for name, value in self.chosen.metrics.items())
        seconds = sum(trial.seconds for trial in self.trials)
        return f"search: {setting}; the best of {len(self.trials)} trials in {seconds:.0f} s, validation {worth}"


def search_grid(config: TrainConfig, dropout: float | None) -> tuple[Setting, Grid]:
    """Returns the setting to start from and the values to be tried; the recipe's own are always among them.

    Args:
        config: Says what is searched, and the recipe's own values.
        dropout: Of the head, None where it has no such layer; then it stays so.
    """
    auto = config.head.learning_rate == "auto"
    rates = VALUES["learning_rate"]
    own = rates[0] if auto else float(config.head.learning_rate)
    start = Setting(own, config.head.weight_decay, dropout, config.label_smoothing)
    values = start.values()
    return start, {name: tuple(sorted({values[name], *VALUES[name]})) for name in config.searched if name in values}


def trial_count(grid: Grid) -> int:
    """Returns how many settings a search tries.

    >>> trial_count({"learning_rate": (0.01, 0.1), "dropout": (0.0, 0.2, 0.5)})
    4
    """
    return 1 + sum(len(values) - 1 for values in grid.values())


def search(
    start: Setting, grid: Grid, attempt: Callable[[int, Setting], Trial], on_trial: Callable[[Trial, Trial], None]
) -> SearchResult:
    """Returns all trials and the best of them; of equals the one that was tried first.

    Args:
        start: The values of what comes later in `grid`, or is not in it.
        grid: The settings to be searched, in this order.
        attempt: Called with each number, from 1, and setting.
        on_trial: Called after each trial with it and the best so far.

    Raises:
        ModelError: Training diverged with all values of the first setting.
    """
    trials: list[Trial] = []
    best = start
    for name, values in grid.items():
        base = best
        for value in values:
            setting = replace(base, **{name: value})
            if any(setting == trial.setting for trial in trials):
                continue
            trials.append(attempt(len(trials) + 1, setting))
            on_trial(trials[-1], _best(trials))
        if not math.isfinite(_best(trials).loss):
            raise ModelError(
                f"training diverged: no finite validation loss in head with any {name} from {values[0]:g} to "
                f"{values[-1]:g}; look at the images, or set a lower train.head.learning_rate"
            )
        best = _best(trials).setting
    return SearchResult(tuple(grid), tuple(trials), _best(trials))


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.loss)
