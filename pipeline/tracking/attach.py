"""What is added to a run that ended long ago."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.tracking.store import database_file, impatient, is_sqlite, silence, store_errors, store_lock, store_uri


def attach_to_run(root: Path, run_id: str, folder: str, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
    """Stores files in an artifact folder of a recorded run and sets tags; its status and description stay.

    Args:
        root: The project folder; its `mlflow.db` is written unless `MLFLOW_TRACKING_URI` names another store.
        run_id: Of a run in that store, running or ended.
        folder: Of the run's artifacts, with "/" between its parts.
        artifacts: Files; each takes the place of an earlier one of its name.
        tags: Set over earlier values.

    Raises:
        TrackingError: There is no such store or run, or it cannot be written.
    """
    uri = store_uri(root)
    if is_sqlite(uri) and not database_file(uri).is_file():  # which MLflow would make, empty
        raise TrackingError(f"there is no MLflow store {database_file(uri)} to record run {run_id} in")
    with store_errors(f"add to run {run_id}", uri), impatient():
        from mlflow import MlflowClient

        silence()
        with store_lock(uri):
            client = MlflowClient(uri)
        client.get_run(run_id)  # else a first file would be said to be what is wrong
        for path in artifacts:
            client.log_artifact(run_id, str(path), folder)
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
