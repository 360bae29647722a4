"""`MlflowTracker`: a run in an MLflow store. mlflow is imported inside functions, since that takes seconds."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError
from pipeline.files import file_digest
from pipeline.space import size_on_disk, writing
from pipeline.tracking.logged_model import save_pyfunc
from pipeline.tracking.port import Status, cut, flatten
from pipeline.tracking.registry import Registry, check_model_name, logged_models
from pipeline.tracking.store import (
    database_file,
    impatient,
    is_sqlite,
    made_whole,
    silence,
    store_errors,
    store_lock,
    store_uri,
)

_REASON_TAG = "reason"
_DESCRIPTION_TAG = "mlflow.note.content"  # what the UI shows as the run's description

_MAX_TAG_LENGTH = 8_000  # characters; MLflow cuts the rest without a mark (mlflow/utils/validation.py)
_DIGEST_LENGTH = 12  # what people can compare by eye; MLflow takes up to 36


class MlflowTracker:
    """A tracker that writes one run to an MLflow store, by explicit run id.

    MLflow's fluent interface (`mlflow.start_run` and the like) is not used: it would leave an active run and a changed
    tracking URI behind in the process. Every failure of the store is a `TrackingError`.
    """

    def __init__(self, root: Path) -> None:
        """Takes the project folder; its `mlflow.db` and `mlruns/` are used unless `MLFLOW_TRACKING_URI` is set."""
        self._root = root.resolve()
        self._uri = store_uri(self._root)
        self._client: Any = None
        self._run_id = ""
        self._recorded: set[tuple[str, int, str]] = set()  # before this process went on with the run
        self._goes_on = False

    def places(self) -> Sequence[Path]:
        """Returns the folder of the copies, the database and, since its journal comes beside it, that one's folder."""
        if not is_sqlite(self._uri):
            return ()
        database = database_file(self._uri)
        return self._root / "mlruns", database, database.absolute().parent

    def start(
        self, *, experiment: str, run_name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> str | None:
        """Returns the run's id. Neither the name nor the experiment of a run that is gone on with changes."""
        with self._errors(f"open run {run_name!r}"), impatient():
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
            entries = [Param(key, value) for key, value in flatten(params).items()]
            self._client.log_batch(self._run_id, params=entries, synchronous=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records metrics; without a step MLflow files them under step 0.

        A run that is gone on with says again what it had said before it was killed: that is not recorded twice.
        """
        new = {name: value for name, value in metrics.items() if _moment(name, step or 0, value) not in self._recorded}
        with self._errors("record metrics"):
            self._client.log_batch(self._run_id, metrics=_entries(new, step or 0), synchronous=True)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies the file or directory to the artifact store."""
        with self._errors(f"store {path.name}"), self._copying(path):
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

    def log_trial(
        self, name: str, params: Mapping[str, object], metrics: Mapping[str, float],
        history: Sequence[Mapping[str, float]],
    ) -> None:  # fmt: skip
        """Records the trial as a run of its own, which the UI shows below this one; FAILED if it cannot be recorded."""
        from mlflow.entities import Param
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        with self._errors(f"record {name!r}"):
            parent = self._client.get_run(self._run_id)
            if self._goes_on and self._has_trial(parent, name):
                return
            # Data set, task and backbone, so that a search for them finds trials too; MLflow's own are of one run.
            tags = {key: value for key, value in parent.data.tags.items() if not key.startswith("mlflow.")}
            run_id = self._create_run(parent.info.experiment_id, name, tags | {MLFLOW_PARENT_RUN_ID: self._run_id})
            status: Status = "FAILED"
            try:
                entries = [entry for step, row in enumerate(history, start=1) for entry in _entries(row, step)]
                entries += _entries(metrics, 0)
                texts = [Param(key, value) for key, value in flatten(params).items()]
                self._client.log_batch(run_id, metrics=entries, params=texts, synchronous=True)
                status = "FINISHED"
            finally:
                self._client.set_terminated(run_id, status)

    def _has_trial(self, parent: Any, name: str) -> bool:
        """Returns whether a trial was recorded before this process went on; what is left of half of one is removed."""
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

        words = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._run_id}' and tags.`{MLFLOW_RUN_NAME}` = '{name}'"
        found = self._client.search_runs([parent.info.experiment_id], words)
        for half in (run for run in found if run.info.status != "FINISHED"):
            self._client.delete_run(half.info.run_id)
        return any(run.info.status == "FINISHED" for run in found)

    def log_dataset(self, *, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Records the dataset as a training input; the UI shows the digest's first characters."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:_DIGEST_LENGTH],
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
                run.info.experiment_id,
                name="model",
                source_run_id=self._run_id,
                params=run.data.params,
                tags={_DESCRIPTION_TAG: run.data.tags.get(_DESCRIPTION_TAG, ""), **_identity(export_dir)},
            )
            status = "FAILED"
            try:
                with tempfile.TemporaryDirectory() as folder:
                    with writing(Path(folder), size_on_disk(export_dir)):
                        save_pyfunc(Path(folder) / "model", export_dir, logged, labels, example)
                    with self._copying(Path(folder)):
                        self._client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
                self._client.log_outputs(self._run_id, [LoggedModelOutput(logged.model_id, step=0)])
                self._attach_test_metrics(run, logged.model_id)
                status = "READY"
            finally:
                self._client.finalize_logged_model(logged.model_id, status)
            self._remove_earlier_models(logged.model_id)
        return str(logged.model_id)

    def check_model_name(self, name: str) -> None:
        """Looks whether MLflow would take the name."""
        check_model_name(name, "export.register")

    def register_model(self, name: str, model_id: str, tags: Mapping[str, str]) -> str:
        """Returns the number of the new version."""
        return Registry(self._root).register(name, model_id, tags).number

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags, values cut at MLflow's limit."""
        from mlflow.entities import RunTag

        with self._errors("set tags"):
            entries = [RunTag(key, cut(value, _MAX_TAG_LENGTH)) for key, value in tags.items()]
            self._client.log_batch(self._run_id, tags=entries, synchronous=True)

    def set_description(self, text: str) -> None:
        """Sets the description that the UI shows."""
        self.set_tags({_DESCRIPTION_TAG: text})

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Ends the run."""
        with self._errors("close the run"):
            if reason is not None:
                description = _reason_paragraph(status, reason) + (self._tag(_DESCRIPTION_TAG) or "")
                self.set_tags({_REASON_TAG: reason, _DESCRIPTION_TAG: description})
            self._client.set_terminated(self._run_id, status)

    def _open(self, experiment: str) -> tuple[Any, str]:
        """Returns a client and the experiment's id, both made on first use."""
        from mlflow import MlflowClient

        silence()
        # The client's constructor creates or migrates the database, and processes that do so at once corrupt it.
        with store_lock(self._uri), made_whole(self._uri):
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

    def _artifact_location(self, experiment: str) -> str | None:
        """Returns a URI below the project's `mlruns/`; None leaves the choice to a server."""
        return (self._root / "mlruns" / experiment).as_uri() if is_sqlite(self._uri) else None

    def _create_run(self, experiment_id: str, run_name: str, tags: Mapping[str, str]) -> str:
        """Returns the id of a new run, tagged with user, command and git commit as MLflow's own runs are."""
        from mlflow.tracking.context.registry import resolve_tags

        run = self._client.create_run(experiment_id, tags=resolve_tags(dict(tags)), run_name=run_name)
        return str(run.info.run_id)

    def _go_on(self) -> None:
        """Sets the run running again and takes back why it ended."""
        run = self._client.get_run(self._run_id)
        self._goes_on = True
        histories = [self._client.get_metric_history(self._run_id, name) for name in run.data.metrics]
        self._recorded = {_moment(entry.key, entry.step, entry.value) for history in histories for entry in history}
        self._client.update_run(self._run_id, status="RUNNING")
        reason = run.data.tags.get(_REASON_TAG)
        if reason is not None:
            description = run.data.tags.get(_DESCRIPTION_TAG, "")
            self.set_description(description.removeprefix(_reason_paragraph(run.info.status, reason)))
            self._client.delete_tag(self._run_id, _REASON_TAG)

    def _remove_earlier_models(self, kept: str) -> None:
        """Marks what earlier exports of the run have logged as deleted; `mlflow gc` frees the room.

        Not what was registered: a version of a registered model is the files of its logged model.
        """
        versions = self._client.search_model_versions(f"run_id = '{self._run_id}'")
        registered = {version.source for version in versions}
        for model in logged_models(self._client, self._run_id):
            names = {model.artifact_location, f"models:/{model.model_id}"}  # ours, and `mlflow.register_model`'s
            if model.model_id != kept and not names & registered:
                self._client.delete_logged_model(model.model_id)

    def _attach_test_metrics(self, run: Any, model_id: str) -> None:
        """Records the run's test metrics on the model too, since the UI's list of models shows only a model's own."""
        from mlflow.entities import Metric

        names = [name for name in run.data.metrics if name.startswith("test/")]
        latest = [self._client.get_metric_history(self._run_id, name)[-1] for name in names]
        datasets = [used.dataset for used in run.inputs.dataset_inputs]
        dataset = {"dataset_name": datasets[0].name, "dataset_digest": datasets[0].digest} if datasets else {}
        entries = [
            Metric(last.key, last.value, last.timestamp, last.step, model_id=model_id, **dataset) for last in latest
        ]
        self._client.log_batch(self._run_id, metrics=entries, synchronous=True)

    def _tag(self, key: str) -> str | None:
        return self._client.get_run(self._run_id).data.tags.get(key)

    def _copying(self, path: Path) -> AbstractContextManager[None]:
        """Returns what says that there is no space for a copy of `path`; a server looks after its own."""
        return writing(self._root / "mlruns", size_on_disk(path)) if is_sqlite(self._uri) else nullcontext()

    def _errors(self, action: str) -> AbstractContextManager[None]:
        return store_errors(action, self._uri)


def _entries(metrics: Mapping[str, float], step: int) -> list[Any]:
    """Returns metrics as MLflow takes them, of now."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000  # MLflow counts in milliseconds
    return [Metric(name, float(value), now, step) for name, value in metrics.items()]


def _moment(name: str, step: int, value: float) -> tuple[str, int, str]:
    """Returns what makes two metrics the same; as text, in which NaN equals itself, and infinity as MLflow keeps it."""
    return name, step, repr(min(max(float(value), -sys.float_info.max), sys.float_info.max))


def _identity(export_dir: Path) -> dict[str, str]:
    """Returns a tag that tells one export from another, of one that has digests of its files."""
    sums = export_dir / "sha256sums.txt"
    return {"export": file_digest(sums)} if sums.is_file() else {}


def _reason_paragraph(status: str, reason: str) -> str:
    """Returns the paragraph that heads the description of a run that did not finish.

    Without Markdown: the UI's table of runs shows descriptions as they are.
    """
    return f"{status}: {reason}\n\n"
