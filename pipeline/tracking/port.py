"""The `Tracker` port, and the two back ends that need no store: one keeps everything for tests, one drops it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.errors import ConfigError, TrackingError

Status = Literal["FINISHED", "FAILED", "KILLED"]

_MAX_PARAM_LENGTH = 6_000  # characters; MLflow cuts the rest without a mark (mlflow/utils/validation.py)


class Tracker(Protocol):
    """What the conductor says about a run while it happens. `start` comes first, `finish` last."""

    def places(self) -> Sequence[Path]:
        """Returns the files and folders of this machine that it will write to."""

    def start(
        self, *, experiment: str, run_name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> str | None:
        """Returns the id of a new run, or of the run that is gone on with when `run_id` names one."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Records parameters, a nested mapping under dotted keys. A recorded value cannot be changed later."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records metrics, and returns only once they are stored, so that a killed run has them all."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Stores a file or a directory, under its own name, in the run's artifact folder `folder`."""

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Stores a table as `tables/<name>.json` in place of an earlier one of that name."""

    def log_trial(
        self, name: str, params: Mapping[str, object], metrics: Mapping[str, float],
        history: Sequence[Mapping[str, float]],
    ) -> None:  # fmt: skip
        """Records a trial as a finished run below this one; `history` holds the metrics of each epoch, from 1 on."""

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Records what the run was trained on: a digest, where it came from, how many images a split has."""

    def log_model(self, export_dir: Path, *, labels: Sequence[str], example: bytes) -> str | None:
        """Returns the id of the exported SavedModel as a logged model; `example` is one encoded image.

        It is the run's only one: an earlier export's is removed, unless it was registered.
        """

    def check_model_name(self, name: str) -> None:
        """Looks whether a model can be registered under this name; raises `ConfigError` where it cannot."""

    def register_model(self, name: str, model_id: str, tags: Mapping[str, str]) -> str:
        """Returns the number of a new version of the registered model `name`, which has the alias `candidate` then."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags, over earlier values."""

    def set_description(self, text: str) -> None:
        """Sets the run's description, in Markdown."""

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Ends the run; a reason becomes a tag and heads the description."""


class NullTracker:
    """A tracker that records nothing."""

    def places(self) -> Sequence[Path]:
        """Returns none."""
        return ()

    def start(
        self, *, experiment: str, run_name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> str | None:
        """Returns `run_id`, so that a run tracked earlier keeps its id while tracking is off."""
        return run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Drops the parameters."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Drops the metrics."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Drops the artifact."""

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Drops the table."""

    def log_trial(
        self, name: str, params: Mapping[str, object], metrics: Mapping[str, float],
        history: Sequence[Mapping[str, float]],
    ) -> None:  # fmt: skip
        """Drops the trial."""

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Drops the dataset."""

    def log_model(self, export_dir: Path, *, labels: Sequence[str], example: bytes) -> str | None:
        """Returns None: no model was logged."""
        return None

    def check_model_name(self, name: str) -> None:
        """Refuses every name: there is no registry."""
        raise ConfigError(f"export.register is {name!r}, but nothing is tracked; set export.register=null, or track")

    def register_model(self, name: str, model_id: str, tags: Mapping[str, str]) -> str:
        """Refuses to."""
        raise TrackingError(f"nothing is tracked, so nothing can be registered as {name!r}")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Drops the tags."""

    def set_description(self, text: str) -> None:
        """Drops the description."""

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Drops the status."""


@dataclass
class MemoryTracker:
    """A tracker that keeps one run in plain attributes, for tests."""

    experiment: str | None = None
    run_name: str | None = None
    run_id: str | None = None
    status: Status | Literal["RUNNING"] | None = None
    reason: str | None = None
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int | None, float]]] = field(default_factory=dict)
    artifacts: list[tuple[Path, str | None]] = field(default_factory=list)
    tables: dict[str, dict[str, list[object]]] = field(default_factory=dict)
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, object]] = field(default_factory=dict)
    models: dict[str, dict[str, object]] = field(default_factory=dict)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def places(self) -> Sequence[Path]:
        """Returns none."""
        return ()

    def start(
        self, *, experiment: str, run_name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> str | None:
        """Returns `run_id`, else an id made of the two names."""
        self.experiment, self.run_name, self.run_id = experiment, run_name, run_id or f"{experiment}/{run_name}"
        self.status, self.reason = "RUNNING", None
        self.set_tags(tags or {})
        return self.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Keeps the parameters as MLflow would show them."""
        self.params |= flatten(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends `(step, value)` to each metric's history."""
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append((step, value))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keeps `(path, folder)`."""
        self.artifacts.append((path, folder))

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Keeps the columns under the table's name."""
        self.tables[name] = {column: list(values) for column, values in columns.items()}

    def log_trial(
        self, name: str, params: Mapping[str, object], metrics: Mapping[str, float],
        history: Sequence[Mapping[str, float]],
    ) -> None:  # fmt: skip
        """Keeps the trial under its name, its parameters as MLflow would show them."""
        self.trials[name] = {"params": flatten(params), "metrics": dict(metrics), "history": [*map(dict, history)]}

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Keeps digest, source and counts under the dataset's name."""
        self.datasets[name] = {"digest": digest, "source": source, "counts": dict(counts)}

    def log_model(self, export_dir: Path, *, labels: Sequence[str], example: bytes) -> str | None:
        """Returns the id under which the arguments were kept."""
        model_id = f"model-{len(self.models)}"
        self.models[model_id] = {"export_dir": export_dir, "labels": list(labels), "example": example}
        return model_id

    def check_model_name(self, name: str) -> None:
        """Takes every name."""

    def register_model(self, name: str, model_id: str, tags: Mapping[str, str]) -> str:
        """Returns the place, from 1 on, at which the arguments were kept under the name."""
        self.versions.setdefault(name, []).append({"model_id": model_id, "tags": dict(tags)})
        return str(len(self.versions[name]))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keeps the tags."""
        self.tags |= tags

    def set_description(self, text: str) -> None:
        """Keeps the description."""
        self.description = text

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Keeps status and reason."""
        self.status, self.reason = status, reason


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Returns dotted keys and texts, each text within MLflow's limit.

    >>> flatten({"train": {"epochs": 3, "layers": [64, 32]}, "augment": None})
    {'train.epochs': '3', 'train.layers': '[64, 32]', 'augment': 'null'}
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        # An empty mapping has no keys of its own and would vanish.
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = cut(_param_text(value), _MAX_PARAM_LENGTH)
    return flat


def _param_text(value: object) -> str:
    """Returns a value as the YAML config spells it: null, true, 0.5, [1, 2], and words without quotes."""
    if value is None or isinstance(value, bool | list | tuple | Mapping):
        return json.dumps(value, default=str)
    return str(value)


def cut(text: str, limit: int) -> str:
    """Returns the text, with a visible `...` where it goes over the limit."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
