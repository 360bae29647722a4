"""The classic architectures trained from random weights: test accuracy and time of each recipe, and ConvNet's speed.

    python benchmarks/classic.py [--only digits,fashion,speed] [--recipe NAME]... [--idx DIR] [--seeds 3] [--keep DIR]

digits      every recipe of configs/classic on scikit-learn's digits, and configs/convnet.yaml: one run of split seed 0
fashion     ConvNet and LeNet-5 on the whole of Fashion-MNIST, as Debian's package dataset-fashion-mnist has it; ConvNet
            in six epochs, and in 25 with augmentation. Means over training seeds where the training is short.
speed       images/s of ConvNet in `train` against `model.fit` on the same pixels as arrays in memory, turn by turn

Each run is a process of its own. The table ends in one line of JSON. With --keep the runs stay, for
`pipeline models --plot` and `pipeline ui` in that folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from fashion_mnist import CLASSES, IDX, lay_out, load_idx

from pipeline.config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
PARTS = ("digits", "fashion", "speed")
#: Recipe, and whether it is short enough for several seeds.
FASHION = {"fashion_convnet": True, "fashion_lenet5": True, "fashion_convnet_long": False}
BARS = {
    "convnet": 0.985,
    "resnet18": 0.98,
    "fashion_convnet": 0.91,
    "fashion_lenet5": 0.885,
    "fashion_convnet_long": 0.925,
}
SPEED_BAR = 0.95


def run(recipe: Path, folder: Path, name: str, *options: str) -> dict[str, Any]:
    """Returns test accuracy, parameters and wall time of one run of a recipe."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "run", "-c", str(recipe), "--name", name, *options]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.splitlines()[-1]}")
    seconds = time.perf_counter() - began
    metrics = json.loads((folder / "runs" / name / "evaluation.json").read_text())["metrics"]
    model = json.loads((folder / "runs" / name / "model.json").read_text())
    return {"recipe": name, "top_1": metrics["test/top_1"], "parameters": model["parameters"], "seconds": seconds}


def digits(chosen: list[str], folder: Path) -> list[dict[str, Any]]:
    recipes = [CONFIGS / "convnet.yaml", *sorted(CONFIGS.glob("classic/*.yaml"))]
    rows = []
    for recipe in recipes:
        if recipe.stem in FASHION or (chosen and recipe.stem not in chosen):
            continue
        rows.append(show(run(recipe, folder, recipe.stem)))
    return rows


def fashion(chosen: list[str], folder: Path, idx: Path, seeds: int) -> list[dict[str, Any]]:
    images = lay_out(folder / "fashion-mnist", idx_dir=idx)
    rows = []
    for name, short in FASHION.items():
        if chosen and name not in chosen:
            continue
        recipe, found = CONFIGS / "classic" / f"{name}.yaml", []
        for seed in range(seeds if short else 1):
            options = ["--data", str(images), "--set", f"seed={seed}"]
            found.append(run(recipe, folder, f"{name}-{seed}", *options))
        mean = {key: statistics.mean(row[key] for row in found) for key in ("top_1", "parameters", "seconds")}
        rows.append(show({"recipe": name, **mean, "runs": [row["top_1"] for row in found]}))
    return rows


def show(row: dict[str, Any]) -> dict[str, Any]:
    bar = BARS.get(row["recipe"])
    holds = "" if bar is None else f"  bar {bar}: {'holds' if row['top_1'] >= bar else 'MISSED'}"
    several = f"  {[round(one, 4) for one in row['runs']]}" if len(row.get("runs", [])) > 1 else ""
    print(
        f"{row['recipe']:22} {row['top_1']:.4f}  {row['parameters']:>12,.0f}  {row['seconds']:7.1f} s{holds}{several}",
        flush=True,
    )
    return row | {"bar": bar}


