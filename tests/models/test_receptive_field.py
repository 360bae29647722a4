"""Receptive fields are those that gradients show, and those that their authors published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from pipeline.models.backbones import find_backbone
from pipeline.models.cuts import cut_points
from pipeline.models.receptive_field import ReceptiveField, receptive_fields

WINDOWS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


def transparent(layer: Any) -> Any:
    """Returns a layer that sees what `layer` sees and lets all of it through: positive, linear, in float64."""
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).from_config(layer.get_config())
    config: dict[str, Any] = layer.get_config() | {"dtype": "float64"}
    if isinstance(layer, WINDOWS):
        return type(layer).from_config(config | {"activation": "linear"})
    if isinstance(layer, layers.MaxPooling2D):
        return layers.AveragePooling2D.from_config(config)
    if isinstance(layer, (layers.Activation, layers.ReLU)):
        return layers.Activation("linear", name=layer.name, dtype="float64")
    if isinstance(layer, layers.LayerNormalization):  # over channels; its gradients add up to 0
        return layers.BatchNormalization(name=layer.name, dtype="float64")
    return type(layer).from_config(config)


def footprints(network: keras.Model, names: list[str]) -> Iterator[tuple[str, tuple[int, int], tuple[int, ...]]]:
    """Yields (operation, unit, box of the pixels whose change would change the unit), two corners and the middle."""
    outputs = {operation.name: operation.output for operation in network.operations if operation.name in names}
    pixels = tf.ones((1, *network.input_shape[1:]), network.compute_dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(pixels)
        answers = {
            name: tf.reduce_sum(answer[0], axis=-1)
            for name, answer in keras.Model(network.inputs, outputs)(pixels).items()
        }
        units = {
            (name, unit): answer[unit]
            for name, answer in answers.items()
            for unit in ((0, 0), (answer.shape[0] // 2, answer.shape[1] // 2), (answer.shape[0] - 1, 0))
        }
    for (name, unit), answer in units.items():
        seen = tape.gradient(answer, pixels).numpy()[0].sum(axis=-1) > 0
        if seen.any():  # or it lies in the padding
            rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            yield name, unit, (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


def differences(network: keras.Model, fields: dict[str, ReceptiveField], names: Iterable[str]) -> list[object]:
    """Returns where the fields' boxes are not those of gradients."""
    size = network.input_shape[1:3]
    found = [(name, unit, seen, fields[name].box(unit, size)) for name, unit, seen in footprints(network, list(names))]
    assert found
    return [each for each in found if each[2] != each[3]]


def small(build: Callable[[Any], Any], size: tuple[int, int]) -> keras.Model:
    pixels = keras.Input((*size, 3))
    return positive(keras.Model(pixels, build(pixels)))


def positive(network: keras.Model) -> keras.Model:
    """Returns the network with kernels that let everything through: positive means."""
    for weight in network.weights:
        if "kernel" in weight.name:
            weight.assign(np.full(weight.shape, 1 / np.prod(weight.shape[:-1])))
    return network


def chain(pixels: Any) -> Any:
    x = layers.Conv2D(2, 5, strides=2, padding="same")(pixels)
    x = layers.AveragePooling2D(3, strides=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    return layers.SeparableConv2D(3, (1, 3), strides=(2, 1), padding="same")(x)


def dilated(pixels: Any) -> Any:
    x = layers.Conv2D(2, 3, dilation_rate=3, padding="same")(pixels)
    x = layers.Conv2D(2, 2, strides=3)(x)
    return layers.Conv2D(2, (5, 2), dilation_rate=(1, 2))(x)


def padded(pixels: Any) -> Any:
    x = layers.ZeroPadding2D(((0, 1), (2, 3)))(pixels)
    x = layers.DepthwiseConv2D(3, strides=2)(x)
    x = layers.Cropping2D(((2, 0), (1, 1)))(x)
    return layers.AveragePooling2D(2, padding="same")(x)


def branches(pixels: Any) -> Any:
    stem = layers.Conv2D(2, 3, strides=2, padding="same")(pixels)
    wide = layers.Conv2D(2, (1, 7), padding="same")(stem)
    tall = layers.Conv2D(2, (5, 1), padding="same")(layers.Conv2D(2, 1)(stem))
    x = layers.Concatenate()([stem, wide, tall])
    pooled = layers.AveragePooling2D(3, strides=2, padding="same")(x)
    reduced = layers.Conv2D(6, 4, strides=2, padding="same")(x)
    return keras.ops.relu(layers.Add()([pooled, reduced])) + pooled


def nested(pixels: Any) -> Any:
    """A Sequential inside a Functional inside a Functional, the inner ones made for no fixed size, one used twice."""
    inside = keras.Input((None, None, 4))
    block = keras.Sequential([layers.Conv2D(4, 3, strides=2, padding="same"), layers.Activation("relu")])
    inner = keras.Model(inside, block(layers.Conv2D(4, 2, padding="same")(inside)))
    x = layers.Conv2D(4, 3)(pixels)
    return layers.Add()([inner(inner(x)), layers.AveragePooling2D(4, padding="same")(x)])


@pytest.mark.parametrize("build", [chain, padded, branches, nested])
@pytest.mark.parametrize("size", [(40, 40), (33, 50), (27, 31)])
def test_a_unit_sees_what_its_gradient_shows(build: Any, size: tuple[int, int]) -> None:
    network = small(build, size)
    fields = receptive_fields(network)
    names = [operation.name for operation in network.operations if not isinstance(operation, keras.Model)]
    assert set(names) <= set(fields)
    assert differences(network, fields, names) == []


def test_a_dilated_window_sees_from_its_first_to_its_last_pixel() -> None:
    network = small(dilated, (60, 60))
    fields = receptive_fields(network)
    inside = {
        name: seen for name, unit, seen in footprints(network, list(fields)) if unit[0] and unit[1]
    }  # at the border the outermost pixel that is seen may be one within the box
    assert {name: (box[2] - box[0], box[3] - box[1]) for name, box in inside.items()} == {
        name: field.size for name, field in fields.items()
    }


@pytest.mark.parametrize("name", ["efficientnet_lite0", "convnet"])
def test_units_of_the_zoo_see_what_their_gradients_show(name: str) -> None:
    # AlexNet's valid windows leave pixels at the lower border unseen in any size that they do not fit into.
    network = find_backbone(name).build((227, 227) if name == "alexnet" else (85, 99))
    through = positive(keras.models.clone_model(network, clone_function=transparent))
    points = cut_points(network)
    names = {points[place] for place in np.linspace(0, len(points) - 1, 6).astype(int)}
    assert differences(through, receptive_fields(network), names) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "alexnet", "darknet19", "densenet121", "googlenet", "inception_resnet_v2", "inception_v3", "mobilenet",
        "mobilenet_v2", "nasnet_mobile", "resnet50", "resnet50_v2", "vgg16", "xception",
    ],
)  # fmt: skip
def test_units_of_the_other_families_see_what_their_gradients_show(name: str) -> None:
    test_units_of_the_zoo_see_what_their_gradients_show(name)


