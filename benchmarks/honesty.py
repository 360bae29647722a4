"""Whether an evaluation is as honest as it says, and what that costs.

    python benchmarks/honesty.py [FOLDER] [--only coverage,noise,ece,speed] [--idx DIR]

coverage    how often the 95 % intervals cover the truth: benchmarks/interval_coverage.py
noise       how high planted label flips are ranked: benchmarks/label_noise.py; FOLDER is photographs
ece         expected calibration error before and after the temperature: LeNet-5 on Fashion-MNIST, five training seeds
speed       the stage evaluate of 10,000 test images from the bank, figures and report included; 60,000 of train

The images of Fashion-MNIST are those of Debian's package dataset-fashion-mnist. The table ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fashion_mnist import IDX, lay_out
from interval_coverage import coverage
from label_noise import BARS, measure_label_noise

CONFIGS = Path(__file__).parents[1] / "configs"
PARTS = ("coverage", "noise", "ece", "speed")
SEEDS = 5
EVALUATE_SECONDS = 60

#: A head on Lite0 at a size at which 70,000 images pass through it in some minutes.
HEAD_ONLY = (
    "ingest.duplicates=exact", "model.image_size=32", "augment.views=0", "augment.transforms=[]", "train.head.epochs=3",
)  # fmt: skip


def run(root: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Returns `evaluation.json` of a run of the pipeline in a process of its own."""
    command = [sys.executable, "-m", "pipeline", "run", "--name", name, *arguments]
    done = subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.splitlines()[-1]}")
    return dict(json.loads((root / "runs" / name / "evaluation.json").read_text()))


def calibration(idx: Path) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = lay_out(Path(folder) / "fashion-mnist", idx_dir=idx)
        recipe = ["-c", str(CONFIGS / "classic" / "fashion_lenet5.yaml"), "--data", str(images)]
        for seed in range(SEEDS):
            metrics = run(Path(folder), f"seed-{seed}", *recipe, "--set", f"seed={seed}")["metrics"]
            before, after = metrics["test/ece_uncalibrated"], metrics["test/ece"]
            rows.append({"seed": seed, "before": before, "after": after, "top_1": metrics["test/top_1"]})
            print(
                f"ece, seed {seed}: {before:.4f} before, {after:.4f} after; top-1 {metrics['test/top_1']:.4f}",
                flush=True,
            )
    before, after = (statistics.mean(row[name] for row in rows) for name in ("before", "after"))
    holds = all(row["after"] <= row["before"] for row in rows)
    print(
        f"ece: mean {before:.4f} before, {after:.4f} after; after <= before in each: {'holds' if holds else 'MISSED'}"
    )
    return rows


def speed(idx: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = lay_out(root / "fashion-mnist", idx_dir=idx)
        settings = [word for setting in HEAD_ONLY for word in ("--set", setting)]
        run(root, "all", "-c", str(CONFIGS / "photos.yaml"), "--data", str(images), *settings)
        found = run(root, "all", "evaluate")  # anew: by now the bank has the test images too
        seconds = json.loads((root / "runs" / "all" / "run.json").read_text())["stages"]["evaluate"]["seconds"]
    verdict = "holds" if seconds <= EVALUATE_SECONDS else "MISSED"
    passes = f"{found['forward_passes']} forward passes"
    print(f"evaluate: {seconds:.1f} s for 10,000 test images, {passes}; bar {EVALUATE_SECONDS} s: {verdict}")
    return {"seconds": seconds, "forward_passes": passes, "top_1": found["metrics"]["test/top_1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="photographs, one sub-folder a class; without, noise has none"
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--idx", type=Path, default=IDX, metavar="DIR", help="where the *-ubyte.gz files are")
    options = parser.parse_args()
    folder, idx = options.folder, options.idx
    sets = tuple(BARS) if folder else ("fashion_mnist",)
    parts: dict[str, Callable[[], Any]] = {
        "coverage": coverage,
        "noise": lambda: measure_label_noise(folder or Path(), idx, SEEDS, sets),
        "ece": lambda: calibration(idx),
        "speed": lambda: speed(idx),
    }
    asked = options.only.split(",")
    unknown = set(asked) - set(parts)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    print(json.dumps({name: parts[name]() for name in asked}))


if __name__ == "__main__":
    main()
