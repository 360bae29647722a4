"""The classic architectures are those of their papers: sizes, maps, names, and what makes each of them itself.

The published heads are counted, not built: two dense layers of 4096 units are 58 million weights that prove nothing.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.config import HeadConfig
from pipeline.errors import ModelError
from pipeline.models.backbones import find_backbone
from pipeline.models.classic.alexnet import build_alexnet
from pipeline.models.classic.darknet import build_darknet19, build_darknet53
from pipeline.models.classic.googlenet import (
    AUXILIARY_AFTER,
    AUXILIARY_WEIGHT,
    build_auxiliary,
    build_googlenet,
)
from pipeline.models.classic.lenet5 import build_lenet5
from pipeline.models.classic.normalization import normalize_local_response
from pipeline.models.classic.resnet import build_resnet18, build_resnet34
from pipeline.models.classic.vgg import build_vgg11, build_vgg13, build_vgg16, build_vgg19
from pipeline.models.classic.zfnet import build_zfnet
from pipeline.models.cuts import cut_points, resolve_cut
from pipeline.models.heads import build_classifier, build_pooling

Build = Callable[..., keras.Model]
FC = (4096, 4096)  # hidden layers of the heads up to VGG


def dense(*units: int) -> int:
    """Returns the parameters of dense layers: `dense(400, 120, 10)` is 400 features, a hidden layer and ten logits."""
    return sum(width * following + following for width, following in itertools.pairwise(units))


def trainable(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def part(model: keras.Model, lower: str, upper: str) -> keras.Model:
    """Returns the layers from behind `lower` to `upper`."""
    return keras.Model(model.get_layer(lower).output, model.get_layer(upper).output)


@pytest.fixture(scope="module")
def resnet18() -> keras.Model:
    return build_resnet18((224, 224, 3))


@pytest.fixture(scope="module")
def darknet53() -> keras.Model:
    return build_darknet53((256, 256, 3))


@contextmanager
def silenced(model: keras.Model, *layers: str) -> Iterator[None]:
    """Makes the given BatchNorm layers give zeros, whatever they take."""
    weights = [weight for layer in layers for weight in model.get_layer(layer).trainable_weights]  # gamma, beta
    values = [weight.numpy() for weight in weights]
    for weight in weights:
        weight.assign(np.zeros(weight.shape, np.float32))
    try:
        yield
    finally:
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)


def draw(*shape: int, deviation: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, deviation, shape).astype(np.float32)


# The published network, its maps by layer, and its parameters with 1000 classes (LeNet-5: ten), moving statistics last.
PUBLISHED = {
    "lenet5": (
        build_lenet5,
        (28, 28, 1),
        {
            "block1_conv": (28, 28, 6),
            "block1_pool": (14, 14, 6),
            "block2_conv": (10, 10, 16),
            "block2_pool": (5, 5, 16),
        },
        dense(400, 120, 84, 10),
        61_706,
        0,
    ),
    "alexnet": (
        build_alexnet,
        (227, 227, 3),
        {
            "block1_conv": (55, 55, 96),
            "block1_pool": (27, 27, 96),
            "block2_conv": (27, 27, 256),
            "block2_pool": (13, 13, 256),
            "block3_conv": (13, 13, 384),
            "block4_conv": (13, 13, 384),
            "block5_conv": (13, 13, 256),
            "block5_pool": (6, 6, 256),
        },
        dense(9216, *FC, 1000),
        62_378_344,
        0,
    ),
    "zfnet": (
        build_zfnet,
        (224, 224, 3),
        {
            "block1_conv": (110, 110, 96),
            "block1_pool": (55, 55, 96),
            "block2_conv": (26, 26, 256),
            "block2_pool": (13, 13, 256),
            "block3_conv": (13, 13, 384),
            "block4_conv": (13, 13, 384),
            "block5_conv": (13, 13, 256),
            "block5_pool": (6, 6, 256),
        },
        dense(9216, *FC, 1000),
        62_357_608,
        0,
    ),
    "vgg11": (
        build_vgg11,
        (224, 224, 3),
        {"block1_conv1": (224, 224, 64), "block3_conv2": (56, 56, 256), "block5_pool": (7, 7, 512)},
        dense(25_088, *FC, 1000),
        132_863_336,
        0,
    ),
    "vgg13": (
        build_vgg13,
        (224, 224, 3),
        {"block1_conv2": (224, 224, 64), "block4_conv2": (28, 28, 512), "block5_pool": (7, 7, 512)},
        dense(25_088, *FC, 1000),
        133_047_848,
        0,
    ),
    "vgg16": (
        build_vgg16,
        (224, 224, 3),
        {"block3_conv3": (56, 56, 256), "block4_pool": (14, 14, 512), "block5_pool": (7, 7, 512)},
        dense(25_088, *FC, 1000),
        138_357_544,
        0,
    ),
    "vgg19": (
        build_vgg19,
        (224, 224, 3),
        {"block3_conv4": (56, 56, 256), "block4_pool": (14, 14, 512), "block5_pool": (7, 7, 512)},
        dense(25_088, *FC, 1000),
        143_667_240,
        0,
    ),
    "googlenet": (
        build_googlenet,
        (224, 224, 3),
        {
            "conv1_conv": (112, 112, 64),
            "conv1_pool": (56, 56, 64),
            "conv2_conv": (56, 56, 192),
            "conv2_pool": (28, 28, 192),
            "inception_3a": (28, 28, 256),
            "inception_3b": (28, 28, 480),
            "inception_3_pool": (14, 14, 480),
            "inception_4a": (14, 14, 512),
            "inception_4b": (14, 14, 512),
            "inception_4c": (14, 14, 512),
            "inception_4d": (14, 14, 528),
            "inception_4e": (14, 14, 832),
            "inception_4_pool": (7, 7, 832),
            "inception_5a": (7, 7, 832),
            "inception_5b": (7, 7, 1024),
        },
        dense(1024, 1000),
        6_998_552,
        0,
    ),
    "resnet18": (
        build_resnet18,
        (224, 224, 3),
        {
            "conv1_relu": (112, 112, 64),
            "pool1_pool": (56, 56, 64),
            "conv2_block2_out": (56, 56, 64),
            "conv3_block2_out": (28, 28, 128),
            "conv4_block2_out": (14, 14, 256),
            "conv5_block2_out": (7, 7, 512),
        },
        dense(512, 1000),
        11_689_512,
        9_600,
    ),
    "resnet34": (
        build_resnet34,
        (224, 224, 3),
        {
            "conv2_block3_out": (56, 56, 64),
            "conv3_block4_out": (28, 28, 128),
            "conv4_block6_out": (14, 14, 256),
            "conv5_block3_out": (7, 7, 512),
        },
        dense(512, 1000),
        21_797_672,
        17_024,
    ),
    "darknet19": (
        build_darknet19,
        (224, 224, 3),
        {
            "block1_1_leaky": (224, 224, 32),
            "block2_1_leaky": (112, 112, 64),
            "block3_3_leaky": (56, 56, 128),
            "block4_3_leaky": (28, 28, 256),
            "block5_5_leaky": (14, 14, 512),
            "block6_5_leaky": (7, 7, 1024),
        },
        dense(1024, 1000),
        20_842_376,
        14_400,
    ),
    "darknet53": (
        build_darknet53,
        (256, 256, 3),
        {
            "conv1_leaky": (256, 256, 32),
            "conv2_block1_add": (128, 128, 64),
            "conv3_block2_add": (64, 64, 128),
            "conv4_block8_add": (32, 32, 256),
            "conv5_block8_add": (16, 16, 512),
            "conv6_block4_add": (8, 8, 1024),
        },
        dense(1024, 1000),
        41_609_928,
        35_712,
    ),
}

# Builder, channels, a small side, and whether one pixel less leaves no map: padding everywhere leaves one of any image.
SMALLEST = {
    "lenet5": (build_lenet5, 1, 12, True),
    "alexnet": (build_alexnet, 3, 67, True),
    "zfnet": (build_zfnet, 3, 47, True),
    "vgg11": (build_vgg11, 3, 32, True),
    "googlenet": (build_googlenet, 3, 32, False),
    "resnet18": (build_resnet18, 3, 32, False),
    "darknet19": (build_darknet19, 3, 32, True),
    "darknet53": (build_darknet53, 3, 32, False),
}


def has_a_map(build: Build, side: int, channels: int) -> bool:
    try:
        return 0 not in build((side, side, channels)).output_shape
    except ValueError:  # a kernel larger than its map
        return False


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_network(name: str, request: pytest.FixtureRequest) -> None:
    build, shape, maps, head, parameters, statistics = PUBLISHED[name]
    shared = name in ("resnet18", "darknet53")  # those that take longest to build
    model = request.getfixturevalue(name) if shared else build(shape)
    assert model.name == name
    assert model.layers[0].name == "pixels"
    assert {layer: model.get_layer(layer).output.shape[1:] for layer in maps} == maps
    assert model.output_shape[1:] == list(maps.values())[-1]
    assert trainable(model) + head == parameters
    assert model.count_params() - trainable(model) == statistics


def test_lenet5_with_the_head_of_a_row() -> None:
    row, config = find_backbone("convnet"), HeadConfig(pooling="flatten", hidden=(120, 84))
    model = build_lenet5((28, 28, 1))
    pooling = build_pooling(model.output_shape, config, row)
    classifier = build_classifier(pooling.output_shape[-1], 10, config, row, seed=0)
    assert model.count_params() + classifier.count_params() == 61_706


def test_lenet5_of_the_papers_images_has_the_same_features() -> None:
    assert build_lenet5((32, 32, 1), pad=False).output_shape == (None, 5, 5, 16)
    digit = draw(1, 28, 28, 1)
    padded, bordered = build_lenet5((28, 28, 1)), build_lenet5((32, 32, 1), pad=False)
    bordered.set_weights(padded.get_weights())
    border = np.pad(digit, ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_allclose(padded(digit), bordered(border), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SMALLEST)
def test_small_images(name: str) -> None:
    build, channels, side, strict = SMALLEST[name]
    model = build((side + 9, side, 4 - channels))  # neither square nor of the usual channels
    features = model(draw(2, *model.input_shape[1:]))
    assert features.shape == (2, *model.output_shape[1:])
    assert features.shape[2] == 1
    assert np.isfinite(features).all()
    if strict:
        assert not has_a_map(build, side - 1, channels)


def test_initial_weights_are_he_normal(resnet18: keras.Model, darknet53: keras.Model) -> None:
    kernels = {
        build_alexnet((67, 67, 3)): "block4_conv",
        build_zfnet((47, 47, 3)): "block4_conv",
        build_vgg11((32, 32, 3)): "block4_conv2",
        build_googlenet((32, 32, 3)): "inception_5b_3x3",
        resnet18: "conv4_block1_2_conv",
        darknet53: "conv5_block1_2_conv",
    }
    for model, layer in kernels.items():
        kernel = np.asarray(model.get_layer(layer).kernel)
        assert kernel.std() == pytest.approx(math.sqrt(2 / math.prod(kernel.shape[:3])), rel=0.02), model.name


@pytest.mark.parametrize(
    ("model", "cuts"),
    [
        (lambda: build_lenet5((28, 28, 1)), {"block1": "block1_pool", "block2": "block2_pool"}),
        (lambda: build_alexnet((67, 67, 3)), {"block1": "block1_pool", "block3": "block3_conv"}),
        (
            lambda: build_alexnet((67, 67, 3), local_response_normalization=True),
            {"block1": "block1_pool", "block1_norm": "block1_norm"},
        ),
        (
            lambda: build_zfnet((47, 47, 3), local_response_normalization=True),
            {"block1": "block1_norm", "block2": "block2_norm", "block5": "block5_pool"},
        ),
        (lambda: build_vgg11((32, 32, 3)), {"block3": "block3_pool", "block3_conv2": "block3_conv2"}),
        (
            lambda: build_googlenet((32, 32, 3), local_response_normalization=True),
            {
                "conv1": "conv1_norm",
                "conv2": "conv2_pool",
                "inception_3a": "inception_3a",
                "inception_3": "inception_3_pool",
                "inception_4a": "inception_4a",
                "inception_4": "inception_4_pool",
                "inception_5": "inception_5b",
            },
        ),
        (lambda: build_darknet19((32, 32, 3)), {"block3": "block3_3_leaky", "block6_2": "block6_2_leaky"}),
    ],
    ids=["lenet5", "alexnet", "alexnet-lrn", "zfnet-lrn", "vgg11", "googlenet", "darknet19"],
)
def test_blocks_are_cited_by_prefix(model: Callable[[], keras.Model], cuts: dict[str, str]) -> None:
    built = model()
    assert {wanted: resolve_cut(built, wanted) for wanted in cuts} == cuts
    assert cut_points(built)[-1] == built.layers[-1].name  # the last layer carries everything


def test_residual_blocks_are_cited_by_prefix(resnet18: keras.Model, darknet53: keras.Model) -> None:
    cuts = {
        "conv1": "conv1_relu",
        "pool1": "pool1_pool",
        "conv3": "conv3_block2_out",
        "conv4_block1": "conv4_block1_out",
    }
    assert {wanted: resolve_cut(resnet18, wanted) for wanted in cuts} == cuts
    cuts = {"conv1": "conv1_leaky", "conv4_down": "conv4_down_leaky", "conv4": "conv4_block8_add"}
    assert {wanted: resolve_cut(darknet53, wanted) for wanted in cuts} == cuts


def test_branches_are_no_cuts(resnet18: keras.Model, darknet53: keras.Model) -> None:
    googlenet = build_googlenet((32, 32, 3))
    inside = {googlenet: "inception_4a_3x3", resnet18: "conv3_block2_1_conv", darknet53: "conv4_block3_1_conv"}
    for model, layer in inside.items():
        with pytest.raises(ModelError, match="inside a branch"):
            resolve_cut(model, layer)


def paper_normalization(maps: np.ndarray) -> np.ndarray:
    """Returns the paper's formula, channel by channel: k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    channels = maps.shape[-1]
    result = np.empty(maps.shape, np.float64)
    for i in range(channels):
        low, high = max(0, i - 5 // 2), min(channels - 1, i + 5 // 2)
        squares = (maps[..., low : high + 1].astype(np.float64) ** 2).sum(axis=-1)
        result[..., i] = maps[..., i] / (2 + 1e-4 * squares) ** 0.75
    return result


def normalization(channels: int) -> keras.Model:
    maps = keras.Input((3, 4, channels))
    return keras.Model(maps, normalize_local_response(maps, "norm"))


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6, 96])
def test_normalization_is_the_papers(channels: int) -> None:
    maps = draw(2, 3, 4, channels, deviation=100)
    np.testing.assert_allclose(normalization(channels)(maps), paper_normalization(maps), rtol=1e-5, atol=1e-6)


