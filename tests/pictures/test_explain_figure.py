"""The picture of an explanation shows what was found, of any form and under any name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from pipeline.figures import BLUE, DPI, GREEN, ORANGE, save_figure
from pipeline.models.explanation import ClassScore, Depth, Explanation, Filters, Growth
from pipeline.models.receptive_field import ReceptiveField
from pipeline.pictures.explain import (
    CAPTION,
    CLASSES,
    FRAME,
    GAP,
    HEAD,
    MAP,
    MOST_FILTERS,
    PICTURE,
    TILE_GAP,
    WIDTH,
    explain_figure,
)

#: What a picture's margin adds, in pixels.
MARGIN = round(0.15 * DPI)
RANDOM = np.random.default_rng(0)


def field(size: int, stride: int = 1, gates: bool = False) -> ReceptiveField:
    return ReceptiveField((size, size), (stride, stride), (-(size // 2), -(size // 2)), gates)


def score(label: str, probability: float, heat: np.ndarray | None = None, truth: bool = False) -> ClassScore:
    return ClassScore(label, probability, truth, heat)


def explanation(size: tuple[int, int] = (32, 32), channels: int = 3, **changes: Any) -> Explanation:
    sizes = [(3, 1), (7, 2), (99, 8)]
    depths = tuple(
        Depth(
            f"layer_{number}", (max(1, size[0] // stride), max(1, size[1] // stride), 5), field(extent, stride),
            (0, 4, 2), RANDOM.normal(size=(3, max(1, size[0] // stride), max(1, size[1] // stride))).astype(np.float32),
        )
        for number, (extent, stride) in enumerate(sizes)
    )  # fmt: skip
    whole = {
        "backbone": "convnet",
        "pixels": RANDOM.uniform(0, 255, (*size, channels)).astype(np.float32),
        "filters": Filters("conv", RANDOM.normal(size=(8, 3, 3, channels)).astype(np.float32)),
        "depths": depths,
        "growth": tuple(Growth(3 * n + 1, f"layer_{n}", field(*size)) for n, size in enumerate(sizes)),
        "classes": (score("cat", 0.75, np.ones((2, 2), np.float32)), score("dog", 0.25, np.zeros((2, 2), np.float32))),
    }
    return Explanation(**whole | changes)  # type: ignore[arg-type]


def draw(figure: Figure, path: Path) -> np.ndarray:
    save_figure(figure, path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels[MARGIN:-MARGIN, MARGIN:-MARGIN]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def boxes(figure: Figure, colour: str) -> list[Rectangle]:
    drawn = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [patch for patch in drawn if to_hex(patch.get_edgecolor()) == colour.lower()]


def test_everything_is_said() -> None:
    figure = explain_figure(explanation(), "a title", "a note")
    said = words(figure)
    for line in (
        "a title", "a note", "as the network takes it: 32 x 32 pixels", "cat", "0.750", "dog", "0.250",
        "0.750   Grad-CAM: bright speaks for it", "0.250   Grad-CAM: nothing speaks for it",
        "conv: 8 kernels of 3 x 3; gray: 0", "the image, 32 pixels", "layer_0", "32 x 32 units, 5 channels",
        "a unit sees 3 x 3 pixels", "the next one, 1 pixel on", "a unit sees 99 x 99 pixels",
        "the next one, 8 pixels on", "3", "7", "99",
    ):  # fmt: skip
        assert line in said, line
    assert not [line for line in said if "true class" in line or "gates" in line]


def test_the_curve_is_the_growth_of_the_field() -> None:
    chart = explain_figure(explanation(), "t", "n").axes[1]
    assert chart.lines[0].get_xydata().tolist() == [[0, 1], [1, 3], [4, 7], [7, 99]]
    gates = tuple(Growth(n, "layer", field(3, gates=True)) for n in range(2))
    said = words(explain_figure(explanation(growth=gates), "t", "n"))
    assert any("gates bring in the whole image too" in line for line in said)


def test_bars_are_as_long_as_classes_are_likely_and_green_is_the_true_one() -> None:
    classes = (score("cat", 0.75), score("dog", 0.25, truth=True))
    figure = explain_figure(explanation(classes=classes), "t", "n")
    assert [bar.get_width() for bar in boxes(figure, BLUE)] == [0.75 * CLASSES]
    assert [bar.get_width() for bar in boxes(figure, GREEN)] == [0.25 * CLASSES]
    assert "probabilities; green: the true class" in words(figure)


def test_heat_is_where_it_was_found(tmp_path: Path) -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 3] = 0.001  # however weak: each map has its own scale
    gray = np.full((32, 32, 3), 100, np.float32)
    found = explanation(pixels=gray, classes=(score("cat", 1.0, heat), score("dog", 0.0, 0 * heat)))
    pixels = draw(explain_figure(found, "t", "n"), tmp_path / "out.png").astype(int)
    top, left = HEAD + CAPTION, PICTURE + CLASSES + 2 * GAP
    first = pixels[top : top + PICTURE, left : left + PICTURE]
    brightest = np.unravel_index(np.ptp(first, axis=2).argmax(), first.shape[:2])
    assert abs(brightest[0] - 0.375 * PICTURE) < 45
    assert brightest[1] > 0.8 * PICTURE
    assert np.abs(first[200:, :150] - 100).max() <= 2
    second = pixels[top : top + PICTURE, left + PICTURE + GAP : left + 2 * PICTURE + GAP]
    assert np.abs(second - 100).max() <= 2


def test_a_filter_is_gray_where_its_weights_are_0(tmp_path: Path) -> None:
    kernels = np.zeros((3, 2, 2, 3), np.float32)
    kernels[0, 0, 0] = (2, 0, 0)
    kernels[0, 1, 1] = (-2, 0, 0)
    kernels[1, 0, 0] = 0.001  # noise in a dead filter
    pixels = draw(explain_figure(explanation(filters=Filters("conv", kernels)), "t", "n"), tmp_path / "out.png")
    top, side = HEAD + 2 * CAPTION + PICTURE + 26, 96
    tiles = pixels[top : top + side, : 3 * (side + TILE_GAP)].astype(int)
    at = [tiles[row, column].tolist() for row, column in ((24, 24), (72, 72), (24, 72), (24, 124), (24, 224))]
    wanted = [[255, 128, 128], [0, 128, 128], [128] * 3, [128] * 3, [128] * 3]
    assert np.abs(np.subtract(at, wanted)).max() <= 2


def test_many_filters_are_cut_off_and_it_is_said() -> None:
    kernels = np.ones((MOST_FILTERS + 1, 3, 3, 1), np.float32)
    said = words(explain_figure(explanation(channels=1, filters=Filters("conv", kernels)), "t", "n"))
    assert f"conv: {MOST_FILTERS} of {MOST_FILTERS + 1} kernels of 3 x 3; gray: 0" in said


def test_the_frame_is_round_what_the_brightest_unit_sees(tmp_path: Path) -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 2, 3] = 1
    depth = Depth("layer", (4, 4, 1), ReceptiveField((8, 6), (8, 8), (0, 1), False), (0,), maps)
    figure = explain_figure(explanation(depths=(depth,)), "t", "n")
    (frame,) = boxes(figure, ORANGE)
    scale = MAP / 32
    assert frame.get_width() == pytest.approx(6 * scale)
    assert frame.get_height() == pytest.approx(8 * scale)
    assert frame.get_x() == pytest.approx(WIDTH - MAP + 25 * scale)
    pixels = draw(figure, tmp_path / "out.png")
    assert pixels.shape[1] == pytest.approx(WIDTH, abs=3)


@pytest.mark.parametrize(
    ("size", "channels"), [((8, 8), 1), ((1, 1), 3), ((16, 400), 3), ((400, 16), 1), ((299, 299), 3)]
)
def test_any_form_is_drawn(size: tuple[int, int], channels: int, tmp_path: Path) -> None:
    pixels = draw(explain_figure(explanation(size, channels), "t", "n"), tmp_path / "out.png")
    assert pixels.shape[1] == pytest.approx(WIDTH, abs=3)
    assert 1000 < pixels.shape[0] < 1400
    panel = pixels[HEAD + CAPTION :][:PICTURE, :PICTURE]
    framed = (panel == FRAME).all(axis=2).mean()
    assert framed == pytest.approx(1 - min(size) / max(size), abs=0.05)


@pytest.mark.parametrize("name", ["two\nlines", "猫" * 40, "$x^2$ $", "\N{DOG FACE} \udcff", "W" * 60, ""])
def test_any_name_is_drawn_in_its_room(name: str, tmp_path: Path) -> None:
    classes = (score(name, 0.9, np.ones((1, 1), np.float32)), score("dog", 0.1, np.ones((1, 1), np.float32), True))
    figure = explain_figure(explanation(classes=classes), name * 9, name * 9)
    assert all("\n" not in line for line in words(figure))
    pixels = draw(figure, tmp_path / "out.png")
    assert pixels.shape[1] == pytest.approx(WIDTH, abs=3)
    between = pixels[HEAD : HEAD + CAPTION, PICTURE + CLASSES + GAP : PICTURE + CLASSES + 2 * GAP - 1]
    assert between.min() == 255


def test_without_classes_the_rest_is_drawn(tmp_path: Path) -> None:
    figure = explain_figure(explanation(classes=()), "t", "n")
    assert "classes" not in words(figure)
    assert "layer_2" in words(figure)
    assert draw(figure, tmp_path / "out.png").std() > 1


def test_a_map_of_one_value_is_dark(tmp_path: Path) -> None:
    depth = Depth("layer", (2, 2, 1), field(3), (0,), np.full((1, 2, 2), 7, np.float32))
    pixels = draw(explain_figure(explanation(depths=(depth,)), "t", "n"), tmp_path / "out.png")
    left = WIDTH - 9 * MAP - 8 * 8 - GAP  # of the first of eight maps and the image
    assert pixels[-MAP // 2, left + 10 : left + MAP - 10].max() < 10
