"""Where a run's parameters, metrics and files are recorded: the `Tracker` port and its three back ends.

`MlflowTracker` writes to MLflow, `MemoryTracker` keeps everything in attributes for tests, `NullTracker` drops it. This
is the only file that imports mlflow, and it does so inside functions, because import and first contact take seconds.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline import files
from pipeline.errors import TrackingError

Status = Literal["FINISHED", "FAILED", "KILLED"]

REASON_TAG = "reason"
DESCRIPTION_TAG = "mlflow.note.content"  # what the UI shows as the run's description

# MLflow's limits, in characters (mlflow/utils/validation.py). Beyond the first two it cuts without a mark, beyond the
# third it fails.
MAX_PARAM_LENGTH = 6_000
MAX_TAG_LENGTH = 8_000
MAX_DIGEST_LENGTH = 36


class Tracker(Protocol):
    """What the conductor says about a run while it happens. `start` comes first, `finish` last."""

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

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Records what the run was trained on: a digest, where it came from, how many images a split has."""

    def log_model(self, export_dir: Path, *, labels: Sequence[str], example: bytes) -> str | None:
        """Returns the id of the exported SavedModel as a logged model; `example` is one encoded image."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags, over earlier values."""

    def set_description(self, text: str) -> None:
        """Sets the run's description, in Markdown."""

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Ends the run; a reason becomes a tag and heads the description."""


class NullTracker:
    """A tracker that records nothing."""

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

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Drops the dataset."""

    def log_model(self, export_dir: Path, *, labels: Sequence[str], example: bytes) -> str | None:
        """Returns None: no model was logged."""
        return None

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
    datasets: dict[str, dict[str, object]] = field(default_factory=dict)
    models: dict[str, dict[str, object]] = field(default_factory=dict)

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
        self.params |= _flatten(params)

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

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Keeps digest, source and counts under the dataset's name."""
        self.datasets[name] = {"digest": digest, "source": source, "counts": dict(counts)}

    def log_model(self, export_dir: Path, *, labels: Sequence[str], example: bytes) -> str | None:
        """Returns the id under which the arguments were kept."""
        model_id = f"model-{len(self.models)}"
        self.models[model_id] = {"export_dir": export_dir, "labels": list(labels), "example": example}
        return model_id

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keeps the tags."""
        self.tags |= tags

    def set_description(self, text: str) -> None:
        """Keeps the description."""
        self.description = text

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Keeps status and reason."""
        self.status, self.reason = status, reason


