from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augment.policy import Policy, load_policy
from pipeline.progress import Silent
from pipeline.train.bank import Features, extract, feature_batches
from pipeline.train.dataset import Images, InputSpec, view_batches

SPEC = InputSpec((6, 6), 3)
NOISE = load_policy([{"noise": {"probability": 1.0}}])


@pytest.fixture
def images(tmp_path: Path) -> Images:
    for number in range(5):
        Image.new("RGB", (6, 6), (number * 40, 100, 200)).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    return Images(paths, np.arange(5, dtype=np.int64) + 7, np.eye(5, dtype=np.float32), np.ones(5, np.float32))


@pytest.fixture(scope="module")
def trunk() -> keras.Model:
    """A frozen network with BatchNorm, whose answer must not depend on what else is in the batch."""
    x = inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(1))(x)
    x = keras.layers.Dropout(0.5, seed=0)(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def take(trunk: keras.Model, images: Images, policy: Policy, views: list[int], batch: int = 4) -> np.ndarray:
    return extract(trunk, images, SPEC, policy, views, batch, Silent(), "test").values


def test_a_row_is_the_trunks_answer_for_that_view_of_that_image(trunk: keras.Model, images: Images) -> None:
    found = take(trunk, images, NOISE, [0, 1, 2])
    for view in (0, 1, 2):
        pixels = np.concatenate(list(view_batches(images, SPEC, NOISE, view, 5)))
        np.testing.assert_allclose(found[view], trunk(pixels, training=False), atol=1e-5)
    assert not np.allclose(found[1], found[2])


def test_an_images_features_do_not_depend_on_its_neighbours(trunk: keras.Model, images: Images) -> None:
    whole = take(trunk, images, Policy(), [0])
    alone = Images(images.paths[3:4], images.seeds[3:4], images.targets[3:4], images.weights)
    np.testing.assert_array_equal(take(trunk, alone, Policy(), [0])[0, 0], whole[0, 3])


def test_one_forward_pass_an_image_and_view(images: Images) -> None:
    seen: list[int] = []

    def count(pixels: np.ndarray) -> np.ndarray:
        seen.append(len(pixels))
        return pixels

    class Counter(keras.layers.Layer):
        def call(self, pixels: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(count, [pixels], tf.float32), pixels.shape)

    inputs = keras.Input((6, 6, 3))
    take(keras.Model(inputs, keras.layers.Flatten()(Counter()(inputs))), images, NOISE, [0, 1, 2], batch=5)
    assert seen == [5, 5, 5]


def test_an_epoch_takes_one_view_of_each_image(images: Images) -> None:
    values = (100 * np.arange(4)[:, None, None] + np.arange(5)[None, :, None]).astype(np.float32)  # view, image
    batches = feature_batches(Features(values, images), seed=3, epochs=range(40), batch_size=2)
    rows = np.concatenate([features[:, 0] for features, _, _ in batches]).reshape(40, 5)
    targets = np.concatenate([target.numpy().argmax(axis=1) for _, target, _ in batches]).reshape(40, 5)
    np.testing.assert_array_equal(rows % 100, targets)
    np.testing.assert_array_equal(np.sort(targets), np.broadcast_to(np.arange(5), (40, 5)))
    views = np.bincount((rows // 100).astype(int).ravel(), minlength=4)
    assert (views > 30).all()  # of 200, each of four views by chance 50
    late = feature_batches(Features(values, images), seed=3, epochs=range(39, 40), batch_size=5)
    np.testing.assert_array_equal(next(iter(late))[0][:, 0], rows[39])
