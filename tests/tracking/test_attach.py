"""What is added to a run that ended: files and tags, and nothing else changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import MlflowTracker, attach_to_run


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", None])
def test_status_and_description_stay(
    root: Path, client: Any, tracker: MlflowTracker, status: Any, tmp_path: Path
) -> None:
    run_id = tracker.start(experiment="photos", run_name="photos-1", tags={"kept": "1", "changed": "1"})
    assert run_id
    tracker.set_description("top-1 0.9")
    if status:
        tracker.finish(status, None if status == "FINISHED" else "in stage export: no room")
    before = client.get_run(run_id)
    for text in ("first", "second"):
        (tmp_path / "note.txt").write_text(text)
        attach_to_run(root, run_id, "compare/photos-0", [tmp_path / "note.txt"], {"changed": text})
    after = client.get_run(run_id)
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    assert after.data.tags == {**before.data.tags, "changed": "second"}
    (artifact,) = client.list_artifacts(run_id, "compare/photos-0")
    assert artifact.path == "compare/photos-0/note.txt"
    assert Path(client.download_artifacts(run_id, artifact.path)).read_text() == "second"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"there is no MLflow store .*mlflow\.db to record run abc in"):
        attach_to_run(tmp_path, "abc", "compare", [], {})
    assert os.listdir(tmp_path) == []


def test_a_run_of_another_store_is_told(root: Path) -> None:
    with pytest.raises(
        TrackingError, match=r"could not add to run 0{32} in MLflow at .*; it was removed, or tracked in"
    ):
        attach_to_run(root, "0" * 32, "compare", [], {})
