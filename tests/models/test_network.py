from __future__ import annotations

import keras
import numpy as np
import pytest

from pipeline.config import HeadConfig, ModelConfig
from pipeline.errors import ModelError
from pipeline.models.network import FEATURES, InferenceMode, Network, build_network, part_network
from pipeline.tasks.table import load_task

LITE0 = ModelConfig(image_size=32, weights="none")


def build(config: ModelConfig = LITE0, *, seed: int = 0, precision: str = "float32", classes: int = 3) -> Network:
    return build_network(
        config, load_task("classification"), classes, seed=seed, weights=None, precision=precision
    )  # fmt: skip


def pixels(network: Network, count: int = 4) -> np.ndarray:
    shape = (count, *network.image_size, network.channels)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def trainable_layers(model: keras.Model) -> set[str]:
    return {layer.name for layer in model._flatten_layers() if layer.trainable_variables and not layer._layers}


@pytest.fixture(scope="module")
def lite0() -> Network:
    return build()


@pytest.mark.parametrize("wanted", [FEATURES, "input", "block3", "block5a_project_bn", 0.3, 1.0])
def test_trunk_and_top_make_the_whole(lite0: Network, wanted: str | float) -> None:
    cut = lite0.cut(wanted)
    x = pixels(lite0)
    np.testing.assert_allclose(cut.top(cut.trunk(x)), lite0.full(x), atol=1e-5)
    assert not cut.trunk.trainable_variables


def test_each_cut_sets_anew_what_is_trained(lite0: Network) -> None:
    everything = trainable_layers(build().full)
    assert trainable_layers(lite0.cut(FEATURES).top) == {"logits"}
    above_block5 = trainable_layers(lite0.cut("block5").top)
    assert "block6a_expand_conv" in above_block5
    assert not any(name.startswith(("stem", "block1", "block5")) for name in above_block5)
    assert trainable_layers(lite0.cut("input").top) == everything  # frozen layers thaw again
    assert trainable_layers(lite0.full) == everything


def moved(network: Network, wanted: str | float) -> set[str]:
    """Returns the BatchNorm layers whose statistics a few training steps at a cut change."""
    cut = network.cut(wanted)
    x = keras.Input(cut.trunk.input_shape[1:])
    model = keras.Model(x, cut.top(InferenceMode(cut.trunk)(x)))
    layers = [layer for layer in network.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = {layer.name: np.array(layer.moving_mean) for layer in layers}
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit(pixels(network), np.eye(3, dtype="float32")[[0, 1, 2, 0]], epochs=2, verbose=0)
    return {layer.name for layer in layers if not np.array_equal(before[layer.name], layer.moving_mean)}


def test_frozen_batch_norm_keeps_its_statistics_in_both_phases() -> None:
    network = build(LITE0.model_copy(update={"batch_norm": "frozen"}))
    assert moved(network, FEATURES) == set()
    assert moved(network, "block5") == set()


def test_a_frozen_trunk_answers_alike_while_it_trains() -> None:
    x = keras.Input((4,))
    trunk = keras.Model(x, keras.layers.Dropout(0.9, seed=0)(x))
    still = keras.Model(x, InferenceMode(trunk)(x))
    ones = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(still(ones, training=True), ones)


def test_trained_batch_norm_moves_above_the_cut_only() -> None:
    network = build()  # random weights: statistics are trained
    assert network.batch_norm == "trained"
    assert moved(network, FEATURES) == set()
    found = moved(network, "block5")
    assert "block6a_expand_bn" in found
    assert not any(name.startswith(("stem", "block1", "block5")) for name in found)


def test_the_classic_convnet_has_its_parameters() -> None:
    network = build(ModelConfig(backbone="convnet", weights="none"), classes=10)
    convolutions = (5 * 5 * 1 * 32 + 32) + (5 * 5 * 32 * 64 + 64)
    dense = (7 * 7 * 64 * 1000 + 1000) + (1000 * 10 + 10)
    assert network.full.count_params() == convolutions + dense == 3_199_106
    assert network.full.input_shape == (None, 28, 28, 1)
    assert network.cut(FEATURES).trunk.output_shape == (None, 3136)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    for one, two in zip(first.full.get_weights(), again.full.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.classifier.get_weights()[0], other.classifier.get_weights()[0])
    assert not np.array_equal(first.backbone.get_weights()[0], other.backbone.get_weights()[0])


def test_mixed_precision_ends_at_the_logits_and_leaves_no_trace() -> None:
    network = build(precision="mixed_bfloat16")
    assert network.backbone.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert network.full.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_the_head_is_the_recipes() -> None:
    head = HeadConfig(pooling="max", hidden=(7, 5), dropout=0.0)
    network = build(LITE0.model_copy(update={"head": head}))
    shapes = [weights.shape for weights in network.classifier.get_weights()]
    assert shapes == [(1280, 7), (7,), (7, 5), (5,), (5, 3), (3,)]
    x = pixels(network)
    feature = network.backbone(network.scaling(x), training=False)
    np.testing.assert_allclose(network.pooling(feature), np.max(feature, axis=(1, 2)), rtol=1e-5)


def test_description_names_the_input_contract(lite0: Network) -> None:
    found = lite0.describe()
    assert found["input"] == {
        "image_size": [32, 32], "channels": 3, "resize": "stretch", "range": [0, 255], "scaling": "inside the model",
    }  # fmt: skip
    assert found["parameters"] == sum(weights.size for weights in lite0.full.get_weights())
    assert found["cut_points"][0] == "input"


def test_a_network_is_parted_into_what_it_was_made_of(lite0: Network) -> None:
    parts = part_network(lite0.full)
    wanted = (lite0.scaling, lite0.backbone, lite0.pooling, lite0.classifier)
    assert all(part is one for part, one in zip(vars(parts).values(), wanted, strict=True))
    x = pixels(lite0)
    for part in vars(parts).values():
        x = part(x, training=False)
    np.testing.assert_allclose(x, lite0.full(pixels(lite0), training=False), atol=1e-5)
    with pytest.raises(ModelError, match="is no network of this pipeline"):
        part_network(lite0.classifier)


GOOGLENET = ModelConfig(backbone="googlenet", image_size=32, weights="none")


@pytest.fixture(scope="module")
def googlenet() -> Network:
    return build(GOOGLENET)


# The cut is below both auxiliary classifiers, at the first, whose maps it freezes, between them, above both.
@pytest.mark.parametrize(
    ("wanted", "count"),
    [("input", 2), ("inception_3a", 2), ("inception_4a", 1), ("inception_4c", 1), ("inception_4e", 0), (FEATURES, 0)],
)
def test_auxiliary_classifiers_are_those_above_the_cut(googlenet: Network, wanted: str, count: int) -> None:
    cut = googlenet.cut(wanted)
    assert (cut.sided is None) == (count == 0)
    if cut.sided:
        features = cut.trunk(pixels(googlenet))
        logits, *sides = cut.sided(features, training=False)
        assert [side.shape for side in sides] == [(4, 3)] * count
        np.testing.assert_allclose(logits, cut.top(features, training=False), atol=1e-5)
        assert not np.allclose(sides[0], logits, atol=1e-3)


def test_auxiliary_classifiers_are_no_part_of_what_is_saved(googlenet: Network) -> None:
    inside = {id(weight) for weight in googlenet.full.weights}
    assert not any(id(weight) in inside for side in googlenet.auxiliary.values() for weight in side.weights)
    assert build().auxiliary == {}
