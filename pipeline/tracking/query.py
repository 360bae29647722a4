"""What earlier runs recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.store import database_file, impatient, is_sqlite, silence, store_errors, store_lock, store_uri

MOST_RUNS = 1000


@dataclass(frozen=True)
class RecordedRun:
    """A run as the store has it.

    Attributes:
        name: Of the run.
        experiment: Its experiment's name.
        params, metrics: Flat, the last value of each.
    """

    name: str
    experiment: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def finished_runs(root: Path) -> Sequence[RecordedRun]:
    """Returns the finished runs of all experiments of a project, the newest first; none where there is no store yet.

    Raises:
        TrackingError: The store cannot be read.
    """
    uri = store_uri(root)
    if is_sqlite(uri) and not database_file(uri).is_file():
        return []
    with store_errors("look up runs", uri), impatient():
        from mlflow import MlflowClient

        silence()
        with store_lock(uri):
            client = MlflowClient(uri)
        names = {found.experiment_id: found.name for found in client.search_experiments()}
        runs = client.search_runs(list(names), "attributes.status = 'FINISHED'", max_results=MOST_RUNS)
    return [
        RecordedRun(run.info.run_name, names[run.info.experiment_id], dict(run.data.params), dict(run.data.metrics))
        for run in runs
    ]
