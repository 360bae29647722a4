"""Planted transformations are found, different images are told apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

from pipeline.figures import save_figure
from pipeline.pictures.matches import match_figure


@pytest.fixture(scope="module")
def china() -> np.ndarray:
    return np.asarray(load_sample_image("china.jpg"))


@pytest.fixture(scope="module")
def flower() -> np.ndarray:
    return np.asarray(load_sample_image("flower.jpg"))


def turned(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 25, 0.7)
    return cv2.warpAffine(pixels, matrix, (width, height), borderValue=(255, 255, 255))


PLANTED = {
    "turned and smaller": turned,
    "cropped": lambda pixels: pixels[100:300, 150:400],
    "re-encoded": lambda pixels: cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1),
    "darker": lambda pixels: pixels // 2,
    "upside down": lambda pixels: np.ascontiguousarray(pixels[::-1, ::-1]),
}


@pytest.mark.parametrize("change", PLANTED.values(), ids=PLANTED)
def test_same_scene_is_found_again(china: np.ndarray, change: object) -> None:
    assert callable(change)
    _, summary = match_figure(china, change(china), ("one", "other"))
    assert summary.same_scene
    assert not summary.mirrored
    assert summary.inliers > 0.8 * summary.matches > 40
    assert f"{summary.inliers:,} agree on one transformation: very likely the same scene" in summary.verdict


def test_a_mirrored_scene_is_found_and_called_mirrored(china: np.ndarray) -> None:
    _, summary = match_figure(china, np.ascontiguousarray(china[:380, ::-1]), ("one", "other"))
    assert summary.same_scene
    assert summary.mirrored
    assert summary.verdict.endswith(" agree once one image is mirrored: very likely the same scene")


@pytest.mark.parametrize("mirrored", [False, True])
def test_lines_join_the_places_that_correspond(china: np.ndarray, mirrored: bool) -> None:
    figure, _ = match_figure(china, np.ascontiguousarray(china[:, ::-1]) if mirrored else china // 2, ("", ""))
    agreeing = [artist for artist in figure.artists if isinstance(artist, LineCollection)][-1]
    segments = figure.transFigure.transform(np.array(agreeing.get_segments()).reshape(-1, 2)).reshape(-1, 2, 2)
    ends = [axes.transData.inverted().transform(segments[:, place]) for place, axes in enumerate(figure.axes)]
    expected = ends[0] * [-1, 1] + [china.shape[1] - 1, 0] if mirrored else ends[0]
    apart = np.linalg.norm(ends[1] - expected, axis=1)
    assert len(apart) == 100
    assert np.quantile(apart, 0.9) < 2.0


def test_different_images_do_not_agree(china: np.ndarray, flower: np.ndarray) -> None:
    _, summary = match_figure(china, flower, ("", ""))
    assert not summary.same_scene
    assert summary.verdict.endswith("different images")
    noise = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 3), dtype=np.uint8)
    assert not match_figure(noise[0], noise[1], ("", ""))[1].same_scene


def test_equal_images_give_equal_summaries_and_pictures(china: np.ndarray, tmp_path: Path) -> None:
    paths, summaries = [tmp_path / "a.png", tmp_path / "b.png"], []
    for path in paths:
        np.random.default_rng().integers(3)
        cv2.setRNGSeed(len(summaries) + 5)
        figure, summary = match_figure(china, turned(china), ("a", "b"))
        save_figure(figure, path)
        summaries.append(summary)
    assert summaries[0] == summaries[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_one_image_twice_is_said_to_be_that() -> None:
    blank = np.full((40, 50, 3), 200, np.uint8)
    _, summary = match_figure(blank, blank.copy(), ("", ""))
    assert summary.identical
    assert summary.verdict == "every pixel is the same: one image twice"


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (1, 200)], ids=str)
def test_images_without_details_are_said_to_have_none(shape: tuple[int, int], china: np.ndarray) -> None:
    figure, summary = match_figure(np.full((*shape, 3), 90, np.uint8), china, ("\N{DOG FACE}$", "b"))
    assert isinstance(figure, Figure)
    assert summary.keypoints[0] == 0
    assert summary.verdict.endswith("keypoints: too few details to tell")
    assert not summary.same_scene


def test_small_images_are_enlarged_for_their_keypoints(china: np.ndarray) -> None:
    small = cv2.resize(china[100:400, 100:400], (30, 30), interpolation=cv2.INTER_AREA)
    _, summary = match_figure(small, np.ascontiguousarray(small[:, ::-1]), ("", ""))
    assert min(summary.keypoints) > 15
    assert summary.same_scene
    assert summary.mirrored