def test_a_network_parts_behind_the_normalization() -> None:
    model = build_alexnet((67, 67, 3), local_response_normalization=True)
    cut = model.get_layer("block1_norm").output
    trunk, top = keras.Model(model.input, cut), keras.Model(cut, model.output)
    pixels = draw(2, 67, 67, 3, deviation=60)
    np.testing.assert_allclose(top(trunk(pixels)), model(pixels), rtol=1e-5, atol=1e-6)


def test_normalization_has_no_parameters() -> None:
    plain, normalized = (build_alexnet((67, 67, 3), local_response_normalization=on) for on in (False, True))
    assert plain.count_params() == normalized.count_params()
    assert [weight.path for weight in plain.weights] == [weight.path for weight in normalized.weights]


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.usefixtures("mixed_precision")
def test_half_floats_do_not_overflow_in_the_normalization() -> None:
    maps = keras.Input((3, 4, 8), dtype="float16")
    model = keras.Model(maps, normalize_local_response(maps, "norm"))
    large = np.abs(draw(2, 3, 4, 8, deviation=1000)).astype(np.float16)  # squared, beyond 65504
    normalized = model(large)
    assert normalized.dtype == "float16"
    np.testing.assert_allclose(normalized, paper_normalization(large), rtol=2e-3)


@pytest.mark.parametrize(
    ("build", "side", "before", "after"),
    [
        (build_alexnet, 67, ("block1_conv", "block2_conv"), ("block1_pool", "block2_pool")),
        (build_zfnet, 47, ("block1_pool", "block2_pool"), ("block2_conv", "block3_conv")),
        (build_googlenet, 32, ("conv1_pool", "conv2_conv"), ("conv2_reduce", "conv2_pool")),
    ],
    ids=["alexnet", "zfnet", "googlenet"],
)
def test_normalization_stands_where_the_paper_has_it(
    build: Build, side: int, before: tuple[str, str], after: tuple[str, str]
) -> None:
    model = build((side, side, 3), local_response_normalization=True)
    names = [layer.name for layer in model.layers]
    norms = [name for name in names if name.endswith("_norm")]
    assert [(names[names.index(norm) - 1], names[names.index(norm) + 1]) for norm in norms] == list(
        zip(before, after, strict=True)
    )


