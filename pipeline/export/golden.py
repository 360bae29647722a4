"""The golden set: images with the answers that the trained network gave them, outside of the graph that is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Resize
from pipeline.export.probes import PROBES, Probe, bad_images
from pipeline.export.rows import spread, unchanged
from pipeline.images.headers import SUFFIXES
from pipeline.ingest.manifest import Manifest
from pipeline.tasks.base import Calibration, Evaluation, Task
from pipeline.train.dataset import InputSpec

#: Bytes of test images that an export carries, at most: of phone photographs fewer are taken than were asked for.
BYTE_BUDGET = 2**26

#: Variants of a probe that are tried until one moves the answer.
VARIANTS = 6

#: Variants of coloured pictures among which rounded weights are looked for; they move answers least of all mistakes.
_MORE_VARIANTS = range(100, 124)

#: How far a mistake should move an answer: a hundred times what `verify` lets pass.
SENSITIVE = 0.01

#: Images that the network sees at a time.
_BATCH_SIZE = 8


@dataclass(frozen=True)
class Original:
    """The trained network with all that makes an answer of its logits: what the export is held against."""

    model: keras.Model
    task: Task
    classes: Sequence[str]
    calibration: Calibration
    resize: Resize

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.model.input_shape[1:3]
        return height, width

    @cached_property
    def decode(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The decoder of evaluation: an encoded image -> `(H, W, C)` float32 in [0, 255]. Traced once."""
        spec = InputSpec(self.image_size, self.model.input_shape[3], self.resize)
        decode: Callable[[tf.Tensor], tf.Tensor] = tf.function(spec.decode, [tf.TensorSpec((), tf.string)])
        return decode

    def probabilities(self, contents: Sequence[bytes]) -> np.ndarray:
        """Returns the answers to N encoded images, `(N, C)` float64, decoded as for evaluation."""
        images = tf.data.Dataset.from_tensor_slices(list(contents)).map(self.decode).batch(_BATCH_SIZE)
        logits = np.concatenate([self.model.predict_on_batch(pixels) for pixels in images])
        return self.task.probabilities(logits, self.calibration)


@dataclass(frozen=True)
class GoldenImage:
    """An image of the set.

    Attributes:
        file: Its name in `golden/`.
        contents: Its bytes.
        document: What `golden.json` says of it.
    """

    file: str
    contents: bytes
    document: Mapping[str, Any]


