"""Labels that look wrong: planted flips are found, the chapter says it, the CSV can be edited."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import AxesImage
from sklearn.metrics import average_precision_score

from pipeline.config import IngestConfig
from pipeline.evaluate.label_noise import (
    COLUMNS,
    FEW_TILES,
    MOST_TILES,
    find_label_noise,
    judge_labels,
    label_noise_chapter,
    save_label_noise,
)  # fmt: skip
from pipeline.evaluate.probe import out_of_fold_probabilities
from pipeline.figures import save_figure
from pipeline.ingest import ingest
from pipeline.ingest.manifest import Manifest
from pipeline.ingest.relabel import load_overlay
from pipeline.progress import Silent

WRONG = ("blue/1.png", "green/4.jpg", "red/7.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Manifest:
    """A data set of three classes with sixteen images each."""
    root = tmp_path_factory.mktemp("photos")
    make_photos(root / "photos", count=16)
    return ingest(IngestConfig(data=str(root / "photos")), root, root / ".cache", Silent()).manifest


def relabelled(manifest: Manifest, labels: dict[str, str]) -> Manifest:
    values = [
        labels.get(name, label) for name, label in zip(manifest.column("id"), manifest.column("label"), strict=True)
    ]
    place = manifest.table.schema.get_field_index("label")
    return Manifest(manifest.table.set_column(place, "label", pa.array(values)))


@pytest.fixture(scope="module")
def features(photos: Manifest) -> np.ndarray:
    """Features that tell the classes apart: round one centre each, whatever the labels say."""
    random = np.random.default_rng(0)
    centres = random.normal(0, 1, (3, 16))
    ids = [photos.classes.index(label) for label in photos.column("label")]
    return (centres[ids] + random.normal(0, 0.3, (len(ids), 16))).astype(np.float32)


@pytest.fixture(scope="module")
def noisy(photos: Manifest) -> Manifest:
    """The same with three wrong labels."""
    return relabelled(photos, dict(zip(WRONG, ("green", "red", "blue"), strict=True)))


def test_planted_flips_are_ranked_first_and_are_the_suspects(noisy: Manifest, features: np.ndarray) -> None:
    noise = judge_labels(noisy, features)
    ids = noisy.column("id")
    assert {ids[row] for row in noise.ranking[:3]} == set(WRONG)
    assert {name for name, wrong in zip(ids, noise.suspect, strict=True) if wrong} == set(WRONG)
    truth = [name.split("/")[0] for name in ids]
    assert [noisy.classes[noise.suggested[row]] for row in noise.ranking[:3]] == [
        truth[row] for row in noise.ranking[:3]
    ]
    assert noise.wrong == 3


def test_many_flips_in_many_images() -> None:
    random = np.random.default_rng(1)
    truth = np.arange(1000) % 10
    features = (random.normal(0, 1, (10, 32))[truth] + random.normal(0, 0.8, (1000, 32))).astype(np.float32)
    wrong = np.zeros(1000, bool)
    wrong[random.choice(1000, 50, replace=False)] = True
    labels = np.where(wrong, (truth + random.integers(1, 10, 1000)) % 10, truth)
    noise = find_label_noise(out_of_fold_probabilities(features, labels, [str(row) for row in range(1000)]), labels)
    assert average_precision_score(wrong, noise.scores) > 0.9
    assert 25 <= noise.wrong <= 60
    assert (noise.suspect & wrong).sum() >= 0.8 * noise.wrong


def test_scores_by_hand() -> None:
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.02, 0.9, 0.08], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [np.nan] * 3]
    )
    noise = find_label_noise(probabilities, [0, 0, 0, 1, 2, 2])
    assert noise.scores == pytest.approx([0.1, 0.2 / 0.9, 0.9 / 0.92, 0.1 / 0.9, 0.4 / 0.7, 0.0])
    assert noise.suggested.tolist() == [1, 1, 1, 0, 1, 2]
    assert noise.ranking.tolist() == [2, 4, 1, 3, 0, 5]
    # The third image: 0.9 is no less than what those called 1 have (0.8), and more than ten times 0.02. The fifth is
    # likelier another class, but not as sure of it as that class's own images are.
    assert noise.suspect.tolist() == [False, False, True, False, False, False]
    assert (noise.wrong, noise.unjudged) == (1, 1)
    assert np.isnan(noise.of_label[5])


def test_a_class_that_is_always_doubted_is_not_all_suspects() -> None:
    """Every image called 0 looks like 1 a little: less than the images called 1 do."""
    probabilities = np.array([[0.05, 0.8, 0.15]] * 5 + [[0.01, 0.95, 0.04]] * 5)
    assert find_label_noise(probabilities, [0] * 5 + [1] * 5).wrong == 0
    probabilities[0] = [0.01, 0.97, 0.02]
    assert find_label_noise(probabilities, [0] * 5 + [1] * 5).suspect.tolist() == [True] + [False] * 9


def test_odds_of_less_than_ten_to_one_are_no_suspicion() -> None:
    """As sure of the other class as its own images are, but not sure enough that the label is none of it."""
    others = [[0.2, 0.8]] * 4 + [[0.9, 0.1]] * 4
    labels = [0] + [1] * 4 + [0] * 4
    assert find_label_noise(np.array([[0.15, 0.85], *others]), labels).wrong == 0
    assert find_label_noise(np.array([[0.09, 0.91], *others]), labels).suspect.tolist() == [True] + [False] * 8


def test_the_chapter_says_how_many_and_where_to_look_first(noisy: Manifest, features: np.ndarray) -> None:
    noise = judge_labels(noisy, features)
    chapter = label_noise_chapter(noisy, noise)
    assert chapter.finding.startswith("About 3 of 48 labels look wrong (")
    first = noisy.column("id")[noise.ranking[0]]
    assert f"the first to look at is {first}: " in chapter.finding
    table = chapter.tables["doubtful_labels"]
    assert set(table) == {
        "id", "split", "label", "suggested", "probability_of_label", "probability_of_suggested", "suspect",
    }  # fmt: skip
    assert set(table["id"][:3]) == set(WRONG)
    assert table["suspect"][:4] == ["yes", "yes", "yes", "no"]
    assert chapter.metrics["data/suspect_labels"] == 3
    assert sum(chapter.document["suspect_by_split"].values()) == 3
    json.dumps([chapter.document, dict(chapter.tables)], allow_nan=False)
    assert first in chapter.pictures["label_noise.png"].alt


def drawn(chapter: Any, path: Path) -> tuple[list[str], list[np.ndarray]]:
    figure = chapter.pictures["label_noise.png"].figure
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    tiles = [np.asarray(image.get_array()) for image in figure.findobj(AxesImage)]
    save_figure(figure, path)
    return texts, tiles


def test_the_gallery_shows_the_suspects(noisy: Manifest, features: np.ndarray, tmp_path: Path) -> None:
    texts, tiles = drawn(label_noise_chapter(noisy, judge_labels(noisy, features)), tmp_path / "gallery.png")
    assert texts[0] == "3 of 48 labels look wrong"
    assert len(tiles) == 3
    assert all(tile.std() > 5 for tile in tiles)
    assert {"→ blue", "→ green", "→ red"} <= set(texts)
    assert (tmp_path / "gallery.png").stat().st_size > 1000


def test_clean_labels_do_not_stand_out_and_a_few_are_shown(
    photos: Manifest, features: np.ndarray, tmp_path: Path
) -> None:
    chapter = label_noise_chapter(photos, judge_labels(photos, features))
    assert chapter.finding == "No label of 48 stands out."
    texts, tiles = drawn(chapter, tmp_path / "gallery.png")
    assert texts[0].startswith("No label of 48 stands out")
    assert len(tiles) == FEW_TILES


def test_no_more_tiles_than_fit_and_the_title_says_so(noisy: Manifest, features: np.ndarray, tmp_path: Path) -> None:
    noise = judge_labels(noisy, features)
    noise.suspect[noise.ranking[:30]] = True
    texts, tiles = drawn(label_noise_chapter(noisy, noise), tmp_path / "gallery.png")
    assert texts[0] == "30 of 48 labels look wrong; the first 24"
    assert len(tiles) == MOST_TILES


def test_a_file_that_is_gone_is_a_gray_tile(noisy: Manifest, features: np.ndarray, tmp_path: Path) -> None:
    gone = pa.array([f"{tmp_path}/gone/{row}" for row in range(len(noisy))])
    moved = Manifest(noisy.table.set_column(noisy.table.schema.get_field_index("path"), "path", gone))
    texts, tiles = drawn(label_noise_chapter(moved, judge_labels(moved, features)), tmp_path / "gallery.png")
    assert texts.count("cannot be read") == 3
    assert [np.unique(tile).tolist() for tile in tiles] == [[244]] * 3


def test_a_small_image_is_enlarged_in_whole_squares(tmp_path: Path) -> None:
    from PIL import Image

    from pipeline.pictures.doubtful import TILE, DoubtfulTile, doubtful_figure

    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    figure = doubtful_figure([DoubtfulTile(str(tmp_path / "small.png"), "small", "a", "b", "")], "title", "note")
    (image,) = figure.findobj(AxesImage)
    assert (np.asarray(image.get_array()) == pixels.repeat(TILE // 28, axis=0).repeat(TILE // 28, axis=1)).all()
    assert image.get_interpolation() == "nearest"


def test_a_class_in_one_cluster_is_said_to_be_beyond_judgement(photos: Manifest, features: np.ndarray) -> None:
    clusters = [
        "burst" if label == "red" else cluster
        for label, cluster in zip(photos.column("label"), photos.column("cluster"), strict=True)
    ]
    place = photos.table.schema.get_field_index("cluster")
    burst = Manifest(photos.table.set_column(place, "cluster", pa.array(clusters)))
    noise = judge_labels(burst, features)
    chapter = label_noise_chapter(burst, noise)
    assert chapter.finding.endswith("Of 16 nothing can be said: their class is in no other cluster.")
    assert all(burst.column("label")[row] == "red" for row in noise.ranking[-16:])
    json.dumps(dict(chapter.tables), allow_nan=False)


# The CSV.


def test_the_csv_has_every_image_the_doubtful_first(noisy: Manifest, features: np.ndarray, tmp_path: Path) -> None:
    save_label_noise(noisy, judge_labels(noisy, features), tmp_path / "label_noise.csv")
    with (tmp_path / "label_noise.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    assert {row["id"] for row in rows[:3]} == set(WRONG)
    assert sorted(row["id"] for row in rows) == noisy.column("id")
    assert {row["new_label"] for row in rows} == {""}
    assert rows[0]["suggested"] == rows[0]["id"].split("/")[0]
    assert float(rows[0]["probability_of_suggested"]) > float(rows[0]["probability_of_label"])
    assert load_overlay(tmp_path / "label_noise.csv").fixes == ()


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_it_survives_a_spreadsheet(
    delimiter: str, encoding: str, noisy: Manifest, features: np.ndarray, tmp_path: Path
) -> None:
    """Read, sorted otherwise, one cell filled in, a column added and one dropped, written in the program's own way."""
    path = tmp_path / "label_noise.csv"
    save_label_noise(noisy, judge_labels(noisy, features), path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    for row in rows:
        row["new_label"] = " blue " if row["id"] == WRONG[0] else ""
        row["remark"] = "seen, and; doubted"
        del row["suspect"]
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    (fix,) = load_overlay(path).fixes
    digest = noisy.column("sha256")[noisy.column("id").index(WRONG[0])]
    assert fix == (WRONG[0], digest, "blue")
