"""Fixtures of all tests: folders of tiny photographs whose class is their colour."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.export import clean, verify

MakePhotos = Callable[..., Path]


def _make_photos(
    root: Path,
    classes: Sequence[str] = ("blue", "green", "red"),
    count: int = 8,
    size: tuple[int, int] = (20, 24),
) -> Path:
    for place, label in enumerate(classes):
        colour = 255 * np.array(colorsys.hsv_to_rgb(place / len(classes), 0.7, 0.8))
        (root / label).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng((place, number)).normal(0, 20, (*size, 3))
            pixels = (colour + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.{'png' if number % 2 else 'jpg'}")
    return root


@pytest.fixture(scope="session")
def make_photos() -> MakePhotos:
    """Returns `make_photos(root, classes, count, size)`: writes `root/<class>/<n>.jpg|png` and returns `root`.

    No two images are equal. `size` is (H, W).
    """
    return _make_photos


@pytest.fixture
def photo_folder(tmp_path: Path, make_photos: MakePhotos) -> Path:
    """Returns a folder of three classes with eight images each."""
    return make_photos(tmp_path / "photos")


#: What the session's tests do without: TensorFlow, loaded once more, takes seven seconds.
verify_in_clean_process = clean.verify_in_clean_process


def _verify_here(folder: Path) -> dict[str, Any]:
    report = verify.verify(folder)
    clean.require_equal(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def exports_verified_here() -> Iterator[None]:
    """Lets the stage export verify its result in the test's own process; `clean_process` undoes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "verify_in_clean_process", _verify_here)
        yield


@pytest.fixture
def clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the stage export start its clean process, as it does for a user."""
    monkeypatch.setattr(clean, "verify_in_clean_process", verify_in_clean_process)
