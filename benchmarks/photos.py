"""The photo recipe against a logistic regression on the same frozen features, over split seeds 0 to 9.

    python benchmarks/photos.py FOLDER [--seeds 10]

Both see the same splits and the same backbone. The regression (scikit-learn, standardised features of the plain
training images) takes its C from a grid by validation log loss; the recipe takes its epoch from validation too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.config import load_config
from pipeline.ingest.manifest import Manifest, load_manifest
from pipeline.models.backbones import find_backbone
from pipeline.models.network import FEATURES, build_network
from pipeline.models.weights import locate_weights
from pipeline.plan import Request
from pipeline.progress import Silent
from pipeline.run import run_pipeline
from pipeline.tasks.table import load_task
from pipeline.tracking import NullTracker
from pipeline.train.dataset import InputSpec, load_images
from pipeline.train.extraction import extract

RECIPE = Path(__file__).parents[1] / "configs" / "photos.yaml"
GRID = (0.001, 0.01, 0.1, 1.0, 10.0)


def frozen_features(manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns the backbone's pooled feature of every image, by id."""
    model, task = load_config(RECIPE).model, load_task("classification")
    weights = locate_weights(find_backbone(model.backbone), model.weights)
    network = build_network(model, task, len(manifest.classes), seed=0, weights=weights)
    targets = task.encode_targets(manifest.column("label"), manifest.classes)
    images = load_images(manifest, targets, targets[0], 0)
    spec = InputSpec(network.image_size, network.channels, network.resize)
    trunk, batch = network.cut(FEATURES).trunk, network.row.extraction_batch
    values = extract(trunk, images, spec, batch, Silent(), "features")
    return dict(zip(manifest.column("id"), values, strict=True))


def regression(manifest: Manifest, features: dict[str, np.ndarray]) -> float:
    """Returns the test accuracy of the best regression on validation."""
    data = {}
    for name in ("train", "validation", "test"):
        rows = manifest.split(name)
        data[name] = (np.stack([features[row] for row in rows.column("id")]), rows.column("label"))
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(*data["train"]) for c in GRID]
    losses = [
        log_loss(data["validation"][1], m.predict_proba(data["validation"][0]), labels=m.classes_) for m in models
    ]
    return float(models[int(np.argmin(losses))].score(*data["test"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    options = parser.parse_args()
    folder, rows, features = str(Path(options.folder).resolve()), [], {}
    with tempfile.TemporaryDirectory() as root:
        print("split seed  recipe  regression  difference  seconds")
        for seed in range(options.seeds):
            settings = (*options.settings, f"ingest.split.seed={seed}")
            began = time.perf_counter()
            result = run_pipeline(Request(RECIPE, folder, None, settings), Path(root), tracker=NullTracker())
            seconds = time.perf_counter() - began
            manifest = load_manifest(result.path / "manifest.parquet")
            features = features or frozen_features(manifest)
            row = {
                "recipe": result.metrics["test/top_1"],
                "regression": regression(manifest, features),
                "seconds": seconds,
            }
            rows.append(row)
            gain = row["recipe"] - row["regression"]
            print(
                f"{seed:>10}  {row['recipe']:.3f}   {row['regression']:.3f}       {gain:+.3f}      {seconds:.1f}",
                flush=True,
            )
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    gains = np.array([row["recipe"] - row["regression"] for row in rows])
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else float("nan")
    recipe, plain, seconds = mean["recipe"], mean["regression"], mean["seconds"]
    print(f"      mean  {recipe:.3f}   {plain:.3f}       {gains.mean():+.3f}      {seconds:.1f}")
    print(f"mean difference {gains.mean():+.4f}, standard error {error:.4f}")
    print(json.dumps({"mean_difference": float(gains.mean()), "standard_error": float(error), "runs": rows}))


if __name__ == "__main__":
    main()
