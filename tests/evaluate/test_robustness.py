"""Each change does what its name says, harsher with each step, and the scores are those of the changed images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.config import build_config
from pipeline.evaluate import robustness
from pipeline.evaluate.robustness import PERTURBATIONS, measure_robustness, robustness_chapter
from pipeline.files import file_digest
from pipeline.ingest.manifest import Manifest, build_manifest
from pipeline.models.network import build_network
from pipeline.progress import Silent
from pipeline.tasks.table import load_task

TASK = load_task("classification")
LABELS = ("dark", "light")


def picture(channels: int = 3) -> np.ndarray:
    """A disk off the middle, striped finely so that the mildest blur and JPEG change it."""
    image = np.full((128, 128, channels), 60, np.uint8)
    image[::2] += 40
    return cv2.circle(image, (40, 64), 25, [200] * channels, -1).reshape(128, 128, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_harsher_the_further_from_the_image(name: str, channels: int) -> None:
    image, row = picture(channels), PERTURBATIONS[name]
    changed = [row.change(image, strength, 7).reshape(image.shape) for strength in row.strengths]
    away = [float(np.abs(of.astype(float) - image).mean()) for of in changed]
    assert all(of.dtype == np.uint8 for of in changed)
    assert away == sorted(away)
    assert away[0] > 0
    again = row.change(image, row.strengths[2], 7).reshape(image.shape)
    np.testing.assert_array_equal(again, changed[2])


def test_rotation_turns_about_the_middle() -> None:
    image = picture()
    np.testing.assert_array_equal(robustness.rotation(image, 90, 1), np.rot90(image))
    np.testing.assert_array_equal(robustness.rotation(image, 90, 2), np.rot90(image, -1))


def test_colours_keep_their_channels() -> None:
    red = np.zeros((16, 16, 3), np.uint8) + np.array([200, 30, 30], np.uint8)
    for name, row in PERTURBATIONS.items():
        changed = row.change(red, row.strengths[0], 1).astype(float).mean(axis=(0, 1))
        assert changed[0] > 2 * changed[1], name


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder, rows = tmp_path_factory.mktemp("grays"), []
    for number in range(20):
        label, gray = LABELS[number % 2], (60, 180)[number % 2]
        path = folder / f"{number}.png"
        Image.fromarray(np.full((8, 8), gray + number // 2, np.uint8)).save(path)
        rows.append({"id": path.name, "path": str(path), "label": label, "split": "test", "sha256": file_digest(path)})
    return build_manifest(rows)


def test_the_score_is_that_of_the_changed_images(test_set: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config({"model": {"backbone": "convnet", "weights": "none", "image_size": 8}})
    network = build_network(config.model, TASK, 2, seed=0, weights=None)

    def by_brightness(full: object, size: int) -> object:
        def forward(pixels: np.ndarray) -> np.ndarray:
            means = np.asarray(pixels).mean(axis=(1, 2, 3))
            return np.stack([120 - means, means - 120], axis=1)

        return forward

    monkeypatch.setattr(robustness, "padded_forward", by_brightness)
    found = measure_robustness(network, TASK, test_set, LABELS, Silent())
    assert (found.images, found.clean, found.forward_passes) == (20, 1.0, 20 * 26)
    # 180 to 189 times 0.8 are light still; times 0.6 all are dark: half are right.
    assert found.scores["brightness"] == (1.0, 0.5, 0.5, 0.5, 0.5)
    assert found.scores["blur"] == (1.0,) * 5
    chapter = robustness_chapter(found)
    assert "brightness (factor) harms most: 1.000 falls to 0.500" in chapter.finding
    assert chapter.metrics["test/robust_brightness"] == pytest.approx(0.6)
    assert len(chapter.tables["robustness_scores"]["score"]) == 25
    monkeypatch.setattr(robustness, "MOST_IMAGES", 7)
    fewer = measure_robustness(network, TASK, test_set, LABELS, Silent())
    assert (fewer.images, fewer.forward_passes) == (7, 7 * 26)