LOAD = """
import sys
sys.modules["pipeline"] = None  # no import of it can succeed
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
data = np.load(sys.argv[2])
np.testing.assert_allclose(model(data["pixels"]), data["features"], rtol=1e-5, atol=1e-6)
"""


def test_a_saved_network_loads_where_the_package_is_not(tmp_path: Path) -> None:
    model = build_alexnet((67, 67, 3), local_response_normalization=True)
    pixels = draw(2, 67, 67, 3, deviation=60)
    model.save(tmp_path / "alexnet.keras")
    np.savez(tmp_path / "data.npz", pixels=pixels, features=np.asarray(model(pixels)))
    command = [sys.executable, "-c", LOAD, str(tmp_path / "alexnet.keras"), str(tmp_path / "data.npz")]
    loaded = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.parametrize(
    "model",
    [
        lambda: build_zfnet((47, 47, 3), local_response_normalization=True),
        lambda: build_googlenet((32, 32, 3), local_response_normalization=True),
    ],
    ids=["zfnet", "googlenet"],
)
def test_config_round_trip(model: Callable[[], keras.Model]) -> None:
    built = model()
    again = keras.Model.from_config(built.get_config())
    again.set_weights(built.get_weights())
    pixels = draw(2, *built.input_shape[1:])
    np.testing.assert_array_equal(again(pixels), built(pixels))


