"""`pipeline predict` on JPEGs, images/s, against the raw forward rate of the same export; and its memory.

    python benchmarks/predict.py [--images 2000] [--many 20000] [--backbone efficientnet_lite0] [--repeats 3]

The raw rate is that of the export's signature `pixels` on one batch that is there already: nothing is read, decoded or
written. Every batch size of BATCHES has its turn and the best counts. The other side reads 400 x 300 JPEGs, decodes and
resizes them, asks the network and writes CSV; loading TensorFlow and the export is counted on neither side. Both take
turns in one process, and the best of the repeats counts. Memory is the peak of a process of its own, at `--images` and
at `--many` files (links to the same ones), with a small network, since its size does not depend on their number. The
weights are random: they cost what others cost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pipeline  # noqa: F401  (settings of the process come first)

import numpy as np  # isort: skip
import tensorflow as tf
from input import write_photos

from pipeline.config import build_config
from pipeline.export.inputs import find_images
from pipeline.export.job import predict_to_file
from pipeline.export.predict import Predictor
from pipeline.export.savedmodel import PIXELS, export_savedmodel
from pipeline.models.network import build_network
from pipeline.progress import Silent
from pipeline.tasks.table import load_task

BAR = 0.9
BATCHES = (16, 32, 64)


def build_export(backbone: str, folder: Path, **settings: Any) -> Path:
    """Returns the folder with an export of a backbone with ten classes."""
    config = build_config({"model": {"backbone": backbone, "weights": "none", **settings}}).model
    task = load_task("classification")
    network = build_network(config, task, 10, seed=0, weights=None)
    export_savedmodel(network.full, task, [f"class {number}" for number in range(10)], folder)
    return folder


def raw_rate(export: Path, batch: int, images: int) -> float:
    """Returns images/s of the signature `pixels`."""
    model = tf.saved_model.load(str(export))
    ask = model.signatures[PIXELS]
    size = ask.structured_input_signature[1][PIXELS].shape[1:]
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (batch, *size)).astype(np.float32))
    ask(pixels=pixels)
    began = time.perf_counter()
    for _ in range(images // batch):
        ask(pixels=pixels)["probabilities"].numpy()
    return images // batch * batch / (time.perf_counter() - began)


def predict_rate(predictor: Predictor, photos: Path, output: Path) -> float:
    """Returns images/s of a whole job, from the folder to the CSV."""
    began = time.perf_counter()
    images, total = find_images([photos])
    tally = predict_to_file(predictor, images, total, output, Silent())
    assert (tally.predicted, tally.bad) == (total, 0)
    return tally.predicted / (time.perf_counter() - began)


def peak_memory(export: Path, photos: Path) -> float:
    """Returns MB of a process that predicts a folder."""
    output = photos.with_suffix(".csv")
    peak: float = json.loads(subprocess.check_output([sys.executable, __file__, "--child", export, photos, output]))
    return peak


def link(paths: list[str], count: int, folder: Path) -> Path:
    folder.mkdir()
    for number in range(count):
        os.link(paths[number % len(paths)], folder / f"{number}.jpg")
    return folder


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        export, photos, output = map(Path, sys.argv[2:5])
        predict_rate(Predictor(export), photos, output)
        # Linux's own count: that of getrusage() begins with what the process weighed that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--many", type=int, default=20_000, help="0: memory is not measured")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    raw, whole = 0.0, 0.0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "written").mkdir()
        paths = write_photos(root / "written", min(options.images, 2000))
        few = link(paths, options.images, root / "few")
        export = build_export(options.backbone, root / "export")
        predictor = Predictor(export)
        list(predictor.predict(map(Path, paths[:64])))
        for _ in range(options.repeats):
            raw = max(raw, *(raw_rate(export, batch, min(options.images, 640)) for batch in BATCHES))
            whole = max(whole, predict_rate(predictor, few, root / "few.csv"))
            print(f"raw forward {raw:6.1f} images/s, predict {whole:6.1f} images/s", flush=True)
        print(f"predict / raw forward: {whole / raw:.2f} (bar {BAR})")
        if options.many:
            small, many = (
                build_export("convnet", root / "small", image_size=64),
                link(paths, options.many, root / "many"),
            )
            peaks = [peak_memory(small, folder) for folder in (few, many)]
            print(f"peak memory: {peaks[0]:.0f} MB at {options.images:,} images, {peaks[1]:.0f} at {options.many:,}")
    sys.exit(whole / raw < BAR)


if __name__ == "__main__":
    main()
