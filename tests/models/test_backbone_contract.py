"""What every row of the zoo promises: it can be parted, trained, saved and exported, and its frozen part stays frozen.

The fast run covers one network of each family; `make battery` covers all, at their default sizes too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import ModelConfig
from pipeline.export.savedmodel import export_savedmodel
from pipeline.models.backbones import BACKBONES, Backbone
from pipeline.models.backbones.own_rows import CLASSIC_ROWS, LITE_ROWS
from pipeline.models.cuts import cut_points
from pipeline.models.network import FEATURES, Network, build_network
from pipeline.models.operations import count_multiply_adds
from pipeline.tasks.table import load_task

pytestmark = [
    # MobileNets say that they assume 224x224 when, as in Keras' own call, no shape is given.
    pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning"),
    # Keras saves variables so.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

CLASSES = ("ant", "bee", "cat")
TASK = load_task("classification")

#: One of each family of keras.applications, the smallest.
FAST = {
    "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_b0", "inception_v3", "mobilenet",
    "mobilenet_v2", "mobilenet_v3_small", "resnet50", "resnet50_v2", "vgg16", "xception", "efficientnet_lite0",
    *(row.name for row in CLASSIC_ROWS if row.name not in ("vgg13", "resnet34", "darknet53")),
}  # fmt: skip
#: Of these, the ones whose graphs take tens of seconds to save and load.
LARGE_GRAPHS = {"convnext_tiny", "densenet121", "efficientnet_v2_b0", "inception_v3"}


def rows(fast: set[str]) -> list[Any]:
    return [pytest.param(row, id=row.name, marks=() if row.name in fast else SLOW) for row in BACKBONES.values()]


SLOW = pytest.mark.slow

#: Of a step down the gradient, in the space of all weights.
LENGTHS = (1e-2, 1e-3, 1e-4, 1e-5)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    keras.utils.clear_session()
    gc.collect()


def build(row: Backbone, **settings: Any) -> Network:
    config = ModelConfig.model_validate(
        {
            "backbone": row.name, "weights": "none", "image_size": row.smallest_size,
            "head": {"dropout": 0, "hidden": ()}, **settings,
        }
    )  # fmt: skip
    return build_network(config, TASK, len(CLASSES), seed=0, weights=None)


def images(network: Network, count: int = 4) -> np.ndarray:
    """Noise, each image about a colour of its own: to a deep network images of noise alone are all the same."""
    shape, random = (count, *network.image_size, network.channels), np.random.default_rng(0)
    colour = random.uniform(0, 255, (count, 1, 1, network.channels))
    ends = 255 * random.integers(0, 2, shape)
    return np.rint(colour + random.uniform(0, 1, shape) * (ends - colour)).astype(np.float32)


def settle(network: Network, pixels: np.ndarray) -> None:
    """Gives BatchNorm the statistics of these images: with those it starts from, deep random networks overflow."""
    layers = [layer for layer in network.backbone._flatten_layers() if hasattr(layer, "moving_mean")]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    network.backbone(network.scaling(pixels), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def answers(pixels: np.ndarray, *networks: keras.Model) -> np.ndarray:
    """Returns probabilities, computed in a graph as evaluation and the export do.

    Outside of one other operations are fused, and 152 layers with random weights make a thousandth of the last bits.
    """

    @tf.function(autograph=False)
    def logits(values: tf.Tensor) -> tf.Tensor:
        for network in networks:
            values = network(values, training=False)
        return values

    return TASK.probabilities(logits(pixels).numpy())


def statistics(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable) for variable in model.variables if "moving_" in variable.name]


def random_states(model: keras.Model) -> list[keras.Variable]:
    return [variable for variable in model.variables if "seed_generator_state" in variable.path]


def step(model: keras.Model, inputs: np.ndarray) -> None:
    """Takes a step down the gradient that lowers the loss by a good part of what its slope promises.

    How long such a step can be depends on the network: BatchNorm over four images and maps of one pixel is steep.
    Before and after, dropout drops the same.
    """
    targets = np.eye(len(CLASSES), dtype=np.float32)[np.arange(len(inputs)) % len(CLASSES)]
    states = random_states(model)
    drawn = [np.array(state) for state in states]

    def loss() -> tf.Tensor:
        for state, value in zip(states, drawn, strict=True):
            state.assign(value)
        return TASK.loss(0.0)(targets, model(inputs, training=True))

    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        before = loss()
    gradients = tape.gradient(before, variables, unconnected_gradients="zero")
    slope = float(tf.linalg.global_norm(gradients))
    assert np.isfinite(slope)
    assert slope > 0
    old = [variable.numpy() for variable in variables]
    for length in LENGTHS:
        for variable, value, gradient in zip(variables, old, gradients, strict=True):
            variable.assign(value - length / slope * gradient)
        if float(before - loss()) > 0.1 * length * slope:
            return
    raise AssertionError(f"no step of {LENGTHS} lowers the loss of {float(before)}, whose slope is {slope}")


@pytest.mark.parametrize("row", rows(FAST))
def test_frozen_statistics_stay_in_both_phases_and_a_step_lowers_the_loss(row: Backbone) -> None:
    network = build(row, batch_norm="frozen")
    pixels = images(network)
    settle(network, images(network, 32))
    assert cut_points(network.backbone)
    stays = statistics(network.full)
    head = network.cut(FEATURES)
    features = np.array(head.trunk(pixels, training=False))
    step(head.top, features)
    below = network.cut(0.5)
    frozen = [np.array(weight) for weight in below.trunk.weights]
    features = np.array(below.trunk(pixels, training=False))
    step(below.top, features)
    np.testing.assert_equal(statistics(network.full), stays)
    np.testing.assert_equal([np.array(weight) for weight in below.trunk.weights], frozen)


@pytest.mark.parametrize("row", rows({row.name for row in (*CLASSIC_ROWS, *LITE_ROWS)} & FAST))
def test_training_from_scratch_begins(row: Backbone) -> None:
    # Statistics of a handful of values would make gradients explode with depth.
    network = build(row, batch_norm="trained", image_size=max(64, row.smallest_size) if row.channels == 3 else None)
    pixels = images(network, 8)
    cut = network.cut("input")
    old = statistics(network.full)
    step(cut.top, np.array(cut.trunk(pixels)))
    new = statistics(network.full)
    assert not any(np.array_equal(*both) for both in zip(old, new, strict=True))


@pytest.mark.parametrize("row", rows(FAST - LARGE_GRAPHS))
def test_what_is_saved_and_exported_answers_alike(row: Backbone, tmp_path: Path) -> None:
    network = build(row)
    pixels = images(network)
    settle(network, images(network, 32))
    # Random weights answer alike to all images; a stronger last layer tells them apart.
    logits = np.array(network.full(pixels, training=False))
    kernel, bias = network.classifier.get_weights()
    spread = (logits - logits.mean(axis=0)).std()
    assert spread > 0
    network.classifier.set_weights([kernel / spread, (bias - logits.mean(axis=0)) / spread])
    expected = answers(pixels, network.full)
    assert np.ptp(expected, axis=0).max() > 0.1
    cut = network.cut(0.5)
    np.testing.assert_allclose(answers(pixels, cut.trunk, cut.top), expected, atol=1e-4)
    network.full.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(answers(pixels, loaded), expected, atol=1e-4)
    export_savedmodel(loaded, TASK, CLASSES, tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    encoded = tf.constant([tf.io.encode_png(image.astype(np.uint8)).numpy() for image in pixels])
    answer = serve(image_bytes=encoded)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-4)


@SLOW
@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_the_default_size_builds_with_the_published_figures(row: Backbone) -> None:
    """Of a row of Keras, with the top that Keras gives it; of our own, with the head of the row."""
    if row in (*CLASSIC_ROWS, *LITE_ROWS):
        config = ModelConfig(backbone=row.name, weights="none")
        model = build_network(config, TASK, row.classes, seed=0, weights=None).full
        assert model.input_shape[1:] == (*row.default_size, row.channels)
    else:
        model = getattr(keras.applications, row.builder.partition(":")[2])(
            weights=None, classes=row.classes, input_shape=(*row.default_size, 3)
        )
        headless = row.build(row.default_size)
        assert headless.input_shape[1:] == (*row.default_size, 3)
        assert 0 < count_multiply_adds(headless) <= row.multiply_adds
    assert model.count_params() == row.parameters
    assert count_multiply_adds(model) == row.multiply_adds
