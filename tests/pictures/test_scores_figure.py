"""The charts of an evaluation can be read, for two classes as for two hundred."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pipeline.figures import save_figure
from pipeline.pictures.scores import (
    BEST,
    MOST_CLASSES,
    WIDTH,
    WORST,
    Panel,
    Reliability,
    Scores,
    Series,
    curve_figure,
    curves_figure,
    per_class_figure,
    reliability_figure,
)  # fmt: skip

NAMES = ("cat", "W" * 50, "猫の写真" * 9, "$x^2$ $", "two\nlines", "\udcff", "عربي", "")
LONG = "The worst class has a recall of 0.51, and it is taken for the other one more often than for anything else"


def scores(values: np.ndarray) -> Scores:
    return Scores(values, np.clip(values - 0.05, 0, 1), np.clip(values + 0.05, 0, 1))


def per_class(count: int, names: tuple[str, ...] = NAMES) -> Figure:
    random = np.random.default_rng(count)
    labels = [f"{names[n % len(names)]}{n}" for n in range(count)]
    recall = scores(random.permutation(np.linspace(0.5, 1, count)))
    return per_class_figure(
        labels, recall, scores(random.uniform(0.3, 1, count)), random.integers(1, 5000, count), LONG
    )


def seen(figure: Figure) -> list[Text]:
    """Returns the texts that are drawn: not the names of ticks beyond the ends of an axis."""
    hidden = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and id(text) not in hidden]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def check_readable(figure: Figure, path: Path) -> None:
    """No text is small, none lies over another one, and the picture is as wide as was wanted."""
    save_figure(figure, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.draw_without_rendering()
        texts = seen(figure)
        boxes = [text.get_window_extent().padded(-1) for text in texts]
    for (one, first), (other, second) in combinations(zip(boxes, texts, strict=True), 2):
        assert not one.overlaps(other), f"{first.get_text()!r} lies over {second.get_text()!r}"
    assert min(text.get_fontsize() for text in texts) >= 8
    with Image.open(path) as picture:
        assert picture.width < 130 * (WIDTH + 1.6)
        assert np.asarray(picture.convert("L")).std() > 1


@pytest.mark.parametrize("count", [1, 2, 10, MOST_CLASSES, MOST_CLASSES + 1, 200])
def test_scores_of_few_and_of_many_classes_are_readable(count: int, tmp_path: Path) -> None:
    check_readable(per_class(count), tmp_path / "out.png")


def test_the_worst_recall_comes_first() -> None:
    figure = per_class_figure(
        ["good", "bad", "middling"],
        scores(np.array([0.9, 0.2, 0.5])),
        scores(np.array([0.1, 0.8, 0.9])),
        [5, 6, 7],
        "t",
    )
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bad", "middling", "good"]
    assert [text.get_text() for text in axes.texts][:3] == ["6", "7", "5"]
    recall = next(line for line in axes.lines if line.get_marker() == "o")
    assert recall.get_xdata().tolist() == [0.2, 0.5, 0.9]
    assert axes.yaxis_inverted()


def test_of_many_classes_the_worst_and_some_of_the_best_are_drawn_and_the_gap_is_said() -> None:
    axes = per_class(200, ("class ",)).axes[0]
    assert len(axes.get_yticklabels()) == WORST + BEST
    recall = next(line for line in axes.lines if line.get_marker() == "o").get_xdata()
    steps = np.linspace(0.5, 1, 200)
    np.testing.assert_allclose(recall, [*steps[:WORST], *steps[-BEST:]])
    said = [text.get_text() for text in axes.texts]
    assert f"175 more classes, recall {steps[WORST]:.3f} to {steps[-BEST - 1]:.3f}" in said


def test_classes_without_a_test_image_are_counted_not_drawn() -> None:
    values = np.array([0.9, 0.0, np.nan])
    figure = per_class_figure(["a", "b", "c"], scores(values), scores(np.array([np.nan, 1, 1])), [5, 0, 0], "t")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a"]
    assert axes.get_xlabel() == "share, with 95 % interval; 2 classes have no test image"
    nothing = per_class_figure(["a"], scores(values[1:2]), scores(values[1:2]), [0], "t")
    assert nothing.axes[0].get_yticklabels() == []


def test_good_scores_are_drawn_large() -> None:
    axes = per_class_figure(["a", "b"], scores(np.array([0.95, 0.99])), scores(np.array([1, 0.98])), [9, 9], "t").axes[
        0
    ]
    assert axes.get_xlim()[0] == pytest.approx(0.8, abs=0.01)


def test_reliability_before_and_after(tmp_path: Path) -> None:
    edges = np.linspace(0, 1, 6)
    middles, counts = (edges[1:] + edges[:-1]) / 2, [0, 3, 10, 40, 2000]
    before = Reliability("before", middles, middles - 0.1, counts, middles - 0.2, middles)
    after = Reliability("temperature 1.4", middles, middles, counts[::-1])
    figure = reliability_figure(edges, [before, after], LONG)
    check_readable(figure, tmp_path / "out.png")
    above, below = figure.axes
    curves = {str(line.get_label()): line for line in above.lines}
    np.testing.assert_allclose(curves["before"].get_xdata(), middles[1:])  # an empty bin has no accuracy
    np.testing.assert_allclose(curves["temperature 1.4"].get_ydata(), middles[:-1])
    assert curves["before"].get_marker() != curves["temperature 1.4"].get_marker()
    heights = [patch.get_height() for patch in below.patches]
    assert heights == [*counts, *counts[::-1]]
    lefts = np.array([patch.get_x() for patch in below.patches])
    rights = lefts + [patch.get_width() for patch in below.patches]
    assert (rights[:5] <= lefts[5:] + 1e-9).all()
    assert (rights <= np.tile(edges[1:], 2)).all()


def test_a_curve_with_intervals(tmp_path: Path) -> None:
    x = [100, 200, 400, 800, 1600]
    series = [
        Series("train", [0.9, 0.92, 0.94, 0.95, 0.96]),
        Series("test", [0.5, 0.6, 0.7, 0.8, 0.85], [0.4] * 5, [0.9] * 5),
    ]
    figure = curve_figure(x, series, LONG, "training images", "top-1", logarithmic=True)
    check_readable(figure, tmp_path / "out.png")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "200", "400", "800", "1,600"]
    assert [line.get_label() for line in axes.lines] == ["train", "test"]
    assert len(axes.collections) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "test"]


@pytest.mark.parametrize("count", [1, 3, 4, 7])
@pytest.mark.parametrize("curves", [1, 2])
def test_small_multiples_share_a_scale(count: int, curves: int, tmp_path: Path) -> None:
    strengths = [1, 2, 3, 4, 5]
    series = tuple(Series(f"model {n}", np.linspace(0.9, 0.1 * n, 5), [0] * 5, [1] * 5) for n in range(curves))
    panels = [Panel(f"perturbation {n}", strengths, series) for n in range(count)]
    figure = curves_figure(panels, LONG, "strength", "top-1")
    check_readable(figure, tmp_path / "out.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [panel.name for panel in panels]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert len(figure.legends) == (curves > 1)
    assert sum(bool(axes.get_xlabel()) for axes in figure.axes) == min(count, 3)


def test_any_name_is_drawn(tmp_path: Path) -> None:
    for name in NAMES:
        figure = curve_figure([1, 2], [Series(name, [0, 1]), Series("b", [1, 0])], name or " ", name, name)
        save_figure(figure, tmp_path / "out.png")
