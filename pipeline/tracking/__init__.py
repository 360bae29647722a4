"""Where a run's parameters, metrics and files are recorded: the `Tracker` port, its three back ends, and the UI.

`MlflowTracker` writes to MLflow, `MemoryTracker` keeps everything in attributes for tests, `NullTracker` drops it. Only
this package imports mlflow, and it does so inside functions, because import and first contact take seconds.
"""

from __future__ import annotations

from pipeline.tracking.attach import attach_to_run
from pipeline.tracking.mlflow_tracker import MlflowTracker
from pipeline.tracking.port import MemoryTracker, NullTracker, Status, Tracker
from pipeline.tracking.query import RecordedRun, finished_runs
from pipeline.tracking.registry import Registry, Version, check_alias, check_model_name
from pipeline.tracking.ui import serve_ui

__all__ = [
    "MemoryTracker", "MlflowTracker", "NullTracker", "RecordedRun", "Registry", "Status", "Tracker", "Version",
    "attach_to_run", "check_alias", "check_model_name", "finished_runs", "serve_ui",
]  # fmt: skip
