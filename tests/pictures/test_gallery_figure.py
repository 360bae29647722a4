"""The gallery shows each test image, its heat and its words in their own places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from pipeline.figures import BLUE, DPI, ORANGE, save_figure
from pipeline.pictures.gallery import (
    BETWEEN,
    COLUMNS,
    FRAME,
    HEAD,
    HEADING,
    LINE,
    SIDE,
    WITHIN,
    Group,
    Tile,
    gallery_figure,
)

#: What a picture's margin adds, in pixels.
MARGIN = round(0.15 * DPI)
TOP = HEAD + LINE + HEADING  # of the first tile under a title of one line
HEAT = np.array([[0, 0], [0, 0.001]], np.float32)
NAMES = ["W" * 60, "猫" * 40, "$x^2$ $", "two\nlines", "\N{DOG FACE} \udcff", "عربي", ""]


def tile(label: str = "cat", predicted: str = "dog", **changes: Any) -> Tile:
    whole: dict[str, Any] = {"pixels": np.full((28, 28, 3), 100, np.uint8), "heat": HEAT, "probability": 0.97531}
    return Tile(label=label, predicted=predicted, **whole | changes)


def draw(figure: Figure, path: Path) -> np.ndarray:
    save_figure(figure, path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))[MARGIN:-MARGIN, MARGIN:-MARGIN]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_everything_is_said_once() -> None:
    groups = [Group("mistakes", (tile(), tile("owl", "cat", probability=0.99999))), Group("hits", (tile("a", "a"),))]
    figure = gallery_figure(groups, "a title")
    said = words(figure)
    assert said[0] == "a title"
    assert said[2:] == [
        "mistakes", "true: cat", "predicted: dog", "probability 0.975", "true: owl", "predicted: cat",
        "probability >0.999", "hits", "true: a", "predicted: a", "probability 0.975",
    ]  # fmt: skip
    colours = [to_hex(text.get_color()) for text in figure.axes[0].texts if text.get_text().startswith("predicted")]
    assert colours == [ORANGE.lower(), ORANGE.lower(), BLUE.lower()]


def test_small_images_are_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    pixels = draw(gallery_figure([Group("g", (tile(pixels=small, heat=0 * HEAT),))], "t"), tmp_path / "out.png")
    wanted = small.repeat(6, axis=0).repeat(6, axis=1)[..., np.newaxis]
    np.testing.assert_array_equal(pixels[TOP : TOP + SIDE, :SIDE], np.broadcast_to(wanted, (SIDE, SIDE, 3)))
    beside = pixels[TOP : TOP + SIDE, SIDE + WITHIN : 2 * SIDE + WITHIN].astype(int)
    assert np.abs(beside - wanted).max() <= 1  # no heat: the image in gray


def test_heat_lies_over_the_image_beside_and_not_over_its_frame(tmp_path: Path) -> None:
    gray = np.full((100, 200, 3), 100, np.uint8)
    pixels = draw(gallery_figure([Group("g", (tile(pixels=gray),))], "t"), tmp_path / "out.png").astype(int)
    image = pixels[TOP : TOP + SIDE, :SIDE]
    heat = pixels[TOP : TOP + SIDE, SIDE + WITHIN : 2 * SIDE + WITHIN]
    height = SIDE // 2
    frame = (SIDE - height) // 2
    for panel in (image, heat):
        assert (panel[:frame] == FRAME).all()
        assert (panel[frame + height :] == FRAME).all()
    assert (image[frame : frame + height] == 100).all()
    inside = heat[frame : frame + height]
    assert np.abs(inside[: height // 5, : SIDE // 5] - 100).max() <= 2
    assert np.ptp(inside[-1, -1]) > 50


def test_an_image_that_is_missing_leaves_an_empty_place(tmp_path: Path) -> None:
    figure = gallery_figure([Group("g", (tile(pixels=None), tile()))], "t")
    pixels = draw(figure, tmp_path / "out.png")
    assert (pixels[TOP : TOP + SIDE, : SIDE - 1] == FRAME).all()
    assert (pixels[TOP : TOP + SIDE, SIDE + WITHIN : 2 * SIDE] == FRAME).all()
    assert words(figure)[3:5] == ["true: cat", "predicted: dog"]


@pytest.mark.parametrize("heat", [HEAT, None])
@pytest.mark.parametrize("count", [1, COLUMNS, COLUMNS + 1, 9])
def test_tiles_stand_side_by_side_without_touching(count: int, heat: np.ndarray | None) -> None:
    figure = gallery_figure([Group("g", tuple(tile(heat=heat) for _ in range(count)))] * 2, "t")
    boxes = [image.get_extent() for image in figure.axes[0].images]
    assert len(boxes) == 2 * count * (1 if heat is None else 2)
    for place, (left, right, bottom, top) in enumerate(boxes):
        for other in boxes[:place]:
            apart = left >= other[1] + WITHIN or right <= other[0] - WITHIN
            assert apart or top >= other[2] or bottom <= other[3]
    assert max(box[1] for box in boxes) <= figure.get_figwidth() * DPI + 0.5


@pytest.mark.parametrize("heat", [HEAT, None])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_stays_in_its_room(name: str, heat: np.ndarray | None, tmp_path: Path) -> None:
    figure = gallery_figure([Group(name * 9, tuple(tile(name, name + "x", heat=heat) for _ in range(5)))], name * 9)
    assert all("\n" not in line for line in words(figure))
    pixels = draw(figure, tmp_path / "out.png")
    wide = round(figure.get_figwidth() * DPI + BETWEEN) // COLUMNS
    gap = pixels[-5 * SIDE // 4 :, wide - BETWEEN + 2 : wide - 2]
    assert gap.min() == 255


@pytest.mark.parametrize("shape", [(1, 1), (8, 8, 1), (3, 900, 3), (900, 3, 3), (299, 299, 3)])
def test_any_form_is_drawn(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = draw(gallery_figure([Group("g", (tile(pixels=np.zeros(shape, np.uint8)),))], "t"), tmp_path / "out.png")
    assert (pixels[TOP : TOP + SIDE, : SIDE - 1] == 0).all(axis=2).any()
