"""docs/export.md: its snippets run and agree, and its tolerances are those of the table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from subjects import CLASSES, ORIGIN, build_split, build_test_split, original

from pipeline.export.formats.stage import Wanted
from pipeline.export.formats.table import FORMATS
from pipeline.export.probes import picture
from pipeline.export.stage import publish

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def test_every_format_stands_there_with_its_tolerance() -> None:
    for row in FORMATS:
        assert f"| `{row.name}` | `{row.file}` | {row.tolerance:g} |" in PAGE


@pytest.mark.slow
def test_the_snippets_run_and_agree(tmp_path: Path) -> None:
    test, train = build_test_split(tmp_path / "test"), build_split(tmp_path / "train", 60, "train")
    publish(original(), ORIGIN, test, None, 4, tmp_path / "export", Wanted(("onnx", "litert"), train))
    Image.fromarray(picture(3, 48, 64)).save(tmp_path / "photo.jpg", quality=95)
    answers = original().probabilities([(tmp_path / "photo.jpg").read_bytes()])[0]
    said = [
        subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    ]
    assert said == [f"{CLASSES[answers.argmax()]}\n"] * 3