def speed(idx: Path, repeats: int = 3) -> dict[str, Any]:
    """Returns images/s of both, the best of some turns: what disturbs a measurement only ever slows it."""
    import keras
    import tensorflow as tf

    from pipeline.augment.policy import Policy
    from pipeline.models.network import build_network
    from pipeline.tasks.table import load_task
    from pipeline.train.dataset import Images, InputSpec, live_batches, untuned
    from pipeline.train.epochs import Epochs, Quick, fit_epochs

    config = load_config(CONFIGS / "classic" / "fashion_convnet.yaml", ("train.fine_tune.epochs=1",))
    pixels, ids = load_idx("train", 12_000, idx)
    pixels = pixels[..., None].astype(np.float32)
    targets = np.eye(len(CLASSES), dtype=np.float32)[ids]
    task, count, batch = load_task("classification"), len(pixels), config.train.batch_size

    class Counter:
        def advance(self, steps: int = 1, note: str = "") -> None:
            """Does nothing."""

    def network() -> Any:
        return build_network(config.model, task, len(CLASSES), seed=0, weights=None)

    def ours() -> float:
        cut = network().cut("input")
        inputs = keras.Input(cut.trunk.input_shape[1:])
        model = Quick(inputs, cut.top(cut.trunk(inputs)))
        images = Images([""] * count, [""] * count, np.arange(count), targets, np.ones(len(CLASSES), np.float32))
        data = live_batches(
            images, InputSpec((28, 28), 1), Policy(), seed=0, epochs=range(3), batch_size=batch,
            decoded=tf.constant(pixels),
        )  # fmt: skip
        validation = untuned(tf.data.Dataset.from_tensors((pixels[:batch], targets[:batch])))
        times: list[float] = []
        epochs = Epochs("fine_tune", range(3), -(-count // batch), data, validation)
        began = [time.perf_counter()]

        def log(_: object) -> None:
            times.append(time.perf_counter() - began[0])
            began[0] = time.perf_counter()

        fit_epochs(
            model, epochs, config.train, task, trained_backbone=[], seed=0, scale_loss=False, bar=Counter(), log=log
        )  # fmt: skip
        return count / min(times[1:])

    def bare() -> float:
        model = network().full
        model.compile(
            keras.optimizers.Adam(0.001), keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
            jit_compile=False,
        )  # fmt: skip
        times: list[float] = []

        class Clock(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.began = time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                times.append(time.perf_counter() - self.began)

        model.fit(
            pixels, targets, batch_size=batch, epochs=3, verbose=0, validation_data=(pixels[:batch], targets[:batch]),
            callbacks=[Clock()],
        )  # fmt: skip
        return count / min(times[1:])

    rates = {"ours": 0.0, "bare": 0.0}
    for _ in range(repeats):
        rates["bare"] = max(rates["bare"], bare())
        rates["ours"] = max(rates["ours"], ours())
    ratio = rates["ours"] / rates["bare"]
    print(
        f"ConvNet: train {rates['ours']:,.0f} images/s, model.fit on arrays {rates['bare']:,.0f} images/s, ratio "
        f"{ratio:.2f}  bar {SPEED_BAR}: {'holds' if ratio >= SPEED_BAR else 'MISSED'}"
    )
    return {"recipe": "speed", **rates, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--recipe", action="append", default=[], help="this recipe alone; several times for several")
    parser.add_argument("--idx", type=Path, default=IDX, metavar="DIR", help="where the *-ubyte.gz files are")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of the short recipes on Fashion-MNIST")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder to make the runs in")
    options = parser.parse_args()
    parts, rows = options.only.split(","), []
    if options.keep:
        options.keep.mkdir(parents=True)
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as root:
        if {"digits", "fashion"} & set(parts):
            print(f"{'recipe':22} {'top-1':6}  {'parameters':>12}  {'time':>9}")
        if "digits" in parts:
            rows += digits(options.recipe, Path(root))
        if "fashion" in parts:
            rows += fashion(options.recipe, Path(root), options.idx, options.seeds)
        if "speed" in parts:
            rows.append(speed(options.idx))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
