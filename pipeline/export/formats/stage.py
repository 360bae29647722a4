"""Converts the network to the formats that are asked for, and publishes those that answer as it did."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError, one_line
from pipeline.export.formats.measure import ask_all, decode, images_per_second, judge, score
from pipeline.export.formats.quiet import quiet
from pipeline.export.formats.source import Source, prepare
from pipeline.export.formats.table import FORMATS, Ask, Format
from pipeline.export.golden import GoldenImage, Original
from pipeline.export.rows import spread_over_classes, unchanged
from pipeline.files import write_json
from pipeline.ingest.manifest import Manifest
from pipeline.progress import Progress, Silent

#: What stands beside the SavedModel, and what each is worth.
LIST = "formats.json"

#: Training images that show int8 the ranges of the activations.
CALIBRATION_IMAGES = 128

#: Images at a time when a rate is measured: as a camera or a request brings them.
RATE_BATCH = 1


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside the SavedModel.

    Attributes:
        names: As in `export.formats`.
        train: Where calibration images are taken from; None where no format needs any.
        progress: Told how far it is.
    """

    names: Collection[str] = ()
    train: Manifest | None = None
    progress: Progress = field(default_factory=Silent)


@dataclass
class _Made:
    """A format on its way: `reason` says why it is not published; what can be asked is measured all the same."""

    format: Format
    path: Path
    reason: str | None = None
    ask: Ask | None = None
    largest: float | None = None
    rate: float | None = None


def add_formats(
    draft: Path, original: Original, contract: Mapping[str, Any], golden: Sequence[GoldenImage], test: Manifest,
    wanted: Wanted,
) -> list[dict[str, Any]]:  # fmt: skip
    """Returns a row a format, the SavedModel first, as `formats.json` in the draft holds them then.

    A format that cannot be converted or is off by more than its tolerance is taken out again, and its row says why.
    With nothing but the SavedModel nothing is measured: there is nothing to compare it with.
    """
    made = [_Made(row, draft / row.file) for row in FORMATS if not row.convert or row.asked_by in set(wanted.names)]
    scores: dict[str, dict[str, float]] = {}
    if len(made) > 1:
        with quiet():
            _convert(made, original, contract, wanted)
            _judge(made, original, golden)
            asks = {one.format.name: one.ask for one in made if one.ask}
            scores = score(asks, original, test, wanted.progress)
    rows = [_row(one, scores, original.task.headline_metric) for one in made]
    for one in made:
        if one.reason and one.format.convert:
            _take_out(one.path)
    write_json(draft / LIST, {"format": 1, "formats": rows})
    return rows


def _convert(made: Sequence[_Made], original: Original, contract: Mapping[str, Any], wanted: Wanted) -> None:
    def calibration() -> np.ndarray:
        return _calibration_images(original, wanted.train)

    with prepare(original, contract, calibration) as source, wanted.progress.bar("formats", len(made)) as bar:
        for one in made:
            bar.advance(note=one.format.name)
            if one.format.convert:
                one.reason = _write(one, source)
                wanted.progress.check()  # an interrupt may have been taken for an error of the converter's


def _write(one: _Made, source: Source) -> str | None:
    """Returns why the network cannot be converted, None once it is."""
    try:
        one.format.write(source, one.path)
    except Exception as error:  # of three packages: whatever it is, the other formats are none the worse for it
        return f"cannot be converted: {one_line(error)}"
    return None


def _calibration_images(original: Original, train: Manifest | None) -> np.ndarray:
    """Returns training images as they are, `(N, H, W, C)` float32 in [0, 255]."""
    rows = spread_over_classes(train, CALIBRATION_IMAGES) if train else []
    contents = [content for _, content in unchanged(train, rows)] if train else []
    if not contents:
        raise DataError("no training image is there as it was at ingest, to find the ranges of the activations with")
    return decode(original, contents)


def _judge(made: Sequence[_Made], original: Original, golden: Sequence[GoldenImage]) -> None:
    """Asks each format the golden images, and how fast it is."""
    good = [image for image in golden if not image.document.get("bad")]
    expected = np.array([image.document["probabilities"] for image in good])
    pixels = decode(original, [image.contents for image in good])
    for one in made:
        if one.reason:
            continue
        try:
            one.ask = one.format.open(one.path)
            one.largest, one.reason = judge(expected, ask_all(one.ask, pixels), one.format.tolerance)
            one.rate = images_per_second(one.ask, pixels[:RATE_BATCH])
        except Exception as error:  # of the runtime
            one.ask, one.reason = None, f"cannot be asked: {one_line(error)}"


def _row(one: _Made, scores: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, Any]:
    """Returns what `formats.json` says of a format; what was not measured is None."""
    found, base = scores.get(one.format.name), scores.get(FORMATS[0].name)
    return {
        "name": one.format.name,
        "file": one.format.file,
        "published": one.reason is None,
        "reason": one.reason,
        "tolerance": one.format.tolerance,
        "largest_difference": one.largest,
        "bytes": _size(one.path),
        "images_per_second": one.rate,
        "batch_size": RATE_BATCH,
        "metric": metric,
        metric: found["score"] if found else None,
        f"{metric}_change": found["score"] - base["score"] if found and base else None,
        "agreement": found["agreement"] if found else None,
        "images": found["images"] if found else 0,
    }


def _size(path: Path) -> int | None:
    """Returns the bytes of a format, the variables of a SavedModel among them; None where there is no file."""
    files = [path, *path.parent.glob("variables/*")]
    return sum(file.stat().st_size for file in files) if path.exists() else None


def _take_out(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
