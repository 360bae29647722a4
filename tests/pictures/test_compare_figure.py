"""The picture of two runs says what was found and shows what changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pipeline.figures import BLUE, GRAY, ORANGE, save_figure
from pipeline.pictures.compare import MOST_BARS, WIDTH, Bar, Gallery, Mark, Tile, compare_figure

NONE = Gallery(0, [])
MARKS = [Mark("top-1", 2.5, 0.5, 4.5), Mark("macro-F1", 1.0, -1.0, 3.0)]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def tile(path: Path | str, label: str = "cat", a: str = "dog", b: str = "cat") -> Tile:
    return Tile(str(path), label, a, b, 0.75, 0.5)


def saved(figure: Figure, path: Path) -> tuple[int, int]:
    save_figure(figure, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_everything_that_is_given_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (0, 0, 255)).save(tmp_path / "1.png")
    bars = [Bar("cat", 40, 5, 1), Bar("dog", 38, 0, 3), Bar("cow", 9, 0, 0), Bar("bee", 9, 2, 2)]
    figure = compare_figure(
        "new is better", "A is old, B is new", MARKS, bars, ["seed: 1 in A, 2 in B"],
        fixed=Gallery(7, [tile(tmp_path / "1.png"), tile("gone.png")]), broken=NONE,
    )  # fmt: skip
    said = words(figure)
    for text in (
        "new is better", "A is old, B is new", "seed: 1 in A, 2 in B", "+2.5  (+0.5 to +4.5)", "+1.0  (-1.0 to +3.0)",
        "top-1: B is ahead", "most gained: cat (+4); most lost: dog (-3)", "cat (40)", "dog (38)", "bee (9)",
        "3 of 4 classes changed; in brackets: test images", "7 fixed: only B is right", "0 broken: only A is right",
        "where both were surest first (2 shown)", "✗ A 0.75: dog", "✓ B 0.50: cat", "the file is gone",
    ):  # fmt: skip
        assert text in said, text
    assert "cow (9)" not in said
    assert said.count("the file is gone") == 1
    assert saved(figure, tmp_path / "out.png")[0] == pytest.approx(WIDTH, abs=80)


@pytest.mark.parametrize(
    ("low", "high", "colour", "words_"),
    [(0.5, 4, BLUE, "B is ahead"), (-4, -0.5, ORANGE, "A is ahead"), (-1, 2, GRAY, "the interval holds 0")],
)
def test_the_interval_is_coloured_by_what_it_shows(low: float, high: float, colour: str, words_: str) -> None:
    figure = compare_figure("t", "n", [Mark("top-1", (low + high) / 2, low, high)], [], [], fixed=NONE, broken=NONE)
    marks = figure.axes[1]
    (dot,) = [line for line in marks.lines if line.get_marker() == "o"]
    assert dot.get_color() == colour
    assert np.asarray(dot.get_xdata()) == pytest.approx((low + high) / 2)
    left, right = marks.get_xlim()
    assert left < min(low, 0)
    assert right > max(high, 0)
    assert f"top-1: {words_}" in words(figure)


def test_bars_are_what_was_fixed_and_broken_and_the_most_changed_of_many() -> None:
    bars = [Bar(f"class {number}", 30, number, 60 - number if number < 10 else 0) for number in range(40)]
    figure = compare_figure("t", "n", MARKS, bars, [], fixed=NONE, broken=NONE)
    axes = figure.axes[2]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert len(names) == MOST_BARS
    assert names[0] == "class 39 (30)"
    assert names[-1] == "class 0 (30)"
    widths = [patch.get_width() for patch in axes.patches]
    assert (max(widths), min(widths)) == (39, -60)
    colours = {patch.get_facecolor()[:3]: np.sign(patch.get_width()) for patch in axes.patches}
    assert sorted(colours.values()) == [-1, 1]
    assert any(text.startswith("40 of 40 classes changed, 16 shown") for text in words(figure))


def test_long_and_odd_names_stay_inside(tmp_path: Path) -> None:
    odd = "猫\n$x^2$ " + "long " * 60
    figure = compare_figure(
        odd, odd, MARKS, [Bar(odd, 3, 1, 2)], [odd] * 30, fixed=Gallery(1, [tile("x", odd, odd, odd)]), broken=NONE
    )
    assert saved(figure, tmp_path / "out.png")[0] == pytest.approx(WIDTH, abs=120)
    assert "and 20 more settings that differ" in words(figure)


def test_a_title_of_two_clauses_parts_between_them() -> None:
    title = "cannot tell whether one-run-of-a-long-name is better than another: +1.0 points; needs about 5,000 more"
    figure = compare_figure(title, "n", MARKS, [], [], fixed=NONE, broken=NONE)
    first = "cannot tell whether one-run-of-a-long-name is better than another: +1.0 points; "
    assert first in words(figure)
    assert "needs about 5,000 more" in words(figure)
