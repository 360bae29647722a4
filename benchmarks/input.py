"""Training input, images/s: 400 x 300 JPEGs to 160 px with three augmentations, against `keras.layers`' own.

    python benchmarks/input.py [--images 400] [--repeats 3]

Both read the same files with the same batch size in tf.data; the hand-written side decodes and resizes as the Keras
guides do (`tf.io.decode_jpeg`, `tf.image.resize`) and augments batches with RandomRotation, RandomTranslation and
GaussianNoise. Ours is the pipeline that trains: one decoder with EXIF, antialiased resize, seeded views. The two take
turns, and the best of the repeats counts for each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pipeline  # noqa: F401  (settings of the process come first)

import keras  # isort: skip
import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from pipeline.augment.policy import load_policy
from pipeline.train.dataset import Images, InputSpec, live_batches

SIZE, BATCH = (160, 160), 32
TRANSFORMS = [{"rotate": {"degrees": 15}}, {"shift": {"pixels": 12}}, {"noise": {"sigma": 0.05}}]


def write_photos(folder: Path, count: int) -> list[str]:
    """Writes JPEGs of 400 x 300 pixels: pieces of scikit-learn's two photographs, enlarged a little."""
    random = np.random.default_rng(0)
    photos, paths = load_sample_images().images, []
    for number in range(count):
        photo = photos[number % 2]
        height = int(random.integers(200, 300))
        width = height * 4 // 3
        top, left = (int(random.integers(0, room)) for room in (photo.shape[0] - height, photo.shape[1] - width))
        piece = Image.fromarray(np.ascontiguousarray(photo[top : top + height, left : left + width]))
        paths.append(str(folder / f"{number}.jpg"))
        piece.resize((400, 300), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def ours(paths: list[str], augmented: bool) -> tf.data.Dataset:
    targets = np.eye(2, dtype=np.float32)[np.arange(len(paths)) % 2]
    images = Images(paths, np.arange(len(paths), dtype=np.int64), targets, np.ones(2, np.float32))
    policy = load_policy(TRANSFORMS if augmented else [])
    return live_batches(images, InputSpec(SIZE, 3), policy, seed=0, epochs=range(1), batch_size=BATCH)


def by_hand(paths: list[str], augmented: bool) -> tf.data.Dataset:
    layers = [
        keras.layers.RandomRotation(15 / 360, fill_mode="wrap"),
        keras.layers.RandomTranslation(12 / 160, 12 / 160, fill_mode="wrap"),
        keras.layers.Rescaling(1 / 255),  # GaussianNoise takes a deviation below 1 only
        keras.layers.GaussianNoise(0.05),
        keras.layers.Rescaling(255),
    ]

    def read(path: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), SIZE)

    def augment(pixels: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            pixels = layer(pixels, training=True)
        return pixels

    batches = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).map(read, tf.data.AUTOTUNE).batch(BATCH)
    return (batches.map(augment, tf.data.AUTOTUNE) if augmented else batches).prefetch(tf.data.AUTOTUNE)


def measure(make: Callable[[list[str], bool], tf.data.Dataset], paths: list[str], augmented: bool) -> float:
    dataset = make(paths, augmented)
    began = time.perf_counter()
    for _ in dataset:
        pass
    return len(paths) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), options.images)
        for _ in range(options.repeats):
            for name, make in (("ours", ours), ("keras.layers", by_hand)):
                for augmented in (False, True):
                    key = f"{name}, {'augmented' if augmented else 'plain'}"
                    best[key] = max(best.get(key, 0.0), measure(make, paths, augmented))
    for key, speed in best.items():
        print(f"{key:<24} {speed:6.0f} images/s")
    print(f"ours / keras.layers, augmented: {best['ours, augmented'] / best['keras.layers, augmented']:.2f}")
    print(json.dumps(best))


if __name__ == "__main__":
    main()
