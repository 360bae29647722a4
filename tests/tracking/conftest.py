"""Fixtures of the tracking tests: MLflow stores that are quick to make, and what MLflow warns about."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import MlflowTracker

MLFLOW_WARNINGS = [
    # About its own type hints while it is imported; it hides that by a switch which "error" precedes.
    "ignore:.*type hint is inferred as AnyType:UserWarning",
    # Its tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy:DeprecationWarning",
    # It compares an input example's columns with a range, which pandas 4 will not do.
    "ignore:Operation with range is deprecated:DeprecationWarning",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in MLFLOW_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def _default_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns an empty mlflow.db; making one takes seconds, copying it milliseconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(tmp_path: Path, migrated_store: Path) -> Path:
    """Returns a project folder; the space and the sign in its name have to survive two kinds of URI."""
    folder = tmp_path / "my project #1"
    folder.mkdir()
    shutil.copy(migrated_store, folder)
    return folder


@pytest.fixture
def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


@pytest.fixture
def tracker(root: Path) -> MlflowTracker:
    return MlflowTracker(root)
