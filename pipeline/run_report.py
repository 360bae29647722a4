"""The report of a run: what its stages left in its folder and what evaluate found, as one page."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipeline.config import Config
from pipeline.evaluate.report import Report, save_report
from pipeline.files import read_json
from pipeline.ingest.manifest import SPLITS, Manifest
from pipeline.workdir import RunDir

if TYPE_CHECKING:
    from pipeline.evaluate.stage import Evaluated

#: Of which the versions are told: the rest is in `environment.txt`.
PACKAGES = ("transfer-pipeline", "tensorflow", "keras", "numpy", "albumentations", "scikit-learn")


def save_run_report(run: RunDir, config: Config, manifest: Manifest, found: Evaluated) -> None:
    """Writes `report.html`, of a run whose stages up to evaluate have left what they leave."""
    names = ["data.png", "history.png", *(name for chapter in found.chapters for name in chapter.pictures)]
    report = Report(
        run=run.name,
        created=datetime.now().astimezone().isoformat(" ", "minutes"),
        headline=found.evaluation.headline,
        headline_metric=found.evaluation.headline_metric,
        task=config.task,
        backbone=config.model.backbone,
        metrics=found.metrics(),
        data=read_json(run.file("ingest.json")).get("words", []),
        counts=_counts(manifest),
        chapters=tuple(found.chapters),
        pictures={name: run.file(name).read_bytes() for name in names if run.file(name).is_file()},
        history=_history(run),
        config=run.config.read_text(encoding="utf-8"),
        command=f"pipeline run -c {run.config.relative_to(run.project)}",
        environment={"python": platform.python_version(), **_versions()},
    )
    save_report(report, run.report)


def _counts(manifest: Manifest) -> Mapping[str, Sequence[Any]]:
    counts = manifest.counts()
    of_splits = {split: [counts[split][label] for label in manifest.classes] for split in SPLITS}
    return {"label": list(manifest.classes), **of_splits}


def _history(run: RunDir) -> Mapping[str, Sequence[Any]]:
    with run.history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else {})}


def _number(text: str) -> float | str:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def _versions() -> Mapping[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of a copy that was not installed
            continue
    return found
