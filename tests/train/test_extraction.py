from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline.progress import Silent
from pipeline.train.dataset import Images, InputSpec
from pipeline.train.extraction import extract

SPEC = InputSpec((6, 6), 3)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    for number in range(5):
        Image.new("RGB", (6, 6), (number * 40, 100, 200)).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    return Images(paths, paths, np.zeros(5, np.int64), np.eye(5, dtype=np.float32), np.ones(5, np.float32))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """A network with BatchNorm and dropout, whose answer must not depend on what else is in the batch."""
    x = inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(1))(x)
    x = keras.layers.Dropout(0.5, seed=0)(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def test_a_row_is_the_networks_answer_in_inference_mode(network: keras.Model, images: Images) -> None:
    pixels = np.stack([np.full((6, 6, 3), (number * 40, 100, 200), np.float32) for number in range(5)])
    found = extract(network, images, SPEC, 2, Silent(), "test")
    np.testing.assert_allclose(found, network(pixels, training=False), atol=1e-4)


def test_an_answer_does_not_depend_on_its_neighbours(network: keras.Model, images: Images) -> None:
    whole = extract(network, images, SPEC, 4, Silent(), "test")
    alone = Images(images.paths[3:4], images.contents[3:4], images.seeds[3:4], images.targets[3:4], images.weights)
    np.testing.assert_array_equal(extract(network, alone, SPEC, 4, Silent(), "test")[0], whole[3])