#: From the table of Araujo, Norris and Sim 2019; of those with "slow" the networks take seconds to build.
PUBLISHED = [
    ("vgg16", 212),
    ("mobilenet", 315),
    ("resnet50", 483),
    pytest.param("resnet50_v2", 483, marks=pytest.mark.slow),
    pytest.param("inception_v3", 1311, marks=pytest.mark.slow),
    pytest.param("inception_resnet_v2", 3039, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_published_sizes(name: str, size: int) -> None:
    row = find_backbone(name)
    *_, last = receptive_fields(row.build(row.default_size)).values()
    assert (last.size, last.stride, last.whole_image) == ((size, size), (32, 32), False)


@pytest.mark.parametrize("keepdims", [True, False])
def test_a_gate_brings_in_the_whole_image_and_no_size(keepdims: bool) -> None:
    """Squeeze-and-excite: what it computes has no place in the image, what it is multiplied with keeps its own."""
    pixels = keras.Input((20, 30, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="before")(pixels)
    gate = layers.GlobalAveragePooling2D(keepdims=keepdims, name="squeeze")(x)
    gate = layers.Conv2D(4, 1, name="excite")(gate if keepdims else layers.Reshape((1, 1, 4))(gate))
    x = layers.Multiply(name="gated")([x, gate])
    network = keras.Model(pixels, layers.Conv2D(4, 3, name="after")(x))
    fields = receptive_fields(network)
    assert set(fields) == {pixels._keras_history.operation.name, "before", "gated", "after"}
    assert (fields["before"].size, fields["before"].whole_image) == ((3, 3), False)
    assert (fields["gated"].size, fields["gated"].whole_image) == ((3, 3), True)
    assert (fields["after"].size, fields["after"].whole_image) == ((7, 7), True)


def test_a_normalization_over_channels_is_no_gate() -> None:
    """AlexNet's folds the places into the batch on its way, and keeps them apart."""
    row = find_backbone("googlenet")
    plain = receptive_fields(row.build((64, 64)))
    normalized = receptive_fields(row.build((64, 64), {"local_response_normalization": True}))
    assert {"conv1_norm", "conv2_norm"} <= set(normalized) - set(plain)
    assert {name: normalized[name] for name in plain} == plain
    assert not any(field.whole_image for field in normalized.values())


def test_networks_of_the_zoo_with_gates_say_so() -> None:
    network = find_backbone("efficientnet_b0").build((224, 224))
    fields = receptive_fields(network)
    assert not fields["stem_conv"].whole_image
    assert fields[network.operations[-1].name] == ReceptiveField((851, 851), (32, 32), (-394, -394), True)


def test_a_box_ends_at_the_border() -> None:
    field = ReceptiveField(size=(5, 7), stride=(4, 4), start=(-2, 3), whole_image=False)
    assert field.box((0, 0), (20, 20)) == (0, 3, 3, 10)
    assert field.box((2, 1), (20, 20)) == (6, 7, 11, 14)
    assert field.box((4, 4), (15, 20)) == (14, 19, 15, 20)  # of a unit in the padding: the pixel that is nearest
    assert field.box((0, 0), (1, 1)) == (0, 0, 1, 1)