class MlflowTracker:
    """A tracker that writes one run to an MLflow store, by explicit run id.

    MLflow's fluent interface (`mlflow.start_run` and the like) is not used: it would leave an active run and a changed
    tracking URI behind in the process. Every failure of the store is a `TrackingError`.
    """

    def __init__(self, root: Path) -> None:
        """Takes the project folder; its `mlflow.db` and `mlruns/` are used unless `MLFLOW_TRACKING_URI` is set."""
        self._root = root.resolve()
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._root / 'mlflow.db'}"
        self._client: Any = None
        self._run_id = ""

    def start(
        self, *, experiment: str, run_name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> str | None:
        """Returns the run's id. Neither the name nor the experiment of a run that is gone on with changes."""
        with self._errors(f"open run {run_name!r}"), _impatient():
            self._client, experiment_id = self._open(experiment)
            if run_id is None:
                self._run_id = self._create_run(experiment_id, run_name, tags or {})
            else:
                self._run_id = run_id
                self._go_on()
                self.set_tags(tags or {})
        return self._run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Records flattened parameters."""
        from mlflow.entities import Param

        with self._errors("record parameters"):
            entries = [Param(key, value) for key, value in _flatten(params).items()]
            self._client.log_batch(self._run_id, params=entries, synchronous=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records metrics; without a step MLflow files them under step 0."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000  # MLflow counts in milliseconds
        with self._errors("record metrics"):
            entries = [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
            self._client.log_batch(self._run_id, metrics=entries, synchronous=True)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies the file or directory to the artifact store."""
        with self._errors(f"store {path.name}"):
            self._client.log_artifact(self._run_id, str(path), folder)

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Stores the table in the form that MLflow's UI shows, and `MlflowClient.load_table` reads, as a table.

        `MlflowClient.log_table` itself would append to the table of an earlier evaluation.
        """
        import pandas as pd
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        file = f"tables/{name}.json"
        entry = {"path": file, "type": "table"}
        with self._errors(f"store table {name!r}"):
            text = pd.DataFrame(dict(columns)).to_json(orient="split", index=False)
            self._client.log_text(self._run_id, text, file)
            listed = json.loads(self._tag(MLFLOW_LOGGED_ARTIFACTS) or "[]")
            if entry not in listed:
                self._client.set_tag(self._run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*listed, entry]))

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Records the dataset as a training input; MLflow's own digest column holds the first 36 characters."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:MAX_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps({"num_rows": sum(counts.values()), **counts, "digest": digest}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        with self._errors(f"record dataset {name!r}"):
            self._client.log_inputs(self._run_id, [DatasetInput(dataset, tags)])

    def log_model(self, export_dir: Path, *, labels: Sequence[str], example: bytes) -> str | None:
        """Returns the id of a model that `mlflow.pyfunc.load_model("models:/<id>")` loads without this package."""
        from mlflow.entities import LoggedModelOutput

        with self._errors("log the model"):
            run = self._client.get_run(self._run_id)
            logged = self._client.create_logged_model(
                run.info.experiment_id, name="model", source_run_id=self._run_id, params=run.data.params
            )
            status = "FAILED"
            try:
                with tempfile.TemporaryDirectory() as folder:
                    _save_pyfunc(Path(folder) / "model", export_dir, logged, labels, example)
                    self._client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
                self._client.log_outputs(self._run_id, [LoggedModelOutput(logged.model_id, step=0)])
                self._attach_test_metrics(run, logged.model_id)
                status = "READY"
            finally:
                self._client.finalize_logged_model(logged.model_id, status)
        return str(logged.model_id)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags, values cut at MLflow's limit."""
        from mlflow.entities import RunTag

        with self._errors("set tags"):
            entries = [RunTag(key, _cut(value, MAX_TAG_LENGTH)) for key, value in tags.items()]
            self._client.log_batch(self._run_id, tags=entries, synchronous=True)

    def set_description(self, text: str) -> None:
        """Sets the description that the UI shows."""
        self.set_tags({DESCRIPTION_TAG: text})

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Ends the run."""
        with self._errors("close the run"):
            if reason is not None:
                description = _reason_paragraph(status, reason) + (self._tag(DESCRIPTION_TAG) or "")
                self.set_tags({REASON_TAG: reason, DESCRIPTION_TAG: description})
            self._client.set_terminated(self._run_id, status)

    def _open(self, experiment: str) -> tuple[Any, str]:
        """Returns a client and the experiment's id, both made on first use."""
        from mlflow import MlflowClient

        _silence()
        # The client's constructor creates or migrates the database, and processes that do so at once corrupt it.
        with self._store_lock():
            client = MlflowClient(self._uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                location = self._artifact_location(experiment)
                return client, client.create_experiment(experiment, artifact_location=location)
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the experiment {experiment!r} was deleted in MLflow; rename the config file, or bring it back: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return client, found.experiment_id

    def _store_lock(self) -> AbstractContextManager[None]:
        """Returns a lock beside the database; a server looks after its own."""
        if not self._is_sqlite:
            return nullcontext()
        database = Path(self._uri.removeprefix("sqlite:///"))
        return files.lock(database.with_name(f"{database.name}.lock"))

    def _artifact_location(self, experiment: str) -> str | None:
        """Returns a URI below the project's `mlruns/`; None leaves the choice to a server."""
        return (self._root / "mlruns" / experiment).as_uri() if self._is_sqlite else None

    @property
    def _is_sqlite(self) -> bool:
        return self._uri.startswith("sqlite:///")

    def _create_run(self, experiment_id: str, run_name: str, tags: Mapping[str, str]) -> str:
        """Returns the id of a new run, tagged with user, command and git commit as MLflow's own runs are."""
        from mlflow.tracking.context.registry import resolve_tags

        run = self._client.create_run(experiment_id, tags=resolve_tags(dict(tags)), run_name=run_name)
        return str(run.info.run_id)

    def _go_on(self) -> None:
        """Sets the run running again and takes back why it ended."""
        run = self._client.get_run(self._run_id)
        self._client.update_run(self._run_id, status="RUNNING")
        reason = run.data.tags.get(REASON_TAG)
        if reason is not None:
            description = run.data.tags.get(DESCRIPTION_TAG, "")
            self.set_description(description.removeprefix(_reason_paragraph(run.info.status, reason)))
            self._client.delete_tag(self._run_id, REASON_TAG)

    def _attach_test_metrics(self, run: Any, model_id: str) -> None:
        """Records the run's test metrics on the model too, since the UI's list of models shows only a model's own."""
        from mlflow.entities import Metric

        names = [name for name in run.data.metrics if name.startswith("test/")]
        latest = [self._client.get_metric_history(self._run_id, name)[-1] for name in names]
        entries = [Metric(last.key, last.value, last.timestamp, last.step, model_id=model_id) for last in latest]
        self._client.log_batch(self._run_id, metrics=entries, synchronous=True)

    def _tag(self, key: str) -> str | None:
        return self._client.get_run(self._run_id).data.tags.get(key)

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Yields, and turns what the store raises into one line that says what to do.

        Raises:
            TrackingError: The store could not be reached, read or written.
        """
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        # ModuleNotFoundError: the driver of a database named by MLFLOW_TRACKING_URI is not installed.
        except (MlflowException, SQLAlchemyError, RequestException, OSError, ModuleNotFoundError) as error:
            raise TrackingError(self._one_line(action, error)) from error

    def _one_line(self, action: str, error: Exception) -> str:
        """Returns what failed, why, and what to do, without the password that a URI may carry."""
        reason = textwrap.shorten(_reason(error).partition("\n")[0], 300, placeholder=" ...")
        line = f"could not {action} in MLflow at {self._uri}: {reason}; {_advice(error)}"
        return re.sub(r"//[^/\s]+@", "//", line)


def _save_pyfunc(path: Path, export_dir: Path, logged: Any, labels: Sequence[str], example: bytes) -> None:
    """Saves the SavedModel as an MLflow pyfunc model: its loader as source code, no pickle."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model

    loader = Path(__file__).with_name("export") / "pyfunc_loader.py"
    pyfunc.save_model(
        path,
        loader_module=loader.stem,
        data_path=str(export_dir),
        code_paths=[str(loader)],
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=logged.source_run_id,
            model_id=logged.model_id,
        ),
        # Stated, because inferring them would load the model and take ten seconds.
        pip_requirements=[f"{name}=={version(name)}" for name in ("tensorflow", "numpy", "pandas")],
        signature=_signature(),
        input_example=pd.DataFrame({"image": [example]}),
        metadata={"labels": list(labels)},
    )


def _signature() -> Any:
    """Returns the table-to-table signature of `export/pyfunc_loader.py`; JSON carries a binary column as base64."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label"),
                ColSpec(DataType.long, "class_id"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Array(DataType.double), "probabilities"),
            ]
        ),
    )


def _reason(error: BaseException) -> str:
    """Returns MLflow's own words, but for a failed request its root: "Connection refused" and not the retries."""
    from requests import RequestException

    if isinstance(error.__context__, RequestException):
        while error.__context__ is not None:
            error = error.__context__
    return str(error).strip()


def _advice(error: Exception) -> str:
    """Returns what a person can do about a failure of the store."""
    if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
        return "it was removed, or tracked in another store (see MLFLOW_TRACKING_URI); start a new run"
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return "check that the server runs and that MLFLOW_TRACKING_URI is right, or unset it to track in ./mlflow.db"
    return "check that the file is yours to write and that the disk has room"


def _flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Returns dotted keys and texts, each text within MLflow's limit.

    >>> _flatten({"train": {"epochs": 3, "layers": [64, 32]}, "augment": None})
    {'train.epochs': '3', 'train.layers': '[64, 32]', 'augment': 'null'}
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        # An empty mapping has no keys of its own and would vanish.
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _cut(_param_text(value), MAX_PARAM_LENGTH)
    return flat


def _param_text(value: object) -> str:
    """Returns a value as the YAML config spells it: null, true, 0.5, [1, 2], and words without quotes."""
    if value is None or isinstance(value, bool | list | tuple | Mapping):
        return json.dumps(value, default=str)
    return str(value)


def _cut(text: str, limit: int) -> str:
    """Returns the text, with a visible `...` where it goes over the limit."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _reason_paragraph(status: str, reason: str) -> str:
    """Returns the paragraph that heads the description of a run that did not finish."""
    return f"**{status}**: {reason}\n\n"


def _silence() -> None:
    """Hides MLflow's chatter (migrations, links, advice about git), not its warnings and errors."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.git_utils").setLevel(logging.ERROR)


@contextmanager
def _impatient() -> Iterator[None]:
    """Yields while MLflow gives up on a silent server after some ten seconds, unless the user set other limits.

    Only for the first contact, where a wrong address is likely. A run of hours had better wait out the restart of its
    server, for which MLflow's own four minutes are right.
    """
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    added = {name: limit for name, limit in limits.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
