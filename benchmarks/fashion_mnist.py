"""Real images by the ten thousand: Fashion-MNIST as PNG folders and as a TFDS data set, and how fast TFDS is read.

    python benchmarks/fashion_mnist.py [--idx DIR] [--count 70000]

The images are those of Debian's package dataset-fashion-mnist (`apt-get install dataset-fashion-mnist`).
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config import TfdsConfig
from pipeline.ingest.sources.tfds import TfdsSource
from pipeline.ingest.store import ContentStore
from pipeline.progress import Silent

IDX = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
FILES = {"train": "train", "test": "t10k"}
WHOLE = 70_000

#: "T-shirt/top" cannot be a folder's name.
CLASSES = (
    "T-shirt_top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle_boot",
)  # fmt: skip


def load_idx(split: str, count: int, idx_dir: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns the images (N, 28, 28) and class ids (N,) of a split: its share of `count` of the 70,000."""
    paths = [idx_dir / f"{FILES[split]}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    for path in paths:
        if not path.is_file():
            sys.exit(f"no {path}; apt-get install {PACKAGE}, or name the folder of its files with --idx DIR")
    with gzip.open(paths[0]) as images, gzip.open(paths[1]) as labels:
        pixels = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        ids = np.frombuffer(labels.read(), np.uint8, offset=8)
    share = round(len(ids) * count / WHOLE)
    return pixels[:share], ids[:share]


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Returns the PNG of one image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def lay_out(folder: Path, count: int = WHOLE, idx_dir: Path = IDX) -> Path:
    """Returns `folder`, which holds `train|test/<class>/<number>.png` from now on, on all cores."""
    jobs = []
    for split in FILES:
        pixels, ids = load_idx(split, count, idx_dir)
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        parts = np.array_split(np.arange(len(ids)), 2 * (os.cpu_count() or 1))
        jobs += [(folder / split, part, pixels[part], ids[part]) for part in parts]
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(_write, *zip(*jobs, strict=True)))
    return folder


def _write(
    folder: Path, numbers: npt.NDArray[np.int64], pixels: npt.NDArray[np.uint8], ids: npt.NDArray[np.uint8]
) -> None:
    for number, image, label in zip(numbers, pixels, ids, strict=True):
        Path(f"{folder}/{CLASSES[label]}/{number:05d}.png").write_bytes(encode(image))


def lay_out_tfds(data_dir: Path, count: int = WHOLE, idx_dir: Path = IDX) -> Path:
    """Returns the folder below `data_dir` where TFDS itself has written the same images as data set `fashion`."""
    import tensorflow_datasets as tfds

    class Fashion(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Fashion-MNIST as Debian packs it."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            """Returns the description."""
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
            kinds = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=kinds, supervised_keys=("image", "label"))

        def _split_generators(self, downloads: Any) -> dict[str, Any]:
            """Returns a generator a split."""
            return {split: self._generate_examples(split) for split in FILES}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            """Yields encoded images, so that TFDS keeps the very PNGs of `lay_out`."""
            for number, (image, label) in enumerate(zip(*load_idx(split, count, idx_dir), strict=True)):
                yield number, {"image": io.BytesIO(encode(image)), "label": int(label)}

    tfds.disable_progress_bar()
    builder = Fashion(data_dir=data_dir)
    with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare()
    return Path(builder.data_dir)


def measure_tfds(root: Path, count: int, idx_dir: Path) -> None:
    """Prints how fast a prepared TFDS data set is read into a store, and read again."""
    began = time.perf_counter()
    lay_out_tfds(root / "tfds", count, idx_dir)
    print(f"TFDS data set written           {time.perf_counter() - began:7.1f} s", flush=True)
    source = TfdsSource("fashion", TfdsConfig(data_dir=str(root / "tfds")), ContentStore(root / "images"))
    for what in ("read first", "read again"):
        began = time.perf_counter()
        items = source.items(Silent())
        seconds = time.perf_counter() - began
        print(f"TfdsSource.items, {what}    {seconds:7.2f} s  {len(items) / seconds:9,.0f} images/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idx", type=Path, default=IDX, metavar="DIR", help="where the *-ubyte.gz files are")
    parser.add_argument("--count", type=int, default=WHOLE, help="images, of 70,000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        lay_out(Path(root) / "folders", options.count, options.idx)
        print(f"PNG folders written             {time.perf_counter() - began:7.1f} s", flush=True)
        measure_tfds(Path(root), options.count, options.idx)


if __name__ == "__main__":
    main()
