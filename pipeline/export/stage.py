"""The stage export: a SavedModel that carries the proof that it answers as the trained network did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pipeline.export import clean, verify
from pipeline.export.card import Card, save_card
from pipeline.export.formats.stage import Wanted, add_formats
from pipeline.export.golden import GoldenImage, Original, build_golden, golden_document
from pipeline.export.savedmodel import export_savedmodel
from pipeline.files import atomic_path, file_digest
from pipeline.images.headers import PIXEL_LIMIT
from pipeline.ingest.manifest import Manifest

#: What the outputs of `serving_default` are, for whoever calls it.
OUTPUTS = {
    "label": "(B,) strings, the likeliest label; empty where the image is bad",
    "class_id": "(B,) int64, its place in labels; -1 where the image is bad",
    "probabilities": "(B, C) float32 in the order of labels; zeros where the image is bad",
    "confident": "(B,) bool, whether the largest probability reaches the threshold",
    "error": "(B,) strings, what is wrong with the image; empty where nothing is",
}


@dataclass(frozen=True)
class Origin:
    """Where an export comes from.

    Attributes:
        run: The run's name.
        run_id: Its id in MLflow.
        dataset: Digest of the manifest.
        backbone: Name of the backbone.
    """

    run: str
    run_id: str | None
    dataset: str
    backbone: str


def publish(
    original: Original, origin: Origin, test: Manifest, recorded: Mapping[str, Sequence[Any]] | None, count: int,
    folder: Path, wanted: Wanted | None = None, card: Card | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Returns the report on an export, which `folder` holds then, whole and verified; an earlier one is replaced.

    Args:
        original: What is exported.
        origin: Where it comes from.
        test: The test split.
        recorded: The columns of `predictions.parquet`; None where the stage evaluate has not been run.
        count: Test images in the golden set, at most; the report says how many there are (`test_images`).
        folder: Where to.
        wanted: Formats beside the SavedModel; the report has a row for each in `formats`.
        card: What the model card is made of; without it there is none.

    Raises:
        ExportError: In a clean process the export does not answer as the trained network did. Nothing is published.
    """
    golden = build_golden(original, test, recorded, count)
    contract = contract_document(original, origin)
    with atomic_path(folder) as draft:
        export_savedmodel(
            original.model, original.task, original.classes, draft, resize=original.resize,
            calibration=original.calibration, contract=contract,
        )  # fmt: skip
        _write_json(draft / verify.CONTRACT, contract)
        write_golden(draft, golden, golden_document(original, golden, evaluated=recorded is not None))
        rows = add_formats(draft, original, contract, golden, test, wanted or Wanted())
        if card:  # last, since it tells of what is there
            save_card(card, draft)
        write_sums(draft)
        report = clean.verify_in_clean_process(draft)
    count = sum("id" in image.document for image in golden)
    return report | {"export": str(folder), "test_images": count, "formats": rows}


def contract_document(original: Original, origin: Origin) -> dict[str, Any]:
    """Returns what `contract.json` holds: all that a caller must know, and where the model comes from."""
    return {
        "format": 1,
        "task": original.task.name,
        "labels": list(original.classes),
        "temperature": original.calibration.temperature,
        "threshold": original.calibration.threshold,
        "calibration": original.calibration.note,
        "input": {
            "image_bytes": "(B,) strings, each a whole JPEG, PNG, GIF, BMP or WebP file of any size",
            "image_size": list(original.image_size),
            "channels": original.model.input_shape[3],
            "resize": original.resize,
            "interpolation": "bilinear, antialiased",
            "orientation": "turned upright by EXIF",
            "transparency": "over white",
            "most_pixels": PIXEL_LIMIT,
        },
        "outputs": OUTPUTS,
        "dataset": origin.dataset,
        "run": origin.run,
        "mlflow_run_id": origin.run_id,
        "backbone": origin.backbone,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }


def write_golden(draft: Path, images: Sequence[GoldenImage], document: Mapping[str, Any]) -> None:
    """Writes `golden/`: images, answers, and the script that asks them again."""
    folder = draft / "golden"
    folder.mkdir()
    for image in images:
        (folder / image.file).write_bytes(image.contents)
    _write_json(draft / verify.GOLDEN, document)
    shutil.copyfile(verify.__file__, folder / "verify.py")


def write_sums(draft: Path) -> None:
    """Writes the SHA-256 of every other file, in the form that `sha256sum --check` reads."""
    files = sorted(path for path in draft.rglob("*") if path.is_file() and path.name != verify.SUMS)
    lines = [f"{file_digest(path)}  {path.relative_to(draft).as_posix()}\n" for path in files]
    (draft / verify.SUMS).write_text("".join(lines), encoding="utf-8")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