def test_two_towers_of_the_paper() -> None:
    model = build_alexnet((227, 227, 3), groups=2)
    assert model.output_shape == (None, 6, 6, 256)
    assert model.count_params() + dense(9216, *FC, 1000) == 60_965_224
    seen = {layer.name: layer.kernel.shape[2] for layer in model.layers if layer.name.endswith("_conv")}
    assert seen == {"block1_conv": 3, "block2_conv": 48, "block3_conv": 256, "block4_conv": 192, "block5_conv": 192}


def test_pooling_windows_overlap() -> None:
    pool = part(build_alexnet((67, 67, 3)), "block1_conv", "block1_pool")
    maps = np.zeros((1, *pool.input_shape[1:]), np.float32)
    maps[0, 2, 5, 0] = 1  # row 2 is the last of the first window and the first of the second; column 5 is in one only
    assert np.argwhere(np.asarray(pool(maps))).tolist() == [[0, 0, 2, 0], [0, 1, 2, 0]]


@pytest.mark.parametrize(("side", "rows"), [(49, 11), (51, 12)])
def test_zfnet_pools_over_the_edge_of_even_maps_only(side: int, rows: int) -> None:
    pool = part(build_zfnet((side, side, 3)), "block1_conv", "block1_pool")
    height = pool.input_shape[1]
    assert pool.output_shape[1] == height // 2 == rows
    maps = np.abs(draw(1, *pool.input_shape[1:])) + 1
    expected = [maps[0, 2 * row : 2 * row + 3].max(axis=0) for row in range(rows)]
    columns = [[line[2 * column : 2 * column + 3].max(axis=0) for column in range(rows)] for line in expected]
    np.testing.assert_array_equal(np.asarray(pool(maps))[0], columns)


