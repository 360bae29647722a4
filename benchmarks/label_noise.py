"""Planted label flips, and how high the label-noise report ranks them: photos and Fashion-MNIST.

    python benchmarks/label_noise.py FOLDER [--idx DIR] [--seeds 5] [--only photos,fashion_mnist]

Of each data set 5 % of the labels are exchanged for another class, drawn evenly, and the labels are judged as the stage
evaluate does it: folds by cluster, a linear probe on frozen features of EfficientNet-Lite0. Features are computed once
a data set, since no label goes into them. Chance has an average precision of 0.05. FOLDER is photographs, one
sub-folder a class; the images of Fashion-MNIST are those of Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fashion_mnist import IDX, lay_out
from sklearn.metrics import average_precision_score

from pipeline.config import IngestConfig, ModelConfig
from pipeline.evaluate.label_noise import judge_labels
from pipeline.ingest import ingest
from pipeline.ingest.manifest import Manifest
from pipeline.models.backbones import find_backbone
from pipeline.models.network import FEATURES, build_network
from pipeline.models.weights import locate_weights
from pipeline.progress import Silent
from pipeline.tasks.table import load_task
from pipeline.train.dataset import InputSpec, load_images
from pipeline.train.extraction import extract

FLIPPED = 0.05
FASHION_IMAGES, FASHION_SIDE = 5_000, 112
BARS = {"photos": 0.65, "fashion_mnist": 0.6}


def frozen_features(manifest: Manifest, config: ModelConfig) -> np.ndarray:
    """Returns the pretrained backbone's pooled features, `(N, D)`, in the manifest's order."""
    weights = locate_weights(find_backbone(config.backbone), config.weights)
    network = build_network(config, load_task("classification"), len(manifest.classes), seed=0, weights=weights)
    nothing = np.zeros((len(manifest), 0), np.float32)
    images = load_images(manifest, nothing, nothing[:0], 0)
    spec = InputSpec(network.image_size, network.channels, network.resize)
    return extract(network.cut(FEATURES).trunk, images, spec, network.row.extraction_batch, Silent(), "features")


def plant_flips(manifest: Manifest, seed: int) -> tuple[Manifest, np.ndarray]:
    """Returns the manifest with 5 % of its labels exchanged, and which `(N,)`."""
    random, classes = np.random.default_rng(seed), manifest.classes
    wrong = np.zeros(len(manifest), bool)
    wrong[random.choice(len(manifest), round(FLIPPED * len(manifest)), replace=False)] = True
    ids = np.array([classes.index(label) for label in manifest.column("label")])
    ids[wrong] = (ids[wrong] + random.integers(1, len(classes), wrong.sum())) % len(classes)
    labels = pa.array([classes[number] for number in ids])
    return Manifest(manifest.table.set_column(manifest.table.schema.get_field_index("label"), "label", labels)), wrong


def measure(name: str, folder: Path, config: ModelConfig, seeds: int) -> dict[str, Any]:
    """Returns the average precision of the ranking, a value a seed and their mean; prints each."""
    with tempfile.TemporaryDirectory() as cache:
        manifest = ingest(IngestConfig(data=str(folder)), Path(cache), Path(cache), Silent()).manifest
        began = time.perf_counter()
        features = frozen_features(manifest, config)
    print(f"{name}: {len(manifest):,} images, {features.shape[1]:,} features in {time.perf_counter() - began:.0f} s")
    rows = []
    for seed in range(seeds):
        noisy, wrong = plant_flips(manifest, seed)
        began = time.perf_counter()
        noise = judge_labels(noisy, features, seed=seed)
        seconds = time.perf_counter() - began
        row = {
            "average_precision": float(average_precision_score(wrong, noise.scores)),
            "planted": int(wrong.sum()), "suspect": noise.wrong, "hits": int((noise.suspect & wrong).sum()),
            "seconds": round(seconds, 2),
        }  # fmt: skip
        rows.append(row)
        print(
            f"  seed {seed}: average precision {row['average_precision']:.3f}; {row['planted']} planted, "
            f"{row['suspect']} suspects of which {row['hits']} planted; {seconds:.1f} s",
            flush=True,
        )
    mean = float(np.mean([row["average_precision"] for row in rows]))
    clean = judge_labels(manifest, features)
    holds = mean >= BARS[name]
    verdict = "holds" if holds else "MISSED"
    print(f"  mean {mean:.3f}, bar {BARS[name]}: {verdict}; nothing planted: {clean.wrong} suspects")
    return {"mean": mean, "bar": BARS[name], "holds": holds, "suspects_unplanted": clean.wrong, "seeds": rows}


def measure_label_noise(photos: Path, idx_dir: Path = IDX, seeds: int = 5, only: tuple[str, ...] = tuple(BARS)) -> Any:
    """Returns what `measure` does for each data set, by name."""
    found = {}
    if "photos" in only:
        found["photos"] = measure("photos", photos, ModelConfig(image_size=224), seeds)
    if "fashion_mnist" in only:
        with tempfile.TemporaryDirectory() as root:
            folder = lay_out(Path(root) / "fashion", FASHION_IMAGES, idx_dir)
            found["fashion_mnist"] = measure("fashion_mnist", folder, ModelConfig(image_size=FASHION_SIDE), seeds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--idx", type=Path, default=IDX, metavar="DIR", help="where the *-ubyte.gz files are")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default=",".join(BARS), metavar="NAME,...", help="of the data sets")
    options = parser.parse_args()
    found = measure_label_noise(options.folder, options.idx, options.seeds, tuple(options.only.split(",")))
    print(json.dumps({"label_noise": found}))


if __name__ == "__main__":
    main()
