"""How the score falls when test images are changed: five kinds of change at five strengths, no retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import tensorflow as tf

from pipeline.augment.policy import Policy
from pipeline.files import keyed_seed
from pipeline.ingest.manifest import Manifest
from pipeline.models.network import Network
from pipeline.pictures.scores import Panel, Series, curves_figure
from pipeline.progress import Progress
from pipeline.tasks.base import Chapter, Picture, Task
from pipeline.train.dataset import InputSpec, load_images, view_batches
from pipeline.train.extraction import padded_forward

#: Test images that are changed, at most: 25 passes of each.
MOST_IMAGES = 1_000

#: A single image's pixels `(H, W, C)` uint8, a strength and the seed of the image -> the same, changed.
Change = Callable[[np.ndarray, float, int], np.ndarray]


def blur(pixels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns a Gaussian blur; `share` is its standard deviation over the image's shorter side."""
    return cv2.GaussianBlur(pixels, (0, 0), max(share * min(pixels.shape[:2]), 1e-3))


def noise(pixels: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Returns the image with Gaussian noise of a standard deviation in gray levels."""
    drawn = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return np.clip(np.rint(pixels + drawn), 0, 255).astype(np.uint8)


def rotation(pixels: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """Returns the image turned about its middle, one way or the other; the corners repeat the border."""
    height, width = pixels.shape[:2]
    turned = degrees if seed % 2 else -degrees
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turned, 1)
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def brightness(pixels: np.ndarray, factor: float, seed: int) -> np.ndarray:
    """Returns the image with every value multiplied."""
    return np.rint(pixels * factor).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: float, seed: int) -> np.ndarray:
    """Returns the image as a JPEG file of a quality in [1, 100] gives it back."""
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    return np.asarray(decoded).reshape(pixels.shape)[..., ::-1]


@dataclass(frozen=True)
class Perturbation:
    """A kind of change.

    Attributes:
        title: Its name for people, with the unit of a strength.
        change: What it does to an image at the network's size.
        strengths: From mild to harsh.
    """

    title: str
    change: Change
    strengths: tuple[float, ...]


PERTURBATIONS: Mapping[str, Perturbation] = {
    "blur": Perturbation("blur (share of the side)", blur, (0.005, 0.01, 0.02, 0.04, 0.08)),
    "noise": Perturbation("noise (gray levels)", noise, (8, 16, 32, 48, 64)),
    "rotation": Perturbation("rotation (degrees)", rotation, (5, 10, 20, 30, 45)),
    "brightness": Perturbation("brightness (factor)", brightness, (0.8, 0.6, 0.4, 0.3, 0.2)),
    "jpeg": Perturbation("JPEG (quality)", jpeg, (80, 50, 25, 10, 5)),
}


@dataclass(frozen=True)
class Robustness:
    """Scores of changed test images.

    Attributes:
        images: How many test images.
        clean: Their mean score as they are.
        scores: Mean scores of each kind of change, one a strength.
        forward_passes: Of images through the whole network.
    """

    images: int
    clean: float
    scores: Mapping[str, tuple[float, ...]]
    forward_passes: int


def measure_robustness(
    network: Network, task: Task, test: Manifest, classes: Sequence[str], progress: Progress, seed: int = 0
) -> Robustness:
    """Returns the scores of test images, of a random 1,000 where there are more, after each change.

    Images are changed at the network's size; an image's noise and the way that it turns depend on its content.
    """
    chosen = _sample(test, seed)
    targets = task.encode_targets(chosen.column("label"), classes)
    images = load_images(chosen, targets, np.ones(targets.shape[-1], np.float32), seed)
    size = network.row.extraction_batch
    spec, forward = InputSpec(network.image_size, network.channels, network.resize), padded_forward(network.full, size)
    cases = [("clean", 0.0), *((name, s) for name, row in PERTURBATIONS.items() for s in row.strengths)]
    sums, row = dict.fromkeys(cases, 0.0), 0
    with progress.bar("robustness", len(chosen) * len(cases)) as bar:
        for batch in view_batches(images, spec, Policy(), 0, size):
            pixels = batch.numpy()
            rows = slice(row, row + len(pixels))
            for case in cases:
                changed = pixels if case[0] == "clean" else _changed(pixels, *case, images.seeds[rows])
                sums[case] += float(task.image_scores(forward(tf.constant(changed)), targets[rows]).sum())
                bar.advance(len(pixels))
            row += len(pixels)
    means = {case: total / len(chosen) for case, total in sums.items()}
    scores = {name: tuple(means[name, s] for s in of.strengths) for name, of in PERTURBATIONS.items()}
    return Robustness(len(chosen), means["clean", 0.0], scores, len(chosen) * len(cases))


def _sample(test: Manifest, seed: int) -> Manifest:
    if len(test) <= MOST_IMAGES:
        return test
    order = np.argsort([keyed_seed(seed, digest) for digest in test.column("sha256")])
    return Manifest(test.table.take(np.sort(order[:MOST_IMAGES])))


def _changed(pixels: np.ndarray, name: str, strength: float, seeds: np.ndarray) -> np.ndarray:
    """Returns a batch, `(B, H, W, C)` float32 in [0, 255], changed image by image."""
    change = PERTURBATIONS[name].change
    whole = np.rint(pixels).astype(np.uint8)
    changed = [change(image, strength, int(seed)) for image, seed in zip(whole, seeds, strict=True)]
    return np.stack(changed).reshape(pixels.shape).astype(np.float32)


def robustness_chapter(found: Robustness) -> Chapter:
    """Returns the chapter with a curve for each kind of change."""
    harshest = {name: scores[-1] for name, scores in found.scores.items()}
    worst = min(harshest, key=harshest.__getitem__)
    finding = f"{PERTURBATIONS[worst].title} harms most: {found.clean:.3f} falls to {harshest[worst]:.3f}"
    # From mild to harsh; the strength itself falls for brightness and quality, so steps are counted.
    panels = [
        Panel(row.title, range(len(row.strengths) + 1), (Series("", (found.clean, *found.scores[name])),))
        for name, row in PERTURBATIONS.items()
    ]
    figure = curves_figure(panels, finding, "strength, 0 to 5", "score")
    table: dict[str, list[object]] = {"change": [], "strength": [], "score": []}
    for name, row in PERTURBATIONS.items():
        for strength, score in zip(row.strengths, found.scores[name], strict=True):
            for column, value in zip(table.values(), (row.title, strength, score), strict=True):
                column.append(value)
    return Chapter(
        name="robustness",
        title="Robustness",
        finding=f"{finding}; {found.images:,} test images, {found.forward_passes:,} more forward passes.",
        metrics={f"test/robust_{name}": float(np.mean(scores)) for name, scores in found.scores.items()},
        document={"images": found.images, "clean": found.clean, "forward_passes": found.forward_passes},
        tables={"robustness_scores": table},
        pictures={"robustness.png": Picture(figure, f"score against the strength of five changes: {finding}")},
    )
