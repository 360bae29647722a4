"""Accuracy against the number of augmented views K in the bank, beside live training, whose views are always new.

    python benchmarks/views.py [FOLDER] [--seeds 3] [--epochs N] [--views 0,1,2,4,8] [--cold] [-o FILE.png]

Handwritten digits by configs/default.yaml (a head, then fine-tuning) and, where FOLDER names labelled photographs,
these by configs/photos.yaml (a head only). All have the same number of epochs (patience 0; --epochs for each phase that
the recipe has) and take the epoch of the best validation loss. Training seed and split seed vary together, so the
spread over seeds is of both; the views' own seed stays. A seed's test images are the same for every K, so log loss is
also compared in pairs with live training, over the test images of all seeds.

The runs share one bank: seconds and forward passes are what was still missing. With --cold the bank is emptied before
each run, and they are those of a first training.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config import load_config
from pipeline.figures import BLUE, GRAY, ORANGE, save_figure
from pipeline.plan import Request
from pipeline.run import run_pipeline
from pipeline.tracking import MemoryTracker
from pipeline.train.bank.store import FeatureStore

CONFIGS = Path(__file__).parents[1] / "configs"
LIVE = "live"
STAGES = ("ingest", "build", "train", "evaluate")


@dataclass(frozen=True)
class Outcome:
    """One run: its test images' log losses in the order of their ids, and what training took."""

    top_1: float
    losses: np.ndarray
    seconds: float
    forward_passes: int


def run_once(recipe: Path, data: str | None, root: Path, views: str, seed: int, options: argparse.Namespace) -> Outcome:
    if options.cold:
        FeatureStore(root / ".cache" / "features").clear()
    keras.backend.clear_session()
    kind = ["train.features=live"] if views == LIVE else ["train.features=bank", f"augment.views={views}"]
    settings = [*kind, f"seed={seed}", f"ingest.split.seed={seed}", "train.patience=0", *epochs(recipe, options.epochs)]
    tracker = MemoryTracker()
    result = run_pipeline(Request(recipe, data, None, tuple(settings), False, STAGES), root, tracker=tracker)
    found = pq.read_table(result.path / "predictions.parquet").sort_by("id").to_pylist()
    of_truth = np.array([row[f"p:{row['label']}"] for row in found])
    seconds, passes = (tracker.metrics[f"train/{name}"][-1][1] for name in ("seconds", "forward_passes"))
    return Outcome(result.metrics["test/top_1"], -np.log(np.maximum(of_truth, 1e-15)), seconds, int(passes))


def epochs(recipe: Path, count: int | None) -> list[str]:
    """Returns the settings that give each phase of a recipe `count` epochs; none where that is None."""
    train = load_config(recipe).train
    phases = {"head": train.head.epochs, "fine_tune": train.fine_tune.epochs}
    return [f"train.{name}.epochs={count}" for name, before in phases.items() if before] if count else []


def error_of_mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def summary(outcomes: Sequence[Outcome], live: Sequence[Outcome]) -> dict[str, Any]:
    """Returns means and standard errors: of top-1 over the seeds, of log loss over the test images of all seeds."""
    losses = np.concatenate([outcome.losses for outcome in outcomes])
    beside_live = losses - np.concatenate([outcome.losses for outcome in live])
    top_1 = [outcome.top_1 for outcome in outcomes]
    return {
        "top_1": float(np.mean(top_1)), "top_1_error": error_of_mean(top_1), "top_1_by_seed": top_1,
        "log_loss": float(losses.mean()), "log_loss_error": error_of_mean(losses),
        "less_live": float(beside_live.mean()), "less_live_error": error_of_mean(beside_live),
        "test_images": len(losses), "seconds": float(np.mean([outcome.seconds for outcome in outcomes])),
        "forward_passes": float(np.mean([outcome.forward_passes for outcome in outcomes])),
    }  # fmt: skip


def measure(recipe: Path, data: str | None, root: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns the summary for each K, and for "live"."""
    outcomes: dict[str, list[Outcome]] = {views: [] for views in (*options.views, LIVE)}
    for seed in range(options.seeds):
        for views, of in outcomes.items():
            of.append(run_once(recipe, data, root, views, seed, options))
    return {views: summary(of, outcomes[LIVE]) for views, of in outcomes.items()}


def print_table(name: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{name}, {found[LIVE]['test_images']} test images over {len(found[LIVE]['top_1_by_seed'])} seeds")
    print("   K   top-1            log loss           less live's, paired   seconds   forward passes")
    for views, row in found.items():
        print(
            f"{views:>4}   {row['top_1']:.3f} ± {row['top_1_error']:.3f}   "
            f"{row['log_loss']:.4f} ± {row['log_loss_error']:.4f}   "
            f"{row['less_live']:+.4f} ± {row['less_live_error']:.4f}    "
            f"{row['seconds']:>8.1f}   {row['forward_passes']:>14,.0f}",
            flush=True,
        )


def views_figure(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Returns top-1 and log loss against K, a column a data set; the bars are standard errors."""
    figure = Figure(figsize=(4.6 * len(found), 5.6))
    panels = figure.subplots(2, len(found), squeeze=False, sharex="col")
    for column, (name, rows) in enumerate(found.items()):
        for axes, (metric, title) in zip(
            panels[:, column], (("top_1", "test top-1"), ("log_loss", "test log loss")), strict=True
        ):
            draw(axes, rows, metric)
            axes.set_title(f"{name}: {title}", loc="left", fontsize=10, parse_math=False)
        panels[1, column].set_xlabel("K, augmented views of each image in the bank")
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def draw(axes: Axes, rows: Mapping[str, Mapping[str, Any]], metric: str) -> None:
    banked = [views for views in rows if views != LIVE]
    places = range(len(banked))
    live, spread = rows[LIVE][metric], np.nan_to_num(rows[LIVE][f"{metric}_error"])
    axes.axhspan(live - spread, live + spread, color=ORANGE, alpha=0.18, lw=0)
    axes.axhline(live, color=ORANGE, lw=1, label="live: new views in each epoch")
    means, errors = ([rows[views][name] for views in banked] for name in (metric, f"{metric}_error"))
    axes.errorbar(places, means, np.nan_to_num(errors), color=BLUE, marker="o", ms=4, lw=1.2, capsize=3, label="bank")
    axes.set_xticks(places, banked)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRAY, alpha=0.2, lw=0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of each phase; the recipe's by default")
    parser.add_argument("--views", default="0,1,2,4,8", help="values of K, with commas between them")
    parser.add_argument("--only", choices=("digits", "photos"), help="one of the two data sets")
    parser.add_argument("--cold", action="store_true", help="empty the bank before each run")
    parser.add_argument("-o", dest="picture", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    options.views = options.views.split(",")
    sources: dict[str, tuple[Path, str | None]] = {}
    if options.only != "photos":
        sources["digits"] = (CONFIGS / "default.yaml", None)
    if options.folder and options.only != "digits":
        sources[options.folder.resolve().name] = (CONFIGS / "photos.yaml", str(options.folder.resolve()))
    if not sources:
        parser.error("--only photos needs FOLDER")
    found = {}
    with tempfile.TemporaryDirectory() as root:
        for name, (recipe, data) in sources.items():
            found[name] = measure(recipe, data, Path(root), options)
            print_table(name, found[name])
    if options.picture:
        save_figure(views_figure(found), options.picture)
    print(json.dumps({"cold": options.cold, **found}))


if __name__ == "__main__":
    main()
