from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate.figures import confusion_figure, history_figure
from pipeline.figures import save_figure


@pytest.mark.parametrize("count", [2, 10, 200])
def test_confusion_matrix_of_few_and_of_many_classes(count: int, tmp_path: Path) -> None:
    labels = [f"a $class with a rather $long name {number}" for number in range(count)]
    figure = confusion_figure(np.eye(count, dtype=int) * 7, labels, "title")
    axes = figure.axes[0]
    assert len(axes.get_xticklabels()) <= 60
    assert (len(axes.texts) == count) is (count <= 30)
    save_figure(figure, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width < 3000
        assert np.asarray(picture.convert("L")).std() > 1  # something was drawn


def test_a_class_without_images_is_drawn_as_nothing() -> None:
    figure = confusion_figure(np.array([[3, 1], [0, 0]]), ["a", "b"], "title")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])


def test_history_shows_both_phases_and_the_best_epoch() -> None:
    rest = {"train/loss": 1.0, "train/top_1": 0.5, "validation/top_1": 0.6}
    rows = [
        {"epoch": epoch + 1, "phase": phase, "validation/loss": loss, **rest}
        for epoch, (phase, loss) in enumerate([("head", 0.9), ("head", 0.8), ("fine_tune", 0.3), ("fine_tune", 0.4)])
    ]  # fmt: skip
    loss, accuracy = history_figure(rows, "top_1").axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert curves["validation"] == [[1, 0.9], [2, 0.8], [3, 0.3], [4, 0.4]]
    assert curves["best loss"] == [[3, 0.3]]
    assert any("fine-tune" in text.get_text() for text in accuracy.texts)
    assert not any(text.get_text() for text in history_figure(rows[:2], "top_1").axes[0].texts)
