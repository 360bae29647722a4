"""Training input, images/s: 400 x 300 JPEGs to 160 px with three augmentations, against `keras.layers`' own.

    python benchmarks/input.py [--images 1500] [--repeats 3]

The augmentations are those of configs/photos.yaml: a flip, a resized crop, a colour jitter. Both sides read the same
files in tf.data with the same batch size. The hand-written side augments batches with RandomFlip, RandomZoom and
RandomColorJitter, once on pixels as the Keras guides decode them (fast DCT, no antialiasing), once on the same pixels
as ours (accurate DCT, antialiased). Ours is the pipeline that trains: EXIF, one seed an image. All take turns; the best
of the repeats counts.
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
from pipeline.config import load_config
from pipeline.train.dataset import Images, InputSpec, live_batches

SIZE, BATCH = (160, 160), 32
TRANSFORMS = load_config(Path(__file__).parents[1] / "configs" / "photos.yaml").augment.transforms


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
    images = Images(paths, paths, np.arange(len(paths), dtype=np.int64), targets, np.ones(2, np.float32))
    policy = load_policy(TRANSFORMS if augmented else [])
    return live_batches(images, InputSpec(SIZE, 3), policy, seed=0, epochs=range(1), batch_size=BATCH)


def as_the_guides(paths: list[str], augmented: bool) -> tf.data.Dataset:
    return by_hand(paths, augmented, antialias=False, dct_method="")


def same_pixels(paths: list[str], augmented: bool) -> tf.data.Dataset:
    return by_hand(paths, augmented, antialias=True, dct_method="INTEGER_ACCURATE")


def by_hand(paths: list[str], augmented: bool, antialias: bool, dct_method: str) -> tf.data.Dataset:
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomZoom((-0.4, 0.0), (-0.4, 0.0)),
        keras.layers.RandomColorJitter((0, 255), 0.2, 0.2, 0.2, 0.02),
    ]

    def read(path: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method=dct_method)
        return tf.image.resize(pixels, SIZE, antialias=antialias)

    def augment(pixels: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            pixels = layer(pixels, training=True)
        return pixels

    batches = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).map(read, tf.data.AUTOTUNE).batch(BATCH)
    return (batches.map(augment, tf.data.AUTOTUNE) if augmented else batches).prefetch(tf.data.AUTOTUNE)


SIDES: dict[str, Callable[[list[str], bool], tf.data.Dataset]] = {
    "ours": ours, "keras.layers on the same pixels": same_pixels, "keras.layers as the guides decode": as_the_guides,
}  # fmt: skip


def measure(make: Callable[[list[str], bool], tf.data.Dataset], paths: list[str], augmented: bool) -> float:
    dataset = make(paths, augmented)
    began = time.perf_counter()
    for _ in dataset:
        pass
    return len(paths) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), options.images)
        for _ in range(options.repeats):
            for name, make in SIDES.items():
                for augmented in (False, True):
                    key = f"{name}, {'augmented' if augmented else 'plain'}"
                    best[key] = max(best.get(key, 0.0), measure(make, paths, augmented))
    for key, speed in best.items():
        print(f"{key:<46} {speed:6.0f} images/s")
    for name in list(SIDES)[1:]:
        print(f"ours / {name}, augmented: {best['ours, augmented'] / best[f'{name}, augmented']:.2f}")
    print(json.dumps(best))


if __name__ == "__main__":
    main()