def build_golden(
    original: Original, test: Manifest, recorded: Mapping[str, Sequence[Any]] | None, count: int
) -> list[GoldenImage]:
    """Returns up to `count` test images, the probes, and some files that are no images.

    Args:
        original: What answers where evaluation has not.
        test: The test split.
        recorded: The columns of `predictions.parquet`; None where the stage evaluate has not been run.
        count: How many test images, fewer where they are large, gone or changed.
    """
    chosen = _test_images(original, test, recorded, count)
    bad = [GoldenImage(name, contents, {"bad": True}) for name, contents in bad_images().items()]
    probes = [*_probes(original), *_precise(original)]
    # A bad image among good ones, so that each batch that `verify` asks has some of both.
    return [*chosen[: count // 2], *bad[:2], *chosen[count // 2 :], *probes[:4], *bad[2:], *probes[4:]]


def golden_document(original: Original, images: Sequence[GoldenImage], *, evaluated: bool) -> dict[str, Any]:
    """Returns what `golden.json` holds."""
    where = "stage evaluate (predictions.parquet)" if evaluated else "the Keras model at export; no stage evaluate"
    return {
        "format": 1,
        "labels": list(original.classes),
        "threshold": original.calibration.threshold,
        "answers_from": {"test images": where, "probes": "the Keras model at export"},
        "answers": [{"file": image.file, **image.document} for image in images],
    }


def _answer(original: Original, probabilities: Sequence[float] | np.ndarray, source: str) -> dict[str, Any]:
    values = np.asarray(probabilities, np.float64)
    return {
        "answered_by": source,
        "label": original.classes[int(values.argmax())],
        "confident": bool(values.max() >= original.calibration.threshold),
        "probabilities": values.tolist(),
    }


@dataclass(frozen=True)
class _Chosen:
    """A row of the test split, why it was chosen, and what evaluation recorded of it, if it did."""

    row: int
    why: str
    probabilities: Sequence[float] = ()


def _test_images(
    original: Original, test: Manifest, recorded: Mapping[str, Sequence[Any]] | None, count: int
) -> list[GoldenImage]:
    chosen = _spread(test, count) if recorded is None else _telling(original, test, recorded, count)
    contents = _read(test, [image.row for image in chosen])
    kept = [image for image in chosen if image.row in contents]
    answers: Any = [image.probabilities for image in kept]
    if recorded is None and kept:
        answers = original.probabilities([contents[image.row] for image in kept])
    source = "export" if recorded is None else "evaluation"
    ids, labels, paths = test.column("id"), test.column("label"), test.column("path")
    images = []
    for number, (image, answer) in enumerate(zip(kept, answers, strict=True), start=1):
        suffix = Path(paths[image.row]).suffix.lower()
        known = {"id": ids[image.row], "why": image.why, "true_label": labels[image.row]}
        file = f"test-{number:02}{suffix if suffix in SUFFIXES else '.image'}"
        images.append(GoldenImage(file, contents[image.row], known | _answer(original, answer, source)))
    return images


def _telling(original: Original, test: Manifest, recorded: Mapping[str, Sequence[Any]], count: int) -> list[_Chosen]:
    """Returns the hardest and the easiest test images with their recorded answers."""
    place = {image: row for row, image in enumerate(test.column("id"))}
    found = Evaluation({}, "", tuple(original.classes), {}, recorded, "")
    columns = [recorded[f"p:{label}"] for label in original.classes]
    return [
        _Chosen(place[recorded["id"][example.row]], example.reason, [column[example.row] for column in columns])
        for example in original.task.choose_examples(found, count)
    ]


def _spread(test: Manifest, count: int) -> list[_Chosen]:
    return [_Chosen(row, "one of evenly spread test images") for row in spread(len(test), count)]


def _read(test: Manifest, rows: Sequence[int]) -> dict[int, bytes]:
    """Returns the bytes of the rows' images, from the first on as many as fit in the budget."""
    contents, total = {}, 0
    for row, content in unchanged(test, rows):
        total += len(content)
        if total > BYTE_BUDGET:
            break
        contents[row] = content
    return contents


def _probes(original: Original) -> Iterator[GoldenImage]:
    """Yields a probe of each kind, in the variant in which its mistake moves the answer most, of those tried."""
    best: dict[str, tuple[float, Probe, np.ndarray]] = {}
    for variant in range(VARIANTS):
        wanting = [name for name in PROBES if name not in best or best[name][0] < SENSITIVE]
        if not wanting:
            break
        tried = [PROBES[name].build(variant, original.image_size, original.resize) for name in wanting]
        files = [probe.contents for probe in tried] + [probe.misread for probe in tried]
        answers, mistaken = np.split(original.probabilities(files), 2)
        for name, probe, right, wrong in zip(wanting, tried, answers, mistaken, strict=True):
            moved = float(np.abs(right - wrong).max())
            if name not in best or moved > best[name][0]:
                best[name] = (moved, probe, right)
    for name, (moved, probe, right) in best.items():
        known = {"why": PROBES[name].mistake, "a_mistake_moves_it_by": moved}
        document = known | _answer(original, right, "export")
        yield GoldenImage(f"probe-{name}{PROBES[name].suffix}", probe.contents, document)


def _precise(original: Original) -> Iterator[GoldenImage]:
    """Yields the generated images whose answers move most when the weights lose half of their bits."""
    build = PROBES["coloured"].build
    files = [build(variant, original.image_size, original.resize).contents for variant in _MORE_VARIANTS]
    right = original.probabilities(files)
    with _rounded_weights(original.model):
        moved = np.abs(original.probabilities(files) - right).max(axis=1)
    for number, place in enumerate(np.argsort(-moved, kind="stable")[:2], start=1):
        known = {"why": "weights as float16", "a_mistake_moves_it_by": float(moved[place])}
        document = known | _answer(original, right[place], "export")
        yield GoldenImage(f"probe-precise-{number}.png", files[place], document)


@contextmanager
def _rounded_weights(model: keras.Model) -> Iterator[None]:
    """Lets a network have its weights as float16 holds them, for the block."""
    weights = model.get_weights()
    model.set_weights([weight.astype(np.float16).astype(weight.dtype) for weight in weights])
    try:
        yield
    finally:
        model.set_weights(weights)
