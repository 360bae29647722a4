"""The picture of a data set counts right, shows what is there, and says what it leaves out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipeline.figures import BLUE, GREEN, save_figure
from pipeline.ingest.manifest import Manifest, build_manifest
from pipeline.ingest.result import DuplicatePair
from pipeline.pictures.charts import both_ends
from pipeline.pictures.dataset import dataset_figure
from pipeline.pictures.pairs import RED
from pipeline.pictures.sheet import CELL, GAP, SAMPLES, build_sheet, mean_image, spread

ODD_NAMES = ["\N{DOG FACE} dog", "two\nlines", "quo\"te 's", "$x^2$ $", "a very long name " * 20, "猫", "{%s}\\"]

Images = Callable[..., Manifest]


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Returns `images(counts, ...)`: a manifest of that many images a class, each of its class's colour."""

    def build(
        counts: dict[str, int],
        size: tuple[int, int] = (24, 20),
        splits: Sequence[str | None] = ("train", "validation", "test"),
        written: bool = True,
    ) -> Manifest:
        rows: list[dict[str, Any]] = []
        for place, (label, count) in enumerate(counts.items()):
            path = tmp_path / f"{place}.png"
            if written:
                Image.new("RGB", size, (40 * place % 256, 200, 90)).save(path)
            rows += [
                {"id": f"{label}/{number}", "path": str(path), "label": label, "split": splits[number % len(splits)],
                 "width": size[0], "height": size[1]}
                for number in range(count)
            ]  # fmt: skip
        return build_manifest(rows)

    return build


def panel(figure: Figure, name: str) -> Axes:
    (found,) = [axes for axes in figure.axes if name in [text.get_text() for text in axes.texts]]
    return found


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def pair(place: int, path: Path, **changes: Any) -> DuplicatePair:
    values = {"first_id": f"a/{place}", "second_id": f"b/{place}", "first_path": str(path), "second_path": str(path)}
    values |= {"first_label": "a", "second_label": "a", "first_split": "train", "second_split": "train"}
    return DuplicatePair(**{**values, "kind": "near", "difference": 2.25, **changes})


