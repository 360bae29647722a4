from __future__ import annotations

from collections.abc import Iterator

import keras
import pytest

from pipeline.errors import ModelError
from pipeline.models.backbones import find_backbone
from pipeline.models.cuts import INPUT, cut_points, resolve_cut


@pytest.fixture(scope="module")
def branched() -> keras.Model:
    """conv -> two branches -> add -> relu -> three branches -> concat, names as zoo models have them."""
    x = inputs = keras.Input((8, 8, 3), name="pixels")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem_conv")(x)
    left = keras.layers.Conv2D(4, 3, padding="same", name="block1a_conv")(x)
    left = keras.layers.BatchNormalization(name="block1a_bn")(left)
    x = keras.layers.Add(name="block1a_add")([x, left])
    x = keras.layers.ReLU(name="block1a_relu")(x)
    arms = [keras.layers.Conv2D(2, size, padding="same", name=f"block12_arm{size}")(x) for size in (1, 3, 5)]
    return keras.Model(inputs, keras.layers.Concatenate(name="block12_concat")(arms), name="branched")


def paths_around(model: keras.Model, layer: str) -> bool:
    """Tells whether the output can be reached from the input without passing `layer`, by walking the saved graph."""

    def sources(entry: object) -> Iterator[str]:
        if isinstance(entry, dict):
            if "keras_history" in entry:
                yield entry["keras_history"][0]
            for value in entry.values():
                yield from sources(value)
        elif isinstance(entry, (list, tuple)):
            for value in entry:
                yield from sources(value)

    config = model.get_config()
    reads = {entry["name"]: set(sources(entry["inbound_nodes"])) for entry in config["layers"]}
    reached, todo = set(), [model.layers[-1].name]
    while todo:
        name = todo.pop()
        if name != layer and name not in reached:
            reached.add(name)
            todo += reads[name]
    return model.layers[0].name in reached


def test_cut_points_are_the_layers_that_no_path_goes_around(branched: keras.Model) -> None:
    expected = [layer.name for layer in branched.layers[1:] if not paths_around(branched, layer.name)]
    assert list(cut_points(branched)) == expected
    assert expected == ["stem_conv", "block1a_add", "block1a_relu", "block12_concat"]


def test_cut_points_of_a_real_backbone() -> None:
    backbone = find_backbone("efficientnet_lite0").build((32, 32))
    expected = [layer.name for layer in backbone.layers[1:] if not paths_around(backbone, layer.name)]
    assert list(cut_points(backbone)) == expected


def test_calling_the_network_again_does_not_move_its_cut_points(branched: keras.Model) -> None:
    before = cut_points(branched)
    branched(keras.Input((8, 8, 3)))
    assert cut_points(branched) == before


@pytest.mark.parametrize(
    ("wanted", "layer"),
    [
        (INPUT, INPUT),
        ("stem_conv", "stem_conv"),
        ("block1a", "block1a_relu"),
        ("block1", "block1a_relu"),  # not block12
        ("block12", "block12_concat"),
        (0.0, INPUT),
        (1.0, "block12_concat"),
        (0.6, "block1a_relu"),
    ],
)
def test_resolve_cut(branched: keras.Model, wanted: str | float, layer: str) -> None:
    assert resolve_cut(branched, wanted) == layer


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("block1a_bn", "inside a branch of branched; the nearest cut point is 'block1a_add'"),
        ("blok12", "did you mean 'block12'?"),
        (1.5, "between 0 (nothing frozen) and 1, found 1.5"),
    ],
)
def test_what_is_no_cut_is_refused(branched: keras.Model, wanted: str | float, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_cut(branched, wanted)
    assert says in str(caught.value)
    assert "train.fine_tune.from" in str(caught.value)
