"""What is said to be inside a network is what Keras and NumPy alone find there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import HeadConfig, ModelConfig
from pipeline.errors import ModelError
from pipeline.evaluate.explain import (
    CHANNELS,
    CLASSES,
    DEPTHS,
    HEAT_BATCH,
    HEATS,
    Explainer,
    choose_depths,
    first_filters,
    grad_cam,
    heat_maps,
    strongest_maps,
)  # fmt: skip
from pipeline.models.backbones import find_backbone
from pipeline.models.cuts import cut_points
from pipeline.models.explanation import Explanation
from pipeline.models.network import Network, build_network, part_network
from pipeline.models.receptive_field import ReceptiveField, receptive_fields
from pipeline.tasks.classification import Classification

LABELS = tuple("abcdefgh")


def build(backbone: str, size: int | tuple[int, int] | None = None, **head: Any) -> Network:
    config = ModelConfig(backbone=backbone, image_size=size, weights="none", head=HeadConfig(**head))
    return build_network(config, Classification(), len(LABELS), seed=3, weights=None)


def image(network: Network, seed: int = 0) -> tf.Tensor:
    shape = (1, *network.image_size, network.channels)
    return tf.constant(np.random.default_rng(seed).uniform(0, 255, shape), tf.float32)


def explain(network: Network, truth: str | None = None) -> Explanation:
    return Explainer(network.full, Classification(), LABELS).explain(image(network), truth)


@pytest.fixture(scope="module")
def lite0() -> Network:
    return build("efficientnet_lite0", 64)


@pytest.fixture(scope="module")
def explainer(lite0: Network) -> Explainer:
    return Explainer(lite0.full, Classification(), LABELS)


@pytest.fixture(scope="module")
def found(lite0: Network, explainer: Explainer) -> Explanation:
    return explainer.explain(image(lite0))


# Grad-CAM.


def test_behind_one_dense_layer_grad_cam_is_the_class_activation_map(lite0: Network, found: Explanation) -> None:
    """Zhou et al. 2016, arXiv:1512.04150: the features, weighted as the dense layer weighs their means."""
    features = lite0.backbone(lite0.scaling(image(lite0)), training=False).numpy()[0]
    weights, _ = lite0.classifier.get_layer("logits").get_weights()
    maps = np.maximum(features @ weights, 0) / features[..., 0].size
    heats = {score.label: score.heat for score in found.classes if score.heat is not None}
    assert len(heats) == HEATS
    assert any(heat.max() > 0 for heat in heats.values())
    for label, heat in heats.items():
        np.testing.assert_allclose(heat, maps[..., LABELS.index(label)], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_behind_a_head_with_hidden_layers_grad_cam_is_what_differences_show(pooling: str) -> None:
    """The derivative by a whole channel, moved at once, is the sum over the map; in NumPy, in float64."""
    network = build("convnet", 24, pooling=pooling, hidden=(16, 7))
    features = np.random.default_rng(5).normal(size=(6, 6, 64)).astype(np.float32)
    layers = [network.classifier.get_layer(name).get_weights() for name in ("dense_1", "dense_2", "logits")]

    def logits(maps: np.ndarray) -> np.ndarray:
        flat = {"avg": maps.mean(axis=(0, 1)), "max": maps.max(axis=(0, 1)), "flatten": maps.ravel()}[pooling]
        for number, (kernel, bias) in enumerate(layers):
            flat = flat @ kernel.astype(np.float64) + bias
            flat = np.maximum(flat, 0) if number < 2 else flat
        return flat

    def head(maps: tf.Tensor) -> tf.Tensor:
        return network.classifier(network.pooling(maps))

    wide, step = features.astype(np.float64), 1e-6
    slopes = np.empty((64, len(LABELS)))
    for channel in range(64):
        moved = np.zeros((1, 1, 64))
        moved[..., channel] = step
        slopes[channel] = (logits(wide + moved) - logits(wide - moved)) / (2 * step)
    wanted = np.maximum(wide @ slopes / 36, 0)
    found = grad_cam(tf.constant(features[np.newaxis]), head, [6, 2, 6])
    assert found.shape == (3, 6, 6)
    assert found.max() > 0
    for heat, place in zip(found, [6, 2, 6], strict=True):
        np.testing.assert_allclose(heat, wanted[..., place], rtol=2e-3, atol=1e-6)


def test_what_speaks_against_a_class_is_not_shown() -> None:
    maps = tf.constant(np.array([[[[1.0], [2.0]]]], np.float32))
    pooled = lambda maps: tf.reduce_mean(maps, axis=(1, 2))  # noqa: E731
    assert grad_cam(maps, lambda maps: pooled(maps) * [[3.0, -3.0]], [0, 1]).tolist() == [[[1.5, 3.0]], [[0.0, 0.0]]]


@pytest.mark.parametrize("backbone", ["convnet", "efficientnet_lite0"])
@pytest.mark.parametrize("count", [0, 1, HEAT_BATCH, HEAT_BATCH + 3])
def test_heat_maps_of_many_images_are_those_of_each_alone(backbone: str, count: int) -> None:
    network = build(backbone, (32, 64), hidden=(9,))
    random = np.random.default_rng(2)
    pixels = random.uniform(0, 255, (count, 32, 64, network.channels)).astype(np.float32)
    classes = random.integers(0, len(LABELS), count).tolist()
    found = heat_maps(network.full, Classification(), pixels, classes)
    assert found is not None
    assert (found.dtype, found.shape) == (np.float32, (count, *network.backbone.output_shape[1:3]))
    for heat, image, place in zip(found, pixels, classes, strict=True):
        features = network.backbone(network.scaling(image[np.newaxis]), training=False)
        (alone,) = grad_cam(features, lambda maps: network.classifier(network.pooling(maps)), [place])
        np.testing.assert_allclose(heat, alone, rtol=1e-3, atol=1e-6)


def test_heat_maps_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, asked = build("convnet", 12), []
    monkeypatch.setattr(Classification, "class_scores", lambda self, logits: asked.append(logits) or logits)
    pixels = np.zeros((2 * HEAT_BATCH + 1, 12, 12, network.channels), np.uint8)
    heat_maps(network.full, Classification(), pixels, [0] * len(pixels))
    assert len(asked) == 2  # whether there are classes at all, and the graph


def test_a_task_without_classes_has_no_heat_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build("convnet", 12)
    monkeypatch.setattr(Classification, "class_scores", lambda self, logits: None)
    assert heat_maps(network.full, Classification(), np.zeros((2, 12, 12, 3)), [0, 1]) is None


# The parts of an explanation.


def test_probabilities_are_those_of_the_network(lite0: Network, found: Explanation) -> None:
    wanted = tf.nn.softmax(lite0.full(image(lite0), training=False))[0].numpy()
    ranked = sorted(range(len(LABELS)), key=lambda place: -wanted[place])[:CLASSES]
    assert [score.label for score in found.classes] == [LABELS[place] for place in ranked]
    np.testing.assert_allclose([score.probability for score in found.classes], wanted[ranked], atol=1e-5)
    assert [score.heat is not None for score in found.classes] == [True] * HEATS + [False] * (CLASSES - HEATS)
    assert not any(score.truth for score in found.classes)
    np.testing.assert_array_equal(found.pixels, image(lite0)[0])


def test_the_true_class_is_shown_however_unlikely(lite0: Network, explainer: Explainer, found: Explanation) -> None:
    order = np.argsort(-lite0.full(image(lite0), training=False).numpy()[0])
    usual = [score.label for score in found.classes]
    least = LABELS[order[-1]]
    last = explainer.explain(image(lite0), least).classes
    assert [score.label for score in last] == [*usual[:-1], least]
    assert [score.truth for score in last] == [False] * (CLASSES - 1) + [True]
    assert [score.label for score in last if score.heat is not None] == [*usual[: HEATS - 1], least]
    first = explainer.explain(image(lite0), usual[0]).classes
    assert ([score.label for score in first], first[0].truth) == (usual, True)


def test_feature_maps_are_those_that_keras_gives_at_the_layer(lite0: Network, found: Explanation) -> None:
    scaled = lite0.scaling(image(lite0))
    for depth in found.depths:
        layer = lite0.backbone.get_layer(depth.layer)
        maps = keras.Model(lite0.backbone.input, layer.output)(scaled, training=False).numpy()[0]
        assert depth.shape == maps.shape
        spread = maps.std(axis=(0, 1))
        assert min(spread[list(depth.channels)]) >= np.sort(spread)[-CHANNELS]
        np.testing.assert_allclose(depth.maps, maps.transpose(2, 0, 1)[list(depth.channels)], atol=1e-4)
        assert depth.maps[0][depth.peak] == depth.maps[0].max()
        assert depth.field == receptive_fields(lite0.backbone)[depth.layer]
    assert found.depths[-1].shape == lite0.backbone.output_shape[1:]


def test_fields_grow_along_the_cut_points(lite0: Network, found: Explanation) -> None:
    growth = found.growth
    assert [step.layer for step in growth] == list(cut_points(lite0.backbone))
    numbers, sizes = [step.number for step in growth], [step.field.size for step in growth]
    assert numbers == sorted(set(numbers))
    assert sizes == sorted(sizes)
    assert sizes[-1] == (851, 851)


@pytest.mark.parametrize("backbone", ["convnet", "efficientnet_lite0", "resnet50", "efficientnet_v2_b0"])
def test_filters_act_on_raw_pixels_as_the_first_layer_on_scaled_ones(backbone: str) -> None:
    """Whether the scaling turns RGB into BGR (ResNet) or divides each channel by its own deviation."""
    network = build(backbone, 32)
    filters = first_filters(part_network(network.full))
    layer = network.backbone.get_layer(filters.layer)
    kernel = layer.get_weights()[0]
    height, width, channels = filters.kernels.shape[1:]
    assert channels == network.channels
    assert filters.kernels.shape == (kernel.shape[3], *kernel.shape[:3])
    before, after = np.random.default_rng(0).uniform(0, 255, (2, 1, 32, 32, channels)).astype(np.float32)
    scaled = np.asarray(network.scaling(after)) - np.asarray(network.scaling(before))
    wanted = np.einsum("hwc,hwcn->n", scaled[0, :height, :width], kernel)
    found = np.einsum("hwc,nhwc->n", (after - before)[0, :height, :width], filters.kernels)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_strongest_are_the_maps_that_vary_most() -> None:
    maps = np.zeros((2, 3, 4))
    maps[..., 1] = 100  # large and the same everywhere
    maps[0, 0, 2], maps[0, 0, 3] = 1, -2
    field = ReceptiveField((1, 1), (1, 1), (0, 0), whole_image=False)
    depth = strongest_maps("layer", field, maps)
    assert (depth.channels, depth.shape, depth.maps.shape) == ((3, 2, 0, 1), (2, 3, 4), (4, 2, 3))
    assert strongest_maps("layer", field, np.array([[[1.0, -3.0, 2.0]]])).channels == (1, 2, 0)
    assert len(strongest_maps("layer", field, np.zeros((2, 2, 99))).channels) == CHANNELS


# Any backbone.


def check_depths(network: Network) -> None:
    found = explain(network)
    numbers = [[step.name for step in network.backbone.operations].index(depth.layer) for depth in found.depths]
    assert numbers == sorted(set(numbers))
    assert 4 <= len(numbers) <= DEPTHS
    assert found.depths[-1].shape == network.backbone.output_shape[1:]
    sizes = [depth.field.size for depth in found.depths]
    assert sizes == sorted(sizes)
    assert min(sizes[0]) > 1
    assert {depth.layer for depth in found.depths} <= {step.layer for step in found.growth}
    assert len({depth.field.stride for depth in found.depths}) >= 3
    assert all(np.isfinite(depth.maps).all() for depth in found.depths)
    assert found.filters.kernels.any()
    height, width = network.backbone.output_shape[1:3]
    assert [score.heat.shape for score in found.classes if score.heat is not None] == [(height, width)] * HEATS


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("convnet", (8, 12)), ("efficientnet_lite0", (32, 64)), ("convnext_tiny", 32), ("googlenet", 64), ("lenet5", 28)],
)
def test_of_a_backbone(backbone: str, size: int | tuple[int, int]) -> None:
    """Chains, branches, networks in the network (ConvNeXt), and images that come down to one unit."""
    check_depths(build(backbone, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        "alexnet", "darknet19", "darknet53", "densenet121", "efficientnet_b0", "efficientnet_v2_b0",
        "inception_resnet_v2", "inception_v3", "mobilenet", "mobilenet_v2", "mobilenet_v3_large",
        "mobilenet_v3_small", "nasnet_mobile", "resnet18", "resnet50", "resnet50_v2", "vgg16", "xception", "zfnet",
    ],
)  # fmt: skip
def test_of_every_other_family(backbone: str) -> None:
    check_depths(build(backbone, find_backbone(backbone).default_size))


def test_depths_of_a_long_chain_are_spread() -> None:
    pixels = keras.Input((64, 64, 3))
    x = pixels
    for number in range(40):
        x = keras.layers.Conv2D(2, 3, padding="same", name=f"conv_{number}")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=f"relu_{number}")(x)
    network = keras.Model(pixels, x)
    chosen = choose_depths(network, receptive_fields(network), 5)
    assert chosen[-1] == "relu_39"
    assert all(name.startswith("relu") for name in chosen)  # not what the next layer only finishes
    places = [int(name.split("_")[1]) for name in chosen]
    assert max(np.diff([0, *places])) < 16


def test_a_network_that_was_cut_saved_and_loaded_says_the_same(tmp_path: Path) -> None:
    network = build("efficientnet_lite0", 32)
    network.cut(0.5)  # leaves traces in the graph that was built
    network.full.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    first = explain(network)
    again = Explainer(loaded, Classification(), LABELS).explain(image(network))
    assert [score.label for score in again.classes] == [score.label for score in first.classes]
    assert [depth.layer for depth in again.depths] == [depth.layer for depth in first.depths]
    assert again.growth == first.growth
    np.testing.assert_allclose(again.depths[-1].maps, first.depths[-1].maps, atol=1e-5)


def test_of_a_task_without_classes_the_rest_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "class_scores", lambda self, logits: None)
    found = explain(build("convnet", 12), "a")
    assert found.classes == ()
    assert len(found.depths) == 4


def test_another_network_is_refused() -> None:
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match="no network of this pipeline"):
        Explainer(other, Classification(), LABELS)