def test_bars_are_as_long_as_the_counts(images: Images) -> None:
    axes = panel(dataset_figure(images({"few": 4, "many": 9}), [], ""), "images per class")
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["many", "few"]
    bars = {container.get_label(): [bar.get_width() for bar in container] for container in axes.containers}
    assert bars == {"train": [3, 2], "validation": [3, 1], "test": [3, 1]}
    assert [bar.get_x() for bar in axes.containers[2]] == [6, 3]
    assert {"9", "4"} <= set(words(axes))
    assert axes.containers[0][0].get_facecolor()[:3] == pytest.approx(
        [int(BLUE[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    )
    assert axes.containers[2][0].get_facecolor()[:3] == pytest.approx(
        [int(GREEN[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    )


def test_without_splits_there_is_one_bar_and_no_legend(images: Images) -> None:
    figure = dataset_figure(images({"a": 3, "b": 2}, splits=[None]), [], "title")
    axes = panel(figure, "images per class")
    assert [[bar.get_width() for bar in container] for container in axes.containers] == [[3, 2]]
    assert axes.get_legend() is None
    assert [text.get_text() for text in figure.texts] == ["title", "5 images in 2 classes"]


def test_many_classes_are_cut_and_their_number_said(images: Images) -> None:
    manifest = images({f"class {place:03}": 2 + place for place in range(200)})
    figure = dataset_figure(manifest, [], "")
    axes = panel(figure, "images per class")
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == [f"class {place:03}" for place in [*range(199, 183, -1), *range(7, -1, -1)]]
    assert any("176 more classes, 10 to 185 images each" in text for text in words(axes))
    assert any("188 classes between are not shown" in text for text in words(panel(figure, "samples")))
    assert figure.get_figheight() < 30


def test_a_ranking_is_cut_between_its_ends() -> None:
    assert both_ends(range(6), 6) == ([0, 1, 2, 3, 4, 5], [])
    assert both_ends(range(100), 6) == ([0, 1, 2, 3], [98, 99])


def test_dots_stand_at_the_sizes_and_grow_with_their_number(images: Images, tmp_path: Path) -> None:
    rows = [
        {"id": str(number), "path": str(tmp_path / "no"), "label": "a", "split": "train", "width": width, "height": 100}
        for number, width in enumerate([50] * 200 + [100] * 20 + [400])
    ]  # fmt: skip
    figure = dataset_figure(build_manifest(rows), [], "")
    axes = panel(figure, "sizes")
    (dots,) = axes.collections
    assert dots.get_offsets().tolist() == [[50, 100], [100, 100], [400, 100]]
    areas = dots.get_sizes()
    assert areas[0] == pytest.approx(10 * areas[1])
    assert axes.get_xscale() == "log"
    assert "50 x 100 to 400 x 100; most often 50 x 100, 200 images" in words(axes)[-1]
    aspects = panel(figure, "width to height")
    assert sum(bar.get_height() for bar in aspects.patches) == 221
    assert "200 taller than wide, 20 square, 1 wider than tall" in words(aspects)


def test_one_size_is_said_and_seen(images: Images) -> None:
    axes = panel(dataset_figure(images({"a": 5}), [], ""), "sizes")
    assert "all are 24 x 20 pixels" in words(axes)
    assert axes.get_xlim()[0] < 24 < axes.get_xlim()[1]


def test_a_row_of_the_sheet_shows_its_class_and_its_mean(images: Images) -> None:
    sheet = build_sheet(images({"a": 20, "b": 3}))
    assert sheet.names == ("all classes", "a", "b")
    assert sheet.notes == ((23, 23), (20, 20), (3, 3))
    middle = CELL + GAP + CELL // 2
    for place in range(SAMPLES):
        assert sheet.pixels[middle, place * (CELL + GAP) + CELL // 2].tolist() == [0, 200, 90]
    third = 2 * (CELL + GAP) + CELL // 2
    assert sheet.pixels[third, CELL // 2].tolist() == [40, 200, 90]
    assert sheet.pixels[third, 3 * (CELL + GAP) + CELL // 2].tolist() == [255, 255, 255]  # it has three images
    assert sheet.pixels[third, -CELL // 2].tolist() == [40, 200, 90]
    everything = sheet.pixels[CELL // 2, -CELL // 2]
    assert everything.tolist() == [round(40 * 3 / 23), 200, 90]


def test_samples_are_spread_over_the_class() -> None:
    assert spread(range(100, 115), 8) == [100, 102, 104, 106, 108, 110, 112, 114]
    assert spread([4, 5], 8) == [4, 5]


def test_mean_is_over_images_of_one_size() -> None:
    black, white = np.zeros((4, 8, 3), np.uint8), np.full((40, 20, 3), 255, np.uint8)
    np.testing.assert_array_equal(mean_image([black, white, white], 5, 6), np.full((5, 6, 3), 170, np.uint8))


def test_images_that_are_gone_leave_empty_places(images: Images, tmp_path: Path) -> None:
    manifest = images({"a": 3, "b": 3}, written=False)
    sheet = build_sheet(manifest)
    assert [averaged for _, averaged in sheet.notes] == [0, 0, 0]
    figure = dataset_figure(manifest, [pair(0, tmp_path / "no.png")], "")
    save_figure(figure, tmp_path / "figure.png")


def test_duplicates_are_named_and_leaks_are_red_and_first(images: Images, tmp_path: Path) -> None:
    manifest = images({"a": 3, "b": 3})
    pairs = [
        pair(0, tmp_path / "0.png", kind="exact", difference=0.0),
        pair(1, tmp_path / "0.png", kind="mirrored"),
        pair(2, tmp_path / "1.png", second_split="test"),
    ]
    figure = dataset_figure(manifest, pairs, "")
    axes = panel(figure, "duplicates")
    texts = {text.get_text(): text for text in axes.texts}
    assert {"mirrored, 2.2 apart", "exact", "LEAK across splits: near, 2.2 apart", "a/2", "b/2"} <= set(texts)
    assert [text for text, artist in texts.items() if artist.get_color() == RED] == [
        "LEAK across splits: near, 2.2 apart"
    ]
    assert texts["LEAK across splits: near, 2.2 apart"].get_position()[0] == 0
    assert len(axes.patches) == 1
    assert len(axes.images) == 6
    assert figure.texts[1].get_text().endswith("3 pairs of duplicates, 1 of them across splits")


def test_of_very_many_duplicates_some_are_drawn_and_the_rest_counted(images: Images, tmp_path: Path) -> None:
    manifest = images({"a": 3, "b": 3})
    figure = dataset_figure(manifest, [pair(number, tmp_path / "0.png") for number in range(1000)], "")
    assert any("985 more are not shown" in text for text in words(panel(figure, "duplicates")))
    assert figure.get_figheight() < 25


@pytest.mark.parametrize("splits", [(None,), ("train", "test", "holdout", "")], ids=str)
def test_names_of_any_kind_are_drawn_without_a_warning(
    images: Images, splits: tuple[str | None, ...], tmp_path: Path
) -> None:
    manifest = images(dict.fromkeys(ODD_NAMES, 5), splits=splits)
    figure = dataset_figure(manifest, [pair(0, tmp_path / "0.png", first_id="\N{DOG FACE}\n$")], "\N{DOG FACE}\n$x$")
    save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width < 2600  # the very long name did not widen it


def test_seventy_thousand_images_take_seconds(images: Images, tmp_path: Path) -> None:
    manifest = images({f"class {place}": 7000 for place in range(10)}, size=(28, 28))
    began = time.perf_counter()
    save_figure(dataset_figure(manifest, [], "many"), tmp_path / "figure.png")
    assert time.perf_counter() - began < 10  # 1.2 s on two free cores
