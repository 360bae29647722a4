"""What `verify` asks beyond the SavedModel: the golden images of every format whose runtime is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.errors import one_line
from pipeline.export.formats.measure import ask_all, judge
from pipeline.export.formats.quiet import quiet
from pipeline.export.formats.stage import LIST
from pipeline.export.formats.table import FORMATS, Format
from pipeline.export.verify import CONTRACT, GOLDEN
from pipeline.train.dataset import InputSpec


def check_formats(folder: Path) -> list[dict[str, Any]]:
    """Returns a row for each format that an export has beside its SavedModel.

    `name`, `file`, `asked`, `problem`, `tolerance`, `largest_difference`; of one that was not asked the problem is why.
    """
    if not (folder / LIST).is_file():  # of an older version
        return []
    listed = json.loads((folder / LIST).read_text(encoding="utf-8"))["formats"]
    known = {row.name: row for row in FORMATS if row.convert}
    rows = [row for row in listed if row["published"] and row["name"] != FORMATS[0].name]
    if not rows:
        return []
    with quiet():
        pixels, expected = _golden(folder)
        return [_check(folder, row, known.get(row["name"]), pixels, expected) for row in rows]


def _check(
    folder: Path, row: Mapping[str, Any], found: Format | None, pixels: np.ndarray, expected: np.ndarray
) -> dict[str, Any]:
    asked, largest = False, None
    if found is None:
        problem: str | None = "this version does not know it"
    elif not found.askable:
        problem = f"{found.runtime} is not installed; pip install 'transfer-pipeline[{found.asked_by}]'"
    else:
        asked = True
        try:
            answers = ask_all(found.open(folder / found.file), pixels)
            largest, problem = judge(expected, answers, row["tolerance"])
        except Exception as error:  # of the runtime: whatever it is, the file cannot be used
            problem = f"cannot be asked: {one_line(error)}"
    return {
        "name": row["name"], "file": row["file"], "asked": asked, "problem": problem, "tolerance": row["tolerance"],
        "largest_difference": largest, "images": len(pixels) if asked else 0,
    }  # fmt: skip


def _golden(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the golden images that are not bad, `(N, H, W, C)` float32 in [0, 255], and their `(N, C)` answers."""
    taken = json.loads((folder / CONTRACT).read_text(encoding="utf-8"))["input"]
    height, width = taken["image_size"]
    spec = InputSpec((height, width), taken["channels"], taken["resize"])
    decode = tf.function(spec.decode, [tf.TensorSpec((), tf.string)])
    answers = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))["answers"]
    good = [answer for answer in answers if not answer.get("bad")]
    contents = [(folder / "golden" / Path(answer["file"]).name).read_bytes() for answer in good]
    return np.stack([decode(content) for content in contents]), np.array([answer["probabilities"] for answer in good])


def with_formats(report: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the report of `verify` with what was found of the formats."""
    problems = [{"file": row["file"], "problem": row["problem"]} for row in rows if row["asked"] and row["problem"]]
    return report | {
        "ok": report["ok"] and not problems, "problems": report["problems"] + problems, "formats": [*rows],
    }  # fmt: skip


def format_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each format without a problem, and for each that was not asked."""
    lines = []
    for row in rows:
        if not row["asked"]:
            lines.append(f"{row['name']} was not asked: {row['problem']}")
        elif not row["problem"]:
            lines.append(
                f"{row['name']}: {row['images']} answers are off by at most {row['largest_difference']:.2g} "
                f"({row['tolerance']:g} is allowed)"
            )
    return lines
