"""Slices against counting by hand; what stands out does so by more than luck."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from pipeline.evaluate.slices import Kind, image_kinds, mean_brightness, measure_slices, slices_chapter
from pipeline.ingest.manifest import build_manifest


def halves(count: int) -> dict[str, Kind]:
    return {"half": Kind(("first", "second"), np.repeat([0, 1], count // 2))}


def test_a_slice_is_its_own_mean_with_wilsons_interval() -> None:
    scores = np.r_[np.ones(45), np.zeros(5), np.ones(30), np.zeros(20)]
    first, second = measure_slices(scores, [str(n) for n in range(100)], halves(100))
    assert (first.name, first.images, first.score) == ("first", 50, 0.9)
    wilson = binomtest(30, 50).proportion_ci(method="wilson")
    assert (second.low, second.high) == pytest.approx((wilson.low, wilson.high))
    assert first.differs
    assert second.differs


def test_copies_do_not_make_a_difference_stand_out() -> None:
    scores = np.r_[np.ones(45), np.zeros(5), np.ones(30), np.zeros(20)]
    clusters = [f"{n // 50}-{n // 25}" for n in range(100)]  # two of each half
    assert not any(one.differs for one in measure_slices(scores, clusters, halves(100)))


def test_slices_that_are_alike_rarely_differ() -> None:
    random, called = np.random.default_rng(0), 0
    for _ in range(200):
        scores = (random.uniform(size=200) < 0.8).astype(float)
        kinds = {str(n): Kind(("a", "b", "c"), random.integers(0, 3, 200)) for n in range(3)}
        called += any(one.differs for one in measure_slices(scores, [str(n) for n in range(200)], kinds))
    assert called / 200 <= 0.06


def test_slices_of_few_images_and_of_all_are_left_out() -> None:
    scores, clusters = np.ones(30), [str(n) for n in range(30)]
    assert measure_slices(scores, clusters, {"one": Kind(("all",), np.zeros(30, int))}) == []
    few = Kind(("few", "rest"), np.r_[np.zeros(9, int), np.ones(21, int)])
    assert [one.name for one in measure_slices(scores, clusters, {"k": few})] == ["rest"]


def test_kinds_come_from_the_manifest_and_the_pixels(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        width, height = (40, 20) if number < 4 else (20, 40) if number < 8 else (30, 30)
        path = tmp_path / f"{number:02}.png"
        Image.fromarray(np.full((height, width), 20 * number, np.uint8)).save(path)
        rows.append(
            {"id": path.name, "path": str(path), "width": width, "height": height, "split": "test", "label": "a",
             "group": "street" if number % 3 else None}
        )  # fmt: skip
    kinds = image_kinds(build_manifest(rows))
    assert [kinds["shape"].names[n] for n in kinds["shape"].places] == (
        ["landscape"] * 4 + ["portrait"] * 4 + ["square"] * 4
    )
    assert kinds["brightness"].places.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert kinds["group"].names == ["street"]
    assert kinds["group"].places.tolist() == [int(number % 3 == 0) for number in range(12)]
    paths = [str(row["path"]) for row in rows] + [str(tmp_path / "gone.png")]
    brightness = mean_brightness(paths, np.full(13, 20.0))
    np.testing.assert_allclose(brightness[:12], 20 * np.arange(12))
    assert np.isnan(brightness[12])


def test_large_photographs_are_read_at_a_fraction(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3)).astype(np.uint8)
    pixels[:, :400] //= 4
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    found = mean_brightness([str(path)] * 2, np.array([600.0, 100.0]))
    assert found[0] == pytest.approx(found[1], abs=2)


def test_the_chapter_names_what_stands_out() -> None:
    scores = np.r_[np.ones(45), np.zeros(5), np.ones(30), np.zeros(20)]
    chapter = slices_chapter(measure_slices(scores, [str(n) for n in range(100)], halves(100)), 0.75)
    assert chapter.finding.startswith("Unlike the rest, with 0.750 over all: half second 0.600 (0.46")
    alike = slices_chapter(measure_slices(np.r_[1.0, np.zeros(99)], [str(n) for n in range(100)], halves(100)), 0.01)
    assert alike.finding.startswith("No slice is unlike the rest; the lowest is half second, 0.000")
    assert "too few" in slices_chapter([], 0.5).finding
