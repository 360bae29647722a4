"""`pipeline compare` on small run folders that no training made, as it is called from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import build_config, dump_yaml
from pipeline.files import text_digest, write_json
from pipeline.ingest.manifest import build_manifest, save_manifest
from pipeline.workdir import RunDir

CLASSES = ("blue", "green", "red")


@dataclass(frozen=True)
class Photo:
    """An image of a made run: `number` is what it shows, `said` the class a run takes it for."""

    number: int
    label: str
    split: str = "test"
    said: str = ""
    cluster: str = ""
    sure: float = 0.9


def make_run(root: Path, name: str, photos: Sequence[Photo], settings: Mapping[str, Any] | None = None) -> RunDir:
    """Returns a run folder whose stage evaluate is done."""
    run = RunDir(root / "runs" / name)
    run.path.mkdir(parents=True)
    rows = [_row(root, name, photo) for photo in photos]
    manifest = build_manifest(rows)
    save_manifest(manifest, run.manifest)
    tested = [(row["id"], photo) for row, photo in zip(rows, photos, strict=True) if photo.split == "test"]
    pq.write_table(_predictions(tested, manifest.classes), run.predictions)
    run.config.write_text(dump_yaml(build_config(settings or {})), encoding="utf-8")
    write_json(run.evaluation, {"headline_metric": "test/top_1", "metrics": {}})
    stages = {stage: {"state": "done"} for stage in ("ingest", "build", "train", "evaluate")}
    write_json(
        run.path / "run.json",
        {"name": name, "created": 0, "experiment": "x", "stages": stages, "mlflow_run_id": None},
    )
    return run


def _row(root: Path, name: str, photo: Photo) -> dict[str, object]:
    """Returns a row of the manifest; the file has another name and other bytes in each run, but the same pixels."""
    path = root / "photos" / name / photo.label / f"{photo.number}.png"
    return {
        "id": f"{name}/{photo.label}/{photo.number:04}", "path": str(path), "original": str(path),
        "label": photo.label, "split": photo.split, "sha256": text_digest(name, str(photo.number)),
        "pixels": text_digest("pixels", str(photo.number)), "cluster": photo.cluster or f"{name}-{photo.number}",
        "width": 24, "height": 20, "format": "PNG", "mode": "RGB", "bytes": 1, "orientation": 1,
    }  # fmt: skip


def _predictions(tested: Sequence[tuple[object, Photo]], classes: Sequence[str]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "id": [name for name, _ in tested],
        "path": ["" for _ in tested],
        "label": [photo.label for _, photo in tested],
        "predicted": [photo.said or photo.label for _, photo in tested],
        "probability": [photo.sure for _, photo in tested],
    }
    for label in classes:
        columns[f"p:{label}"] = [
            photo.sure if label == (photo.said or photo.label) else (1 - photo.sure) / (len(classes) - 1)
            for _, photo in tested
        ]
    return pa.table(columns)


def wrong(photo: Photo, classes: Sequence[str] = CLASSES) -> Photo:
    """Returns the photo, taken for the next class."""
    return replace(photo, said=classes[(classes.index(photo.label) + 1) % len(classes)])


def photos(count: int = 60, train: int = 30) -> list[Photo]:
    tests = [Photo(number, CLASSES[number % 3]) for number in range(count)]
    return tests + [Photo(1000 + number, CLASSES[number % 3], "train") for number in range(train)]