@pytest.mark.parametrize(
    ("build", "application"),
    [(build_vgg16, keras.applications.VGG16), (build_vgg19, keras.applications.VGG19)],
    ids=["vgg16", "vgg19"],
)
def test_vgg_is_that_of_keras(build: Build, application: Build) -> None:
    ours, theirs = build((32, 48, 3)), application(weights=None, include_top=False, input_shape=(32, 48, 3))
    assert [layer.name for layer in ours.layers[1:]] == [layer.name for layer in theirs.layers[1:]]
    assert [weight.shape for weight in ours.weights] == [weight.shape for weight in theirs.weights]
    ours.set_weights(theirs.get_weights())
    pixels = draw(1, 32, 48, 3)
    np.testing.assert_array_equal(ours(pixels), theirs(pixels))


# Table 1 of the paper, typed in anew: channels in, then #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
TABLE_1 = (
    (192, 64, 96, 128, 16, 32, 32),
    (256, 128, 128, 192, 32, 96, 64),
    (480, 192, 96, 208, 16, 48, 64),
    (512, 160, 112, 224, 24, 64, 64),
    (512, 128, 128, 256, 24, 64, 64),
    (512, 112, 144, 288, 32, 64, 64),
    (528, 256, 160, 320, 32, 128, 128),
    (832, 256, 160, 320, 32, 128, 128),
    (832, 384, 192, 384, 48, 128, 128),
)


