from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.config import IngestConfig
from pipeline.ingest import ingest
from pipeline.ingest.sources.samples import SAMPLES, lay_out_digits
from pipeline.progress import Silent


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out_digits(tmp_path_factory.mktemp("data") / "digits")


def test_digits_are_scikit_learns_scaled_to_bytes(digits: Path) -> None:
    published = load_digits()
    paths = sorted(digits.rglob("*.png"), key=lambda path: path.name)
    assert len(paths) == 1797
    assert [int(path.parent.name) for path in paths] == published.target.tolist()
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_allclose(pixels, published.images * 255 / 16, rtol=0, atol=0.5)
    assert sorted(os.listdir(digits)) == list("0123456789")


def test_a_sample_is_laid_out_once(digits: Path) -> None:
    mark = digits / "0" / "0000.png"
    before = mark.stat()
    assert lay_out_digits(digits) == digits
    assert (mark.stat().st_ino, mark.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_interrupted_layout_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []

    def save(self: Image.Image, path: Path) -> None:
        path.touch()
        saved.append(path)
        if len(saved) == 100:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        lay_out_digits(tmp_path / "digits")
    assert len(saved) == 100
    assert os.listdir(tmp_path) == [".digits.lock"]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_ingested_whole(name: str, digits: Path) -> None:
    found = ingest(IngestConfig(data=f"sample:{name}"), digits.parent, digits.parent / ".cache", Silent())
    assert not found.rejected
    assert len(found.manifest) == 1797
    shares = {split: sum(counts.values()) / 1797 for split, counts in found.manifest.counts().items()}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.01)
