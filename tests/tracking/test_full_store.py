"""A store whose disk is full: one line that names the file, whatever of MLflow it was that could not be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from limits import file_size_limit

from pipeline.errors import SpaceError
from pipeline.tracking import MlflowTracker


def started(root: Path) -> MlflowTracker:
    tracker = MlflowTracker(root)
    tracker.start(experiment="photos", run_name="one")
    return tracker


def test_a_database_that_cannot_grow_is_said_to_be_so(root: Path) -> None:
    tracker = started(root)
    size = (root / "mlflow.db").stat().st_size
    metrics = {f"metric {number:04}": 0.5 for number in range(900)}  # many pages of the database
    with file_size_limit(size), pytest.raises(SpaceError) as error:
        tracker.log_metrics(metrics)
    assert f"{root / 'mlflow.db'} takes some 2.0 MiB more, and 0 bytes are free" in str(error.value)
    assert "could not record metrics" in str(error.value)
    assert "\n" not in str(error.value)
    tracker.log_metrics(metrics)  # nothing is broken for good


def test_a_copy_that_does_not_fit_names_its_size(root: Path, tmp_path: Path) -> None:
    tracker, file = started(root), tmp_path / "history.png"
    file.write_bytes(bytes(3 * 2**20))
    limit = (root / "mlflow.db").stat().st_size + 2**20
    with file_size_limit(limit), pytest.raises(SpaceError, match=r"/mlruns: it takes 3\.0 MiB, and a file may have"):
        tracker.log_artifact(file)


def test_a_new_store_on_a_full_disk_can_be_made_later(tmp_path: Path) -> None:
    with file_size_limit(300 * 1024), pytest.raises(SpaceError, match=r"open run 'one', .*mlflow\.db takes some"):
        started(tmp_path)
    assert started(tmp_path).places()[0] == tmp_path / "mlruns"