def conv(kernel: int, channels: int, filters: int) -> int:
    """Returns the parameters of a convolution with a bias."""
    return kernel**2 * channels * filters + filters


def test_googlenet_counted_from_the_papers_table() -> None:
    stem = conv(7, 3, 64) + conv(1, 64, 64) + conv(3, 64, 192)
    modules = sum(
        conv(1, c, a) + conv(1, c, b) + conv(3, b, d) + conv(1, c, e) + conv(5, e, f) + conv(1, c, g)
        for c, a, b, d, e, f, g in TABLE_1
    )
    main = stem + modules + dense(1024, 1000)
    auxiliary = [conv(1, channels, 128) + dense(4 * 4 * 128, 1024, 1000) for channels in (512, 528)]
    assert main == 6_998_552
    assert main + sum(auxiliary) == 13_378_280

    model = build_googlenet((224, 224, 3))
    assert model.count_params() == main - dense(1024, 1000)
    attached = [
        build_auxiliary(model.get_layer(name).output.shape, 1000, name=f"auxiliary_{name}", seed=0)
        for name in AUXILIARY_AFTER
    ]
    assert [classifier.count_params() for classifier in attached] == auxiliary


def test_module_is_the_four_branches_side_by_side() -> None:
    model = build_googlenet((32, 32, 3))
    joined = model.get_layer("inception_4e")
    assert [tensor._keras_history.operation.name for tensor in joined.input] == [
        f"inception_4e_{branch}" for branch in ("1x1", "3x3", "5x5", "pool_projection")
    ]
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


