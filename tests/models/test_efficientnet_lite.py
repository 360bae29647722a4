"""EfficientNet-Lite is the published network: names, sizes and, with the published weights, answers."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from pipeline.models.backbones import build_scaling, find_backbone
from pipeline.models.efficientnet_lite import build_efficientnet_lite
from pipeline.models.torch_file import read_state_dict
from pipeline.models.weights import load_weights, locate_weights

TOP_OF_1000 = 1280 * 1000 + 1000


@pytest.fixture(scope="module")
def weights() -> Path:
    path = locate_weights(find_backbone("efficientnet_lite0"), "imagenet")
    assert path is not None
    return path


@pytest.fixture(scope="module")
def pretrained(weights: Path) -> keras.Model:
    row = find_backbone("efficientnet_lite0")
    model = row.build((224, 224))
    load_weights(model, row, weights)
    return model


def test_parameters(pretrained: keras.Model) -> None:
    assert pretrained.count_params() + TOP_OF_1000 == find_backbone("efficientnet_lite0").parameters


@pytest.mark.parametrize(
    ("width", "depth", "published"),
    [(1.0, 1.0, 4_652_008), (1.0, 1.1, 5_416_680), (1.1, 1.2, 6_092_072)],
    ids=["lite0", "lite1", "lite2"],
)
def test_coefficients_give_the_published_sizes(width: float, depth: float, published: int) -> None:
    model = build_efficientnet_lite((32, 32, 3), width=width, depth=depth, name="lite")
    # PyTorch counts what is trained; Keras counts moving statistics as well.
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) + TOP_OF_1000 == published


def test_layers_are_named_as_keras_names_its_efficientnets(pretrained: keras.Model) -> None:
    names = [layer.name for layer in pretrained.layers]
    assert names[:6] == ["pixels", "stem_conv", "stem_bn", "stem_relu", "block1a_dwconv", "block1a_bn"]
    assert names[-5:] == ["block7a_project_conv", "block7a_project_bn", "top_conv", "top_bn", "top_relu"]
    assert [name for name in names if name.endswith("_add")] == [
        f"block{block}_add" for block in ("2b", "3b", "4b", "4c", "5b", "5c", "6b", "6c", "6d")
    ]


@pytest.mark.parametrize(("size", "features"), [((32, 32), (1, 1)), ((65, 96), (3, 3))])
def test_features_are_a_32nd_of_the_image(size: tuple[int, int], features: tuple[int, int]) -> None:
    assert find_backbone("efficientnet_lite0").build(size).output_shape == (None, *features, 1280)


# Bell cote, boathouse, monastery, palace, castle; daisy, which Lite2 takes for a honeycomb. Lower ranks are close: how
# one resizes can swap them.
@pytest.mark.parametrize(
    ("backbone", "name", "first", "among_ten"),
    [
        ("efficientnet_lite0", "china.jpg", 442, {442, 449, 663, 698, 483}),
        ("efficientnet_lite1", "china.jpg", 698, {442, 663, 698, 483}),
        ("efficientnet_lite2", "china.jpg", 698, {442, 698, 483}),
        ("efficientnet_lite0", "flower.jpg", 985, {985}),
        ("efficientnet_lite1", "flower.jpg", 985, {985}),
        ("efficientnet_lite2", "flower.jpg", 599, {599}),
    ],
)
def test_published_weights_know_the_sample_photographs(
    backbone: str, name: str, first: int, among_ten: set[int]
) -> None:
    row = find_backbone(backbone)
    weights = locate_weights(row, "imagenet")
    assert weights
    network = row.build(row.default_size)
    load_weights(network, row, weights)
    samples = load_sample_images()
    photograph = next(
        image for image, path in zip(samples.images, samples.filenames, strict=True) if Path(path).name == name
    )
    pixels = keras.ops.image.resize(photograph[None].astype(np.float32), row.default_size, antialias=True)
    features = network(build_scaling(row)(pixels))
    tensors = read_state_dict(weights)
    logits = np.asarray(features).mean(axis=(1, 2)) @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    ranked = np.argsort(-logits[0]).tolist()
    assert ranked[0] == first
    assert among_ten <= set(ranked[:10])
