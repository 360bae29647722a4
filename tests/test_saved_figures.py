"""What all pictures share: a name becomes one line that can be drawn, a figure becomes a PNG, whole and unwarned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.figures import DPI, one_line, save_figure


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 20, "short"),
        ("two\nlines\tand\x07a bell", 30, "two lines and a bell"),
        ("0123456789abcdef", 9, "0123…cdef"),
        ("猫猫猫猫猫猫", 7, "猫…猫"),  # two columns each
        ("no \udcff UTF-8", 20, "no \N{REPLACEMENT CHARACTER} UTF-8"),
        ("heart \u2764\ufe0f, family \U0001f468\u200d\U0001f469", 40, "heart \u2764, family \U0001f468\U0001f469"),
    ],
)
def test_a_name_is_one_line_of_at_most_so_many_columns(text: str, width: int, shown: str) -> None:
    assert one_line(text, width) == shown


@pytest.mark.parametrize("name", ["\N{DOG FACE}", "猫\ncat", "$x^2$ $", "\udcff", "{%s}\\"])
def test_any_name_is_saved_without_a_warning(name: str, tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    axes = figure.add_subplot()
    axes.set_yticks([0.5], [one_line(name, 20)], parse_math=False)
    axes.set_title(one_line(name, 20), parse_math=False)
    save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert np.asarray(image.convert("L")).min() < 100


def test_a_figure_is_a_png_at_the_shared_resolution_whatever_its_ending(tmp_path: Path) -> None:
    figure = Figure(figsize=(3, 2))
    figure.add_axes((0, 0, 1, 1)).set(xticks=[], yticks=[])
    path = tmp_path / "figure.picture"
    path.write_bytes(b"an older one")
    save_figure(figure, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx((3 + 2 * 0.15) * DPI, abs=4)
    assert list(tmp_path.iterdir()) == [path]