def test_auxiliary_classifier() -> None:
    assert AUXILIARY_AFTER == ("inception_4a", "inception_4d")
    assert AUXILIARY_WEIGHT == 0.3
    model = build_auxiliary((None, 14, 14, 512), 7, name="auxiliary_1", seed=3)
    assert model.name == "auxiliary_1"
    assert model.output_shape == (None, 7)
    assert model.get_layer("pool").output.shape == (None, 4, 4, 512)
    assert model.get_layer("dropout").rate == 0.7
    features = draw(2, 14, 14, 512)
    assert not np.allclose(model(features, training=True), model(features, training=False))


@pytest.mark.parametrize(("side", "pooled"), [(1, 1), (2, 1), (4, 1), (5, 1), (7, 1), (8, 2)])
def test_auxiliary_classifier_of_small_maps(side: int, pooled: int) -> None:
    model = build_auxiliary((None, side, 14, 8), 2, name="auxiliary", seed=0)
    assert model.get_layer("pool").output.shape == (None, pooled, 4, 8)
    if side < 5:
        features = draw(1, side, 14, 8)
        window = np.asarray(keras.Model(model.input, model.get_layer("pool").output)(features))
        np.testing.assert_allclose(window[0, 0, 0], features[0, :, :5].mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)


def test_auxiliary_classifier_depends_on_its_seed_alone() -> None:
    def weights(seed: int) -> list[np.ndarray]:
        return build_auxiliary((None, 14, 14, 8), 3, name="auxiliary", seed=seed).get_weights()

    first = weights(1)
    keras.random.uniform((3,))  # whatever else draws numbers in between
    for ours, theirs in zip(first, weights(1), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(first[0], weights(2)[0])


@pytest.mark.usefixtures("mixed_precision")
def test_auxiliary_logits_are_float32() -> None:
    model = build_auxiliary((None, 14, 14, 8), 3, name="auxiliary", seed=0)
    assert model.compute_dtype == "float16"
    assert model.output.dtype == "float32"


def test_resnet34_counted_from_the_papers_table() -> None:
    total, channels = 7**2 * 3 * 64 + 2 * 64, 64
    for blocks, filters in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for _ in range(blocks):
            total += 9 * channels * filters + 9 * filters**2 + 2 * 2 * filters
            if channels != filters:  # option B
                total += channels * filters + 2 * filters
            channels = filters
    assert total + dense(512, 1000) == PUBLISHED["resnet34"][4]


def test_identity_shortcut_is_added(resnet18: keras.Model) -> None:
    block = part(resnet18, "conv3_block1_out", "conv3_block2_out")
    maps = np.abs(draw(2, *block.input_shape[1:]))  # as they come from a ReLU
    assert not np.allclose(block(maps), maps, atol=0.1)
    with silenced(resnet18, "conv3_block2_2_bn"):
        np.testing.assert_allclose(block(maps), maps, rtol=1e-6)


def test_projection_shortcut_is_added(resnet18: keras.Model) -> None:
    block, projection = (part(resnet18, "conv2_block2_out", f"conv3_block1_{end}") for end in ("out", "0_bn"))
    maps = np.abs(draw(2, *block.input_shape[1:]))
    with silenced(resnet18, "conv3_block1_2_bn"):
        np.testing.assert_allclose(block(maps), np.maximum(projection(maps), 0), rtol=1e-6)
    with silenced(resnet18, "conv3_block1_0_bn", "conv3_block1_2_bn"):
        assert not np.any(block(maps))


def test_only_blocks_that_change_the_shape_project(resnet18: keras.Model) -> None:
    projections = [layer.name for layer in resnet18.layers if layer.name.endswith("_0_conv")]
    assert projections == [f"conv{stage}_block1_0_conv" for stage in (3, 4, 5)]


def test_resnet_names_are_those_of_keras(resnet18: keras.Model) -> None:
    names = [layer.name for layer in resnet18.layers]
    assert names[1:7] == ["conv1_pad", "conv1_conv", "conv1_bn", "conv1_relu", "pool1_pad", "pool1_pool"]
    # A 3×3 convolution with a stride is padded by a layer of its own; in Keras' blocks those with a stride are 1×1.
    block = ("1_pad", "1_conv", "1_bn", "1_relu", "2_conv", "0_conv", "2_bn", "0_bn", "add", "out")
    assert {name for name in names if name.startswith("conv4_block1")} == {f"conv4_block1_{end}" for end in block}


def test_resnet_pads_alike_on_all_sides(resnet18: keras.Model) -> None:
    pads = {layer.name: layer.padding for layer in resnet18.layers if isinstance(layer, keras.layers.ZeroPadding2D)}
    assert pads.pop("conv1_pad") == ((3, 3), (3, 3))
    assert len(pads) == 4
    assert set(pads.values()) == {((1, 1), (1, 1))}


def test_stem_for_small_images() -> None:
    model = build_resnet18((32, 32, 3), small_images=True)
    assert model.get_layer("conv1_conv").kernel.shape == (3, 3, 3, 64)
    assert model.get_layer("conv1_relu").output.shape == (None, 32, 32, 64)
    assert not any(isinstance(layer, keras.layers.MaxPooling2D) for layer in model.layers)
    assert model.output_shape == (None, 4, 4, 512)


def conv_bn(kernel: int, channels: int, filters: int) -> int:
    """Returns the trained parameters of a convolution without a bias and its BatchNorm."""
    return kernel**2 * channels * filters + 2 * filters


def test_darknet19_counted_from_the_papers_table() -> None:
    # Table 6, top to bottom, without its poolings.
    table = (
        *((3, 32), (3, 64), (3, 128), (1, 64), (3, 128), (3, 256), (1, 128), (3, 256)),
        *((3, 512), (1, 256), (3, 512), (1, 256), (3, 512), (3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024)),
    )
    total, channels = 0, 3
    for kernel, filters in table:
        total, channels = total + conv_bn(kernel, channels, filters), filters
    assert len(table) + 1 == 19
    assert total + conv(1, 1024, 1000) == PUBLISHED["darknet19"][4]


def test_darknet53_counted_from_the_papers_table() -> None:
    total, channels, convolutions = conv_bn(3, 3, 32), 32, 1
    for blocks, filters in zip((1, 2, 8, 8, 4), (64, 128, 256, 512, 1024), strict=True):
        total += conv_bn(3, channels, filters)
        total += blocks * (conv_bn(1, filters, filters // 2) + conv_bn(3, filters // 2, filters))
        channels, convolutions = filters, convolutions + 1 + 2 * blocks
    assert convolutions + 1 == 53  # the last is the logits
    assert total + dense(1024, 1000) == PUBLISHED["darknet53"][4]


def test_average_pooling_and_logits_swap_places() -> None:
    maps = draw(2, 7, 7, 1024)
    logits = keras.layers.Dense(10)
    convolved = keras.layers.Conv2D(10, 1)
    convolved.build(maps.shape)
    pooled = np.asarray(logits(maps.mean(axis=(1, 2))))
    convolved.set_weights([np.asarray(logits.kernel)[None, None], np.asarray(logits.bias)])
    np.testing.assert_allclose(np.mean(convolved(maps), axis=(1, 2)), pooled, rtol=1e-4, atol=1e-5)


def test_darknet53_adds_behind_the_activation(darknet53: keras.Model) -> None:
    block = part(darknet53, "conv4_block1_add", "conv4_block2_add")
    maps = draw(2, *block.input_shape[1:])  # negative ones too: nothing follows the sum
    assert not np.allclose(block(maps), maps, atol=0.1)
    with silenced(darknet53, "conv4_block2_2_bn"):
        np.testing.assert_allclose(block(maps), maps, rtol=1e-6)


def test_darknet_leaks_a_tenth(darknet53: keras.Model) -> None:
    leaky = part(darknet53, "conv1_bn", "conv1_leaky")
    np.testing.assert_allclose(leaky(np.full((1, 256, 256, 32), -2, np.float32)), -0.2, rtol=1e-6)
