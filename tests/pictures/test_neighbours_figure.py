"""The picture of neighbours shows each of them, whatever their forms and names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from pipeline.figures import DPI, GREEN, save_figure
from pipeline.pictures.neighbours import BETWEEN, HEAD, LABEL_COLUMNS, TILE, Tile, neighbours_figure

QUERY = np.full((30, 40, 3), (200, 30, 30), np.uint8)

#: What a picture's margin adds, in pixels.
MARGIN = round(0.15 * DPI)


@pytest.fixture
def tile(tmp_path: Path) -> Callable[..., Tile]:
    """Returns `tile(...)`: a neighbour with a file of its own, blue and half transparent."""

    def make(number: int, label: str = "cat", same: bool = False, size: tuple[int, int] = (20, 30)) -> Tile:
        path = tmp_path / f"{number}.png"
        Image.new("RGBA", size, (0, 0, 255, 128)).save(path)
        return Tile(str(path), path.name, label, 1 - number / 100, same)

    return make


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def draw(figure: Figure, path: Path) -> np.ndarray:
    save_figure(figure, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_each_neighbour_is_drawn_with_label_and_similarity(tile: Callable[..., Tile]) -> None:
    tiles = [tile(0, "cat", True), tile(1, "dog"), tile(2, "cat")]
    figure = neighbours_figure(QUERY, "query.jpg", tiles, "a title", "a note")
    assert words(figure) == [
        "a title", "a note", "the image asked for", "query.jpg", "40 x 30 pixels",
        "1.000   the image itself", "cat", "0.png", "0.990", "dog", "1.png", "0.980", "cat", "2.png",
    ]  # fmt: skip
    assert len(figure.axes[0].images) == 4
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len([frame for frame in frames if frame.get_edgecolor()[:3] == pytest.approx(_rgb(GREEN))]) == 1


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def test_images_are_shown_over_white_where_they_belong(tile: Callable[..., Tile], tmp_path: Path) -> None:
    pixels = draw(neighbours_figure(QUERY, "q", [tile(0), tile(1)], "t", "n"), tmp_path / "out.png")
    right = pixels.shape[1] - MARGIN
    row = MARGIN + HEAD + TILE // 2
    for left in (right - TILE, right - 2 * TILE - BETWEEN):
        middle = pixels[row, left + TILE // 2].astype(int)
        assert np.abs(middle - [127, 127, 255]).max() <= 3
    assert np.abs(pixels[MARGIN + HEAD + 168, MARGIN + 168].astype(int) - QUERY[0, 0]).max() <= 3


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9, 31])
def test_the_picture_grows_by_rows(count: int, tile: Callable[..., Tile], tmp_path: Path) -> None:
    figure = neighbours_figure(QUERY, "q", [tile(number) for number in range(count)], "t", "n")
    columns = min(count, 4 if count <= 8 else 6)
    assert len(figure.axes[0].images) == 1 + count
    lefts = {image.get_extent()[0] for image in figure.axes[0].images[1:]}
    assert len(lefts) == columns
    tops = {image.get_extent()[3] for image in figure.axes[0].images[1:]}
    assert len(tops) == -(-count // columns)
    assert draw(figure, tmp_path / "out.png").shape[0] < figure.get_figheight() * DPI + 3 * MARGIN


@pytest.mark.parametrize("size", [(1, 1), (600, 2), (2, 600), (1, 3000)])
def test_any_form_is_drawn(size: tuple[int, int], tile: Callable[..., Tile], tmp_path: Path) -> None:
    query = np.zeros((size[1], size[0], 3), np.uint8)
    pixels = draw(neighbours_figure(query, "q", [tile(0, size=size)], "t", "n"), tmp_path / "out.png")
    assert pixels.shape[0] < 900


def test_an_image_that_is_gone_leaves_its_place_empty(tile: Callable[..., Tile], tmp_path: Path) -> None:
    first = tile(0)
    Path(first.path).unlink()
    assert words(neighbours_figure(QUERY, "q", [first, tile(1)], "t", "n"))[5:8] == ["1.000", "cat", "0.png"]


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("two\nlines", ["two lines"]),
        ("a label of several words", ["a label of several", "words"]),
        ("golden retriever, Labrador retriever, and more", ["golden retriever,", "Labrador …and more"]),
        ("x" * 40, ["x" * LABEL_COLUMNS, "xxxxxxxxx…xxxxxxxx"]),
        ("猫" * 12, ["猫" * 9, "猫" * 3]),
        ("$x^2$ $", ["$x^2$ $"]),
        ("\N{DOG FACE} \udcff", ["\N{DOG FACE} \N{REPLACEMENT CHARACTER}"]),
    ],
)
def test_a_label_takes_at_most_two_lines(
    label: str, lines: list[str], tile: Callable[..., Tile], tmp_path: Path
) -> None:
    figure = neighbours_figure(QUERY, label, [tile(0, label)], label * 9, label * 9)
    assert [line.strip() for line in words(figure)[6:-1]] == lines
    assert draw(figure, tmp_path / "out.png").size


def test_no_text_runs_into_the_next_tile(tile: Callable[..., Tile], tmp_path: Path) -> None:
    """Wider letters than were reckoned with are cut off."""
    first, second = (
        draw(neighbours_figure(QUERY, "q", [tile(0, label), tile(1, "")], "t", "n"), tmp_path / "out.png")
        for label in ("W" * 18, "i")
    )
    assert first.shape == second.shape
    changed = np.flatnonzero((first != second).any(axis=(0, 2)))
    assert changed.max() - changed.min() <= TILE
