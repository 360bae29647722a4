from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate import embedding
from pipeline.evaluate.embedding import LIGHT, embed


def encode(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def decode(source: str) -> tuple[str, bytes, np.ndarray]:
    kind, data = source.split(";base64,")
    raw = base64.b64decode(data)
    with Image.open(BytesIO(raw)) as image:
        return kind, raw, np.asarray(image.convert("RGB"))


def noise(height: int, width: int) -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def test_a_light_picture_stays_as_it_is() -> None:
    png = encode(np.zeros((20, 100, 3), np.uint8))
    found = embed({"a": png})["a"]
    assert decode(found.source)[:2] == ("data:image/png", png)
    assert (found.width, found.height, found.legible) == (74, 15, 42)


def test_a_heavy_picture_of_few_colours_loses_nothing() -> None:
    pixels = np.repeat(np.random.default_rng(0).integers(0, 2, (400, 400, 1), dtype=np.uint8) * 255, 3, axis=2)
    kind, raw, shown = decode(embed({"a": encode(pixels)})["a"].source)
    assert kind == "data:image/png"
    assert len(raw) < LIGHT
    np.testing.assert_array_equal(shown, pixels)


def test_photographs_become_a_jpeg_of_the_same_look() -> None:
    pixels = noise(400, 600)
    kind, raw, shown = decode(embed({"a": encode(pixels)})["a"].source)
    assert kind == "data:image/jpeg"
    assert len(raw) < LIGHT
    assert np.abs(shown.astype(int) - pixels).mean() < 4


def test_all_together_stay_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = {str(number): encode(noise(1500, 1500)) for number in range(2)}
    usual = embed(pictures)
    monkeypatch.setattr(embedding, "MOST_BYTES", 600_000)
    packed = embed(pictures)
    assert sum(len(decode(one.source)[1]) for one in packed.values()) <= 600_000
    assert [(one.width, one.legible) for one in packed.values()] == [(one.width, one.legible) for one in usual.values()]
    assert len(packed["0"].source) < len(usual["0"].source)
