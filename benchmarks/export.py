"""The formats of an export, and `pipeline predict` against the raw forward rate of the same export.

    python benchmarks/export.py [FOLDER] [--only formats|throughput] [--images 2000] [--many 20000] [--repeats 3]

Formats: EfficientNet-Lite0 at 224 px with its ImageNet weights gets a new head for the digits sample, or for the
folder, and is exported to every format. The size, the headline metric and its change are those of `formats.json`; the
rates are of pixels that are there already, one and 32 at a time, on all cores.

Throughput: the raw rate is that of the export's signature `pixels` on one batch that is there already: nothing is read,
decoded or written. Every batch size of BATCHES has its turn and the best counts. The other side reads 400 x 300 JPEGs,
decodes and resizes them, asks the network and writes CSV; loading TensorFlow and the export is counted on neither side.
Both take turns in one process; a ratio is of two neighbours, and the median of the repeats counts. Memory is the peak
of a process of its own, at `--images` and at `--many` files (links to the same ones), with a small network, since its
size does not depend on their number. The weights are random: they cost what others cost.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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
from pipeline.export.formats.measure import images_per_second
from pipeline.export.formats.table import FORMATS
from pipeline.export.inputs import find_images
from pipeline.export.job import predict_to_file
from pipeline.export.predict import Predictor
from pipeline.export.savedmodel import PIXELS, export_savedmodel
from pipeline.models.network import build_network
from pipeline.plan import Request
from pipeline.progress import Silent
from pipeline.run import run_pipeline
from pipeline.tasks.table import load_task
from pipeline.tracking import NullTracker

BAR = 0.9
BATCHES = (16, 32, 64)
RECIPE = (
    "model.backbone=efficientnet_lite0", "model.image_size=224", "augment.views=0", "train.head.epochs=20",
    "export.formats=[onnx, litert]", "export.logged_model=false",
)  # fmt: skip


def formats(data: str, root: Path) -> None:
    """Prints a row a format."""
    request = Request(data=data, settings=RECIPE, stages=("ingest", "build", "train", "export"))
    export = run_pipeline(request, root, tracker=NullTracker()).export
    assert export
    rows = json.loads((export / "formats.json").read_text(encoding="utf-8"))["formats"]
    metric, size = rows[0]["metric"], (224, 224, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, (32, *size)).astype(np.float32)
    print(f"| format | MB | images/s, 1 | 32 | {metric} | change | same label | golden answers off by | allowed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row, found in zip(rows, FORMATS, strict=True):
        many = "-"
        if row["published"]:
            many = f"{images_per_second(found.open(export / found.file), pixels):.0f}"
        cells = [
            f"`{row['name']}`", f"{row['bytes'] / 1e6:.1f}", f"{row['images_per_second']:.0f}", many,
            f"{row[metric]:.3f}", f"{row[f'{metric}_change']:+.3f}", f"{row['agreement']:.3f}",
            f"{row['largest_difference']:.2g}", f"{row['tolerance']:g}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |{'' if row['published'] else ' not published'}")
    print(f"{rows[0]['images']} test images of {data}")


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


def throughput(options: argparse.Namespace, root: Path) -> float:
    """Returns the median ratio of a job's rate to the raw rate beside it, and prints each."""
    (root / "written").mkdir()
    paths = write_photos(root / "written", min(options.images, 2000))
    few = link(paths, options.images, root / "few")
    export = build_export(options.backbone, root / "export")
    predictor = Predictor(export)
    list(predictor.predict(map(Path, paths[:64])))
    ratios = []
    for _ in range(options.repeats):
        raw = max(raw_rate(export, batch, min(options.images, 640)) for batch in BATCHES)
        whole = predict_rate(predictor, few, root / "few.csv")
        ratios.append(whole / raw)
        print(f"raw forward {raw:6.1f} images/s, predict {whole:6.1f} images/s, ratio {ratios[-1]:.2f}", flush=True)
    median = statistics.median(ratios)
    print(f"predict / raw forward: {median:.2f}, the median (bar {BAR})")
    if options.many:
        small = build_export("convnet", root / "small", image_size=64)
        many = link(paths, options.many, root / "many")
        peaks = [peak_memory(small, folder) for folder in (few, many)]
        print(f"peak memory: {peaks[0]:.0f} MB at {options.images:,} images, {peaks[1]:.0f} at {options.many:,}")
    return median


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        export, photos, output = map(Path, sys.argv[2:5])
        predict_rate(Predictor(export), photos, output)
        # Linux's own count: that of getrusage() begins with what the process weighed that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="sample:digits", help="images for the part formats")
    parser.add_argument("--only", choices=("formats", "throughput"))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--many", type=int, default=20_000, help="0: memory is not measured")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="for the part throughput")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if options.only != "throughput":
            formats(options.folder, Path(root))
        if options.only != "formats":
            sys.exit(throughput(options, Path(root)) < BAR)


if __name__ == "__main__":
    main()
