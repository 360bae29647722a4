"""Every family of operations in the zoo can be converted, for any number of images at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from subjects import CLASSES

from pipeline.config import build_config
from pipeline.export.formats.source import prepare
from pipeline.export.formats.table import FORMATS, Format
from pipeline.export.golden import Original
from pipeline.models.backbones import find_backbone
from pipeline.models.network import build_network
from pipeline.models.weights import locate_weights
from pipeline.tasks.base import Calibration
from pipeline.tasks.table import load_task

#: What each has that another has not, and a recipe that keeps it small.
FAMILIES: dict[str, dict[str, Any]] = {
    "convnet": {"image_size": 28},  # one channel, dense layers over a flattened map
    "efficientnet_lite0": {"image_size": 64, "weights": "imagenet"},  # depthwise convolutions, relu6
    "alexnet": {"image_size": 67, "head": {"hidden": [8]}},  # local response normalization folds the batch away
    "googlenet": {"image_size": 32},  # branches that are concatenated
    "resnet18": {"image_size": 32},  # residual additions
    "mobilenet_v3_small": {"image_size": 32},  # hard swish, squeeze-and-excite
}

#: How far a probability may be off. With random weights float16 and int8 have no answers worth keeping: that they have
#: some is what is tested.
WITHIN = {"onnx": 1e-4, "litert_float32": 1e-4, "litert_float16": 1.0, "litert_int8": 1.0}


def network(backbone: str, pixels: np.ndarray) -> Original:
    """Returns a network whose answers to the pixels differ: its logits are spread around 0."""
    config = build_config({"model": {"backbone": backbone, "weights": "none", **FAMILIES[backbone]}}).model
    task = load_task("classification")
    weights = locate_weights(find_backbone(backbone), config.weights)
    model = build_network(config, task, len(CLASSES), seed=0, weights=weights).full
    logits = model.predict_on_batch(pixels)
    last = model.layers[-1].layers[-1]
    kernel, bias = last.get_weights()
    spread = logits.std(axis=0).mean()
    last.set_weights([kernel / spread, (bias - logits.mean(axis=0)) / spread])
    return Original(model, task, CLASSES, Calibration(temperature=1.7), "stretch")


def images(backbone: str) -> np.ndarray:
    side, channels = FAMILIES[backbone]["image_size"], 1 if backbone == "convnet" else 3
    return np.random.default_rng(0).uniform(0, 255, (8, side, side, channels)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_family_converts(backbone: str, tmp_path: Path) -> None:
    pixels = images(backbone)
    of = network(backbone, pixels)
    expected = of.task.probabilities(of.model.predict_on_batch(pixels), of.calibration)
    assert np.ptp(expected, axis=0).max() > 0.1
    with prepare(of, {}, lambda: pixels) as source:
        for row in FORMATS[1:]:
            row.write(source, tmp_path / row.file)
            check(row, tmp_path / row.file, pixels, expected)


def check(row: Format, path: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
    ask = row.open(path)
    for count in (1, 8, 3):
        found = ask(pixels[:count])
        assert (found.shape, found.dtype) == ((count, len(CLASSES)), np.float32)
        difference = np.abs(found - expected[:count]).max()
        print(f"\n{row.name} of {path.parent.parent.name}, {count} images: {difference:.2g}")
        assert difference < WITHIN[row.name], row.name
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.02)
