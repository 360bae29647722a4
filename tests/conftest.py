"""Fixtures of all tests: folders of tiny photographs whose class is their colour."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
