"""Every row of the zoo builds what it says, scales as its publisher does and names the published weights."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import ModelError
from pipeline.models import backbones
from pipeline.models.backbones import BACKBONES, Backbone, build_scaling, find_backbone
from pipeline.models.backbones.keras_rows import KERAS_ROWS
from pipeline.models.backbones.own_rows import CLASSIC_ROWS, LITE_ROWS
from pipeline.models.backbones.row import IMAGENET_MEAN, IMAGENET_STD, load
from pipeline.models.operations import count_multiply_adds

pytestmark = [
    # MobileNets say that they assume 224x224 when, as in Keras' own call, no shape is given.
    pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning"),
    # Keras saves variables so.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


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
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(backbones.__file__).parents[3]).returncode == 0


def test_every_network_of_keras_has_a_row() -> None:
    published = {name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing)}
    assert {row.builder.partition(":")[2] for row in KERAS_ROWS} == published


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_a_row_is_consistent(row: Backbone) -> None:
    assert BACKBONES[row.name] is row
    assert hash(row) == hash(dataclasses.replace(row))
    assert min(row.default_size) >= row.smallest_size
    assert row.scaling is None or len(row.scaling.mean) == len(row.scaling.std) == row.channels
    figures = (row.accuracy.top_1, row.accuracy.top_5) if row.accuracy else ()
    known = [figure for figure in figures if figure is not None]
    assert all(0.55 < figure < 1 for figure in known)
    assert known == sorted(known)
    assert known or row.contest
    assert row.paper.year in range(1998, 2023)
    build = load(row.builder)
    assert set(dict(row.options)) <= set(inspect.signature(build).parameters)


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_the_year_is_that_of_the_first_version(row: Backbone) -> None:
    number = re.search(r"arXiv:(\d\d)\d\d\.", row.paper.reference)
    assert not number or row.paper.year == 2000 + int(number[1])


# Multiply-adds that papers print: He et al. 2015 table 1, Szegedy et al. 2014, Howard et al. 2017 and 2019, Sandler et
# al. 2018, Zoph et al. 2017 table 2, Tan & Le 2019 table 2, Liu et al. 2022 table 1, Redmon & Farhadi 2016 and 2018
# (operations, two of them each), the repository of EfficientNet-Lite.
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", 1.8e9), ("resnet34", 3.6e9), ("resnet50", 3.8e9), ("resnet101", 7.6e9), ("resnet152", 11.3e9),
        ("googlenet", 1.5e9), ("mobilenet", 569e6), ("mobilenet_v2", 300e6), ("mobilenet_v3_large", 219e6),
        ("mobilenet_v3_small", 56e6), ("nasnet_mobile", 564e6), ("nasnet_large", 23.8e9), ("efficientnet_b0", 0.39e9),
        ("efficientnet_b1", 0.70e9), ("efficientnet_b2", 1.0e9), ("efficientnet_b3", 1.8e9), ("efficientnet_b4", 4.2e9),
        ("efficientnet_b5", 9.9e9), ("efficientnet_b6", 19e9), ("efficientnet_b7", 37e9), ("convnext_tiny", 4.5e9),
        ("convnext_small", 8.7e9), ("convnext_base", 15.4e9), ("convnext_large", 34.4e9), ("darknet19", 5.58e9 / 2),
        ("darknet53", 18.7e9 / 2), ("efficientnet_lite0", 407e6), ("efficientnet_lite1", 631e6),
        ("efficientnet_lite2", 899e6),
    ],
)  # fmt: skip
def test_operations_are_those_of_the_papers(name: str, published: float) -> None:
    assert find_backbone(name).multiply_adds == pytest.approx(published, rel=0.06)


# What slides often have wrong: LeNet-5 is the small one; the errors of the contests.
@pytest.mark.parametrize(
    ("name", "parameters", "contest"),
    [
        ("lenet5", 60e3, "0.95 %"), ("alexnet", 60e6, "15.3 % top-5"),
        ("alexnet", 60e6, "37.5 % top-1 and 17.0 % top-5"),
        ("zfnet", 62e6, "14.8 % top-5"), ("googlenet", 7e6, "6.67 % top-5"), ("vgg16", 138e6, "7.3 % top-5"),
        ("resnet152", 60e6, "3.57 % top-5"),
    ],
)  # fmt: skip
def test_what_the_contests_knew(name: str, parameters: float, contest: str) -> None:
    row = find_backbone(name)
    assert row.parameters == pytest.approx(parameters, rel=0.05)
    assert contest in str(row.contest)


@pytest.mark.parametrize("name", ["lenet5", "googlenet", "mobilenet_v2", "xception", "resnet50"])
def test_operations_are_what_tensorflow_profiles(name: str) -> None:
    """TensorFlow counts two for a multiply-add, and counts them operation by operation of the traced graph."""
    row = find_backbone(name)
    size = row.smallest_size
    model = row.build((size, size))
    graph = tf.function(lambda pixels: model(pixels, training=False)).get_concrete_function(
        tf.TensorSpec((1, size, size, row.channels))
    ).graph  # fmt: skip
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    options["account_type_regexes"] = ["Conv2D", "DepthwiseConv2dNative", "MatMul"]
    found = tf.compat.v1.profiler.profile(graph, options=options)
    assert 2 * count_multiply_adds(model) == pytest.approx(found.total_float_ops, rel=1e-6)


def test_a_switch_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"resnet18 has no switch 'small_image': did you mean 'small_images'\?"):
        find_backbone("resnet18").build((32, 32), {"small_image": True})
    with pytest.raises(ModelError, match=r"vgg16 has no switch 'small_images': it has none"):
        find_backbone("vgg16").check_options({"small_images": True})


def test_a_switch_changes_the_network() -> None:
    row = find_backbone("resnet18")
    assert row.build((32, 32)).output_shape[1:3] == (1, 1)
    assert row.build((32, 32), {"small_images": True}).output_shape[1:3] == (4, 4)


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


# What a pixel of 0 and one of 255 become, by channel: LeCun et al. 1998 put background at -0.1 and the ink at 1.175;
# Darknet divides by 255; EfficientNet-Lite has (x - 127) / 128; the others torchvision's means and deviations.
@pytest.mark.parametrize(
    ("names", "black", "white"),
    [
        (["lenet5"], [-0.1], [1.175]),
        (["convnet"], [0], [1]),
        (["darknet19", "darknet53"], [0, 0, 0], [1, 1, 1]),
        (["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"], [-127 / 128] * 3, [1] * 3),
        (
            ["alexnet", "zfnet", "vgg11", "vgg13", "googlenet", "resnet18", "resnet34"],
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
def test_scaling_of_our_own_networks(names: list[str], black: list[float], white: list[float]) -> None:
    pixels = np.array([0, 255], np.float32)[:, None, None, None] * np.ones((1, 1, 1, len(black)), np.float32)
    for name in names:
        scaled = build_scaling(find_backbone(name))(keras.ops.convert_to_tensor(pixels))
        np.testing.assert_allclose(np.squeeze(scaled, (1, 2)), [black, white], rtol=1e-5, atol=1e-6)
    assert set(names) <= {row.name for row in (*LITE_ROWS, *CLASSIC_ROWS)}


def test_efficientnet_with_our_scaling_is_the_network_that_keras_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras adds a division to the networks that it loads itself; without it the published weights see other pixels."""
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: "published.h5")
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_: None)
    theirs = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
    row = find_backbone("efficientnet_b0")
    ours = row.build((32, 32))
    statistics = [np.array(IMAGENET_MEAN), np.square(IMAGENET_STD), np.array(1)]
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
