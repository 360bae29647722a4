"""Every row of the zoo builds what it says, scales as its publisher does and names the published weights."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import inspect
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.models import backbones
from pipeline.models.backbones import BACKBONES, Backbone, build_scaling, find_backbone

pytestmark = [
    # MobileNets say that they assume 224x224 when, as in Keras' own call, no shape is given.
    pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning"),
    # Keras saves variables so.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

KERAS_ROWS = [row for row in BACKBONES.values() if row.builder.startswith("keras.applications:")]

# One of each family, where it builds in about a second; the rest is slow.
FAST = {
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_b0",
    "inception_v3",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet50",
    "resnet50_v2",
    "vgg16",
    "xception",
}


def each(rows: list[Backbone]) -> list[Any]:
    own = [row.name for row in rows if row not in KERAS_ROWS]
    return [
        pytest.param(row, id=row.name, marks=() if row.name in FAST or row.name in own else pytest.mark.slow)
        for row in rows
    ]


def keras_function(row: Backbone) -> Any:
    return getattr(keras.applications, row.builder.partition(":")[2])


@pytest.fixture(autouse=True)
def _forget_large_models(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.node.get_closest_marker("slow"):
        keras.utils.clear_session()
        gc.collect()


def test_the_table_loads_without_tensorflow() -> None:
    script = (
        "import sys, pipeline.models.backbones; sys.exit(bool({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(backbones.__file__).parents[2]).returncode == 0


def test_every_network_of_keras_has_a_row() -> None:
    published = {name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing)}
    assert {row.builder.partition(":")[2] for row in KERAS_ROWS} == published


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_a_row_is_consistent(row: Backbone) -> None:
    assert BACKBONES[row.name] is row
    assert hash(row) == hash(dataclasses.replace(row))
    assert min(row.default_size) >= row.smallest_size
    assert row.scaling is None or len(row.scaling.mean) == len(row.scaling.std) == row.channels
    assert all(accuracy is None or 0.6 < accuracy < 1 for accuracy in (row.top_1, row.top_5))
    assert row.top_5 is None or (row.top_1 is not None and row.top_1 < row.top_5)
    module, _, function = row.builder.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_an_unknown_name_gets_its_nearest() -> None:
    with pytest.raises(ModelError, match=r"'inceptionv3' is unknown: did you mean 'inception_v3'\?"):
        find_backbone("inceptionv3")


@pytest.mark.parametrize("row", each(list(BACKBONES.values())))
def test_the_smallest_size_builds_and_nothing_below(row: Backbone) -> None:
    size = (row.smallest_size, row.smallest_size + 9)
    model = row.build(size)
    assert model.input_shape == (None, *size, row.channels)
    assert len(model.output_shape) == 4
    assert None not in model.output_shape[1:]
    assert 0 not in model.output_shape
    with pytest.raises(ModelError, match=f"at least {row.smallest_size}x{row.smallest_size} pixels, found"):
        row.build((row.smallest_size + 9, row.smallest_size - 1))


@pytest.mark.slow
@pytest.mark.parametrize("row", KERAS_ROWS, ids=lambda row: row.name)
def test_parameters_are_those_of_the_network_with_its_top(row: Backbone) -> None:
    model = keras_function(row)(weights=None, classes=1000)
    assert model.count_params() == row.parameters
    if None not in model.input_shape[1:]:
        assert model.input_shape[1:3] == row.default_size


@pytest.mark.parametrize("row", each(KERAS_ROWS))
def test_weights_are_those_that_keras_would_fetch(row: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fetched(Exception):
        pass

    def get_file(fname: str, origin: str, *, cache_subdir: str, file_hash: str | None = None) -> None:
        raise Fetched(fname, origin, file_hash)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(Fetched) as fetched:
        keras_function(row)(include_top=False, weights="imagenet")
    weights = row.weights
    assert weights is not None
    algorithm, _, digest = (weights.digest or "").partition(":")
    assert fetched.value.args == (weights.file_name, weights.origin, digest or None)
    assert algorithm == {0: "", 32: "md5", 64: "sha256"}[len(digest)]


# EfficientNet's preprocess_input does nothing, but its row does: see the test below of the whole network.
@pytest.mark.parametrize(
    "row", [row for row in KERAS_ROWS if not row.name.startswith("efficientnet_b")], ids=lambda row: row.name
)
def test_scaling_is_the_published_one(row: Backbone) -> None:
    module = sys.modules[keras_function(row).__module__]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3)).astype(np.float32)
    scaled = build_scaling(row)(keras.ops.convert_to_tensor(pixels))
    np.testing.assert_allclose(scaled, module.preprocess_input(pixels.copy()), rtol=2e-6, atol=2e-5)


def test_efficientnet_with_our_scaling_is_the_network_that_keras_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras adds a division to the networks that it loads itself; without it the published weights see other pixels."""
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: "published.h5")
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_: None)
    theirs = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
    row = find_backbone("efficientnet_b0")
    ours = row.build((32, 32))
    statistics = [np.array(backbones.IMAGENET_MEAN), np.square(backbones.IMAGENET_STD), np.array(1)]
    for model in (theirs, ours):
        normalization = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
        normalization.set_weights(statistics)
        normalization.finalize_state()
    ours.get_layer("stem_conv").set_weights(theirs.get_layer("stem_conv").get_weights())
    stems = [keras.Model(model.input, model.get_layer("stem_conv").output) for model in (theirs, ours)]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    expected = stems[0](pixels)
    np.testing.assert_allclose(stems[1](build_scaling(row)(pixels)), expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(stems[1](pixels), expected, atol=0.1)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16", "convnet", "convnext_tiny"])
def test_scaling_survives_saving_in_safe_mode(name: str, tmp_path: Path) -> None:
    row = find_backbone(name)
    pixels = keras.Input((None, None, row.channels))
    model = keras.Model(pixels, build_scaling(row)(pixels))
    assert not model.weights
    model.save(tmp_path / "scaling.keras")
    loaded = keras.saving.load_model(tmp_path / "scaling.keras", safe_mode=True)
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, row.channels)).astype(np.float32)
    np.testing.assert_array_equal(loaded(images), model(images))


def test_scaling_stays_float32_under_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        scaled = build_scaling(find_backbone("efficientnet_lite0"))(keras.Input((8, 8, 3), dtype="float32"))
    finally:
        keras.config.set_dtype_policy("float32")
    assert scaled.dtype == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nasnet_mobile", "inception_resnet_v2"])
@pytest.mark.parametrize("size", [(75, 101), (96, 80)])
def test_odd_sizes_run(name: str, size: tuple[int, int]) -> None:
    features = find_backbone(name).build(size)(np.zeros((1, *size, 3), np.float32))
    assert math.isfinite(float(keras.ops.sum(features)))
