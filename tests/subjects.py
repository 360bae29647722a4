"""A small network that tells all pictures apart, and test images that it was asked."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import Resize
from pipeline.export.golden import Original
from pipeline.export.probes import picture
from pipeline.export.savedmodel import export_savedmodel
from pipeline.export.stage import Origin, publish
from pipeline.ingest.manifest import SCHEMA, Manifest
from pipeline.tasks.base import Calibration
from pipeline.tasks.table import load_task

CLASSES = ("ant", "bee", "cat", "zebra fish")
CALIBRATION = Calibration(temperature=1.7, threshold=0.5)
ORIGIN = Origin("photos-1", "0" * 32, "d" * 64, "some_net")
SIDE = 32

#: Files that `write_many` writes.
COUNT = 41


def small_network(seed: int = 0, filters: int = 12) -> keras.Model:
    """Returns a network with random weights whose answers to pictures differ, and are sure of none."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Rescaling(1 / 127.5, -1.0),
            layers.Conv2D(filters, 5, 2, activation="relu"),
            layers.Conv2D(filters, 3, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(len(CLASSES)),
        ]
    )
    kernel, bias = network.layers[-1].get_weights()
    network.layers[-1].set_weights([kernel * 12, bias])
    return network


@cache
def original(resize: Resize = "stretch", seed: int = 0) -> Original:
    return Original(small_network(seed), load_task("classification"), CLASSES, CALIBRATION, resize)


def build_test_split(folder: Path, count: int = 8) -> Manifest:
    """Returns a test split of pictures of several sizes, PNG and JPEG by turns."""
    return build_split(folder, count, "test")


def build_split(folder: Path, count: int, split: str) -> Manifest:
    """Returns a split of pictures that no split of another name has."""
    folder.mkdir()
    rows, first = [], {"test": 50, "train": 500}[split]
    for number in range(count):
        path = folder / f"{number}.{'png' if number % 2 else 'jpg'}"
        Image.fromarray(picture(number + first, 30 + 7 * number, 40)).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        label = CLASSES[number % len(CLASSES)]
        rows.append({"id": f"{label}/{path.name}", "path": str(path), "label": label, "split": split, "sha256": digest})
    return Manifest(pa.Table.from_pylist(rows, schema=SCHEMA))


def recorded(of: Original, test: Manifest) -> dict[str, list[object]]:
    """Returns the columns of `predictions.parquet` that the stage evaluate would write."""
    answers = of.probabilities([Path(path).read_bytes() for path in test.column("path")])
    return {
        "id": test.column("id"), "path": test.column("path"), "label": test.column("label"),
        "predicted": [CLASSES[row.argmax()] for row in answers], "probability": answers.max(axis=1).tolist(),
        **{f"p:{label}": answers[:, place].tolist() for place, label in enumerate(CLASSES)},
    }  # fmt: skip


def rounded(model: keras.Model) -> keras.Model:
    """Returns the network with weights as float16 has them."""
    copy = keras.models.clone_model(model)
    copy.set_weights([weight.astype(np.float16).astype(np.float32) for weight in model.get_weights()])
    return copy


def export_small(folder: Path, seed: int = 0) -> Path:
    """Returns the folder, in which the small network stands exported, and nothing beside it."""
    of = original(seed=seed)
    export_savedmodel(of.model, of.task, CLASSES, folder, calibration=of.calibration)
    return folder


def publish_small(folder: Path) -> Path:
    """Returns the folder, in which the small network stands exported with its golden images and its contract."""
    test, of = build_test_split(folder.parent / "test"), original()
    publish(of, ORIGIN, test, recorded(of, test), 6, folder)
    return folder


def write_many(folder: Path) -> Path:
    """Returns the folder, with `COUNT` pictures in it, JPEG and PNG, of which 7 and 20 are bad."""
    for number in range(COUNT):
        path = folder / f"{number:02d} ä.{'png' if number % 3 else 'jpg'}"
        Image.fromarray(picture(number, 30 + number, 40)).save(path)
        if number in (7, 20):
            path.write_bytes(b"no image")
    return folder
