"""Retraining from the feature bank against the loop of the Keras guides: time, accuracy, extraction, cuts and memory.

    python benchmarks/retrain.py FOLDER [--only cold,warm,accuracy,extraction,cut,memory] [--seeds 10] [--repeats 3]
                                        [--cuts inception_v3:mixed9,inception_v3:mixed8] [--smoke]

The other side is what keras.io/guides/transfer_learning and "Image classification from scratch" teach:
image_dataset_from_directory in batches of 32, RandomFlip and RandomRotation(0.1) mapped over the data (the guide's
advice for a CPU) and prefetched, the frozen backbone called with training=False, GlobalAveragePooling2D, Dropout(0.2),
Dense, Adam at its default rate, `fit` with validation data, the last epoch's weights. Ours is configs/photos.yaml with
patience off and, so that both sides learn from the same changes, a flip and a rotation of up to 36 degrees. Both sides:
the same files, splits, backbone, weights, image size, head and number of epochs, float32, oneDNN on.

Every side of every repeat is a process of its own, the sides take turns, and medians count. In the time is all from the
listed files to the last epoch: decoding, augmentation, tracing of graphs, training, validation; for us
also the extraction and its way to the disk. Not in it, on either side: imports, building the network, listing the files
(our ingest, their image_dataset_from_directory), the test images. Keras by itself compiles
the guide's step with XLA, which is slower for some networks on a CPU: the first repeat runs the guide both with it and
without it (jit_compile=False), and the faster of the two goes on and counts.

cold        the first training on an empty bank with one augmented view an image; the bar of 4x is on 10 epochs
warm        the same in a new process on the bank that is there then; it must not need one forward pass
accuracy    test top-1 of ours less the guide's, in pairs over split seeds; the bar is on the one-sided 95 % bound
extraction  images/s from JPEGs of about 400 x 300 with the recipe's augmentation into an empty bank, as a share of the
            bare forward rate of the same trunk on synthetic pixels; the two take turns in one process, and neither
            counts the batches while graphs are built and queues are filled
cut         seconds an epoch of fine-tuning above a cut, from the second epoch on, bank against live and against a
            hand-written loop that sets `trainable = False` up to the cut; random weights, BatchNorm trained by all
memory      the peak of resident memory over that after TensorFlow and the model were loaded, for an epoch of training
            and a validation, both on all rows
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import stats

from pipeline.config import Config, load_config
from pipeline.files import file_digest
from pipeline.images.pixels import encode_png, read_picture
from pipeline.ingest import ingest
from pipeline.ingest.manifest import SPLITS, Manifest, load_manifest, save_manifest
from pipeline.models.backbones import build_scaling, find_backbone
from pipeline.models.weights import load_weights, locate_weights
from pipeline.progress import Silent
from pipeline.train.bank.keys import row_keys
from pipeline.train.bank.store import FeatureStore

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from pipeline.augment.policy import Policy
    from pipeline.models.network import Network

RECIPE = Path(__file__).parents[1] / "configs" / "photos.yaml"
#: What RandomFlip("horizontal") and RandomRotation(0.1) do.
AUGMENTATION = "[flip_left_right, {rotate: {degrees: 36, border: reflect, probability: 1.0}}]"
PARTS = ("cold", "warm", "accuracy", "extraction", "cut", "memory")
#: Weights and the bar of extraction.
NETWORKS = {"efficientnet_lite0": ("imagenet", 0.8), "inception_v3": ("none", 0.9)}
CUT_BARS = {"inception_v3:mixed9": 4.0}
BATCH = 32


@dataclass(frozen=True)
class Sizes:
    """How much is measured: `Sizes()` is the real thing."""

    epochs: int = 10
    tuned_epochs: int = 4
    sides: tuple[tuple[str, int], ...] = (("efficientnet_lite0", 224), ("inception_v3", 299))
    rows: tuple[tuple[str, int], ...] = (("efficientnet_lite0", 1280), ("inception_v3", 400))
    views: tuple[int, ...] = (1, 4)
    raw_seconds: float = 6.0
    remembered: tuple[tuple[int, tuple[int, ...], int], ...] = ((50_000, (2048,), 1000), (5_000, (8, 8, 1280), 2000))

    def side(self, backbone: str) -> int:
        """Returns the side of the images in pixels."""
        return dict(self.sides).get(backbone) or find_backbone(backbone).default_size[0]


SMOKE = Sizes(
    epochs=2, tuned_epochs=2, sides=(("efficientnet_lite0", 64), ("inception_v3", 75)),
    rows=(("efficientnet_lite0", 320), ("inception_v3", 160)), raw_seconds=0.5,
    remembered=((2_000, (2048,), 1000), (200, (8, 8, 1280), 2000)),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What one process trains: `data` holds `manifest.parquet` and the same images in a folder a split."""

    backbone: str
    weights: str
    side: int
    epochs: int
    data: str
    bank: str = ""
    seed: int = 0
    xla: bool = False
    cut: str = ""
    features: str = "bank"


@dataclass(frozen=True)
class Row:
    """A line of the table; `holds` is None where there is no bar."""

    what: str
    measured: str
    bar: str = ""
    holds: bool | None = None


Part = tuple[list[Row], dict[str, Any]]


# The hand-written side.


def guide_data(job: Job) -> dict[str, tf.data.Dataset]:
    import keras

    keras.utils.set_random_seed(job.seed)
    return {
        split: keras.utils.image_dataset_from_directory(
            Path(job.data) / split, batch_size=BATCH, image_size=(job.side, job.side), shuffle=split == "train",
            verbose=False,
        )
        for split in SPLITS
    }  # fmt: skip


def guide_augmented(train: tf.data.Dataset) -> tf.data.Dataset:
    import keras
    import tensorflow as tf

    layers = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]

    def augment(images: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            images = layer(images)
        return images

    augmented = train.map(lambda images, labels: (augment(images), labels), num_parallel_calls=tf.data.AUTOTUNE)
    return augmented.prefetch(tf.data.AUTOTUNE)


def guide_model(job: Job, num_classes: int) -> tuple[keras.Model, keras.Model]:
    """Returns (model, backbone), the backbone from our zoo, frozen."""
    import keras

    row = find_backbone(job.backbone)
    backbone, weights = row.build((job.side, job.side)), locate_weights(row, job.weights)
    if weights:
        load_weights(backbone, row, weights)
    backbone.trainable = False
    inputs = keras.Input((job.side, job.side, 3))
    x = build_scaling(row)(inputs)
    x = backbone(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x)), backbone


def guide_fit(
    job: Job, model: keras.Model, data: dict[str, tf.data.Dataset], callbacks: Sequence[keras.callbacks.Callback] = ()
) -> None:
    import keras
    import tensorflow as tf

    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile="auto" if job.xla else False,
    )
    validation = data["validation"].prefetch(tf.data.AUTOTUNE)
    train = guide_augmented(data["train"])
    model.fit(train, epochs=job.epochs, validation_data=validation, callbacks=list(callbacks), verbose=0)


def train_as_guide(job: Job) -> dict[str, Any]:
    data = guide_data(job)
    model, _ = guide_model(job, len(data["train"].class_names))
    began = time.perf_counter()
    guide_fit(job, model, data)
    seconds = time.perf_counter() - began
    truth = np.concatenate([labels.numpy() for _, labels in data["test"]])
    return {"seconds": seconds, **score(model.predict(data["test"], verbose=0), truth)}


def tune_as_guide(job: Job) -> dict[str, Any]:
    """Returns the seconds of epochs of live fine-tuning, everything up to the cut frozen by hand."""
    import keras

    data = guide_data(job)
    model, backbone = guide_model(job, len(data["train"].class_names))
    backbone.trainable = True
    frozen = [layer.name for layer in backbone.layers].index(job.cut) + 1
    for layer in backbone.layers[:frozen]:
        layer.trainable = False
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    guide_fit(job, model, data, [clock])
    return {"epochs": np.diff(ends).tolist(), "trained": int(sum(np.prod(v.shape) for v in model.trainable_variables))}


# Our side.


def recipe(job: Job) -> Config:
    settings = [
        f"model.backbone={job.backbone}", f"model.weights={job.weights}", f"model.image_size={job.side}",
        "augment.views=1", f"augment.transforms={AUGMENTATION}", f"train.features={job.features}", "train.patience=0",
        f"train.batch_size={BATCH}", f"train.head.epochs={0 if job.cut else job.epochs}",
    ]  # fmt: skip
    if job.cut:
        settings += [f"train.fine_tune.epochs={job.epochs}", f"train.fine_tune.from={job.cut}"]
    return load_config(RECIPE, settings)


def prepare(job: Job) -> tuple[Network, Manifest, Policy, Config]:
    """Returns all that `train` is given, and loads what a run has loaded long before."""
    from pipeline.augment.policy import load_policy
    from pipeline.augment.table import load_albumentations
    from pipeline.models.network import build_network
    from pipeline.tasks.table import load_task

    load_albumentations()
    config, manifest = recipe(job), load_manifest(Path(job.data) / "manifest.parquet")
    network = build_network(
        config.model, load_task("classification"), len(manifest.classes), seed=job.seed,
        weights=locate_weights(find_backbone(job.backbone), job.weights),
    )  # fmt: skip
    return network, manifest, load_policy(config.augment.transforms), config


def train_ours(job: Job) -> dict[str, Any]:
    from pipeline.evaluate.stage import predict_logits
    from pipeline.tasks.table import load_task
    from pipeline.train.fit import train

    network, manifest, policy, config = prepare(job)
    store = FeatureStore(Path(job.bank))
    began = time.perf_counter()
    result = train(
        network, load_task("classification"), manifest, policy, config.augment, config.train,
        seed=job.seed, store=store, progress=Silent(),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    test, batch = manifest.split("test"), network.row.extraction_batch
    logits = predict_logits(network.full, test, resize=network.resize, batch_size=batch, progress=Silent())
    truth = np.array([manifest.classes.index(label) for label in test.column("label")])
    return {
        "seconds": seconds, "forward_passes": result.forward_passes, "epochs": len(result.history),
        **score(logits, truth),
    }  # fmt: skip


def tune_ours(job: Job) -> dict[str, Any]:
    """Returns the seconds of epochs of fine-tuning above the cut, from the bank or live."""
    from pipeline.tasks.table import load_task
    from pipeline.train.fit import train

    network, manifest, policy, config = prepare(job)
    ends: list[float] = []
    train(
        network, load_task("classification"), manifest, policy, config.augment, config.train, seed=job.seed,
        store=FeatureStore(Path(job.bank)), progress=Silent(), on_epoch=lambda row: ends.append(time.perf_counter()),
    )  # fmt: skip
    trained = sum(np.prod(variable.shape) for variable in network.full.trainable_variables)
    return {"epochs": np.diff(ends).tolist(), "trained": int(trained)}


def score(logits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    from pipeline.evaluate.metrics import softmax

    of_truth = softmax(logits)[np.arange(len(truth)), truth]
    top_1 = float(np.mean(logits.argmax(axis=1) == truth))
    return {"top_1": top_1, "log_loss": float(-np.log(np.maximum(of_truth, 1e-15)).mean())}


# Extraction.


class Clock(Silent):
    """A `Progress` that notes when how many images were done."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Notes the time."""
        done = self.marks[-1][1] if self.marks else 0
        self.marks.append((time.perf_counter(), done + steps))


def extraction(
    backbone: str, weights: str, side: int, photos: str, rows: int, views: Sequence[int], repeats: int, seconds: float
) -> dict[str, Any]:
    """Returns for each K pairs of (extraction, bare forward rate) in images/s."""
    from pipeline.augment.policy import load_policy
    from pipeline.config import ModelConfig
    from pipeline.models.network import FEATURES, build_network
    from pipeline.tasks.table import load_task
    from pipeline.train.dataset import InputSpec

    config = ModelConfig(backbone=backbone, weights=weights, image_size=side)
    row = find_backbone(backbone)
    network = build_network(config, load_task("classification"), 2, seed=0, weights=locate_weights(row, weights))
    trunk, batch = network.cut(FEATURES).trunk, row.extraction_batch
    policy = load_policy(load_config(RECIPE).augment.transforms)
    spec = InputSpec(network.image_size, network.channels, network.resize)
    bare = bare_rate(trunk, batch, seconds)
    pairs: dict[str, list[tuple[float, float]]] = {str(kept): [] for kept in views}
    for _ in range(repeats):
        for kept in views:
            paths = sorted(Path(photos).glob("*.jpg"))[: rows // (1 + kept)]
            before = bare()
            rate = extraction_rate(trunk, spec, policy, paths, kept, batch)
            pairs[str(kept)].append((rate, (before + bare()) / 2))
    return {"batch": batch, "pairs": pairs}


def extraction_rate(
    trunk: keras.Model, spec: Any, policy: Policy, paths: Sequence[Path], kept: int, batch: int
) -> float:
    from pipeline.train.bank.fill import Bank, Wanted
    from pipeline.train.dataset import Images

    nothing = np.zeros((len(paths), 0), np.float32)
    seeds = np.arange(len(paths), dtype=np.int64)
    images = Images([str(path) for path in paths], [file_digest(path) for path in paths], seeds, nothing, nothing[:0])
    clock = Clock()
    with tempfile.TemporaryDirectory() as empty:
        bank = Bank(FeatureStore(Path(empty)), trunk, spec, policy, batch_size=batch, dtype="float32", title="bench")
        bank.open([Wanted(images, kept)], clock, "extraction")
        ended = time.perf_counter()
    assert bank.forward_passes == len(paths) * (1 + kept) == clock.marks[-1][1]
    # While the first batch builds the graph, the queues fill with some more: none of these count.
    began, done = clock.marks[min(8, len(clock.marks) // 4)]
    return (clock.marks[-1][1] - done) / (ended - began)


def bare_rate(trunk: keras.Model, batch: int, seconds: float) -> Callable[[], float]:
    """Returns a function that measures, for about so long, how many synthetic images a second pass through."""
    import tensorflow as tf

    answer = tf.function(lambda pixels: trunk(pixels, training=False))
    pixels = tf.random.uniform((batch, *trunk.input_shape[1:]), maxval=255.0)
    answer(pixels).numpy()  # builds the graph

    def measure() -> float:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            count += len(answer(pixels).numpy())
        return count / (time.perf_counter() - began)

    return measure


# Memory.


def description(shape: Sequence[int]) -> dict[str, Any]:
    return {"shape": list(shape), "dtype": "float32", "title": "synthetic rows"}


def fill(bank: Path, count: int, shape: Sequence[int]) -> None:
    """Puts rows of noise on a shelf, in chunks of 32 MB as extraction does."""
    store, random = FeatureStore(bank), np.random.default_rng(0)
    keys, chunk = row_keys([str(number) for number in range(count)]), max(1, 2**25 // (4 * math.prod(shape)))
    with store.shelf(description(shape)).filling() as writer:
        for first in range(0, count, chunk):
            of = keys[first : first + chunk]
            writer.commit(of, random.standard_normal((len(of), *shape), np.float32))


def memory(bank: str, count: int, shape: Sequence[int]) -> dict[str, Any]:
    """Returns the growth in MB over the memory before the shelf was opened."""
    import keras

    from pipeline.train.bank.features import BankedFeatures, feature_batches, plain_batches
    from pipeline.train.dataset import Images

    inputs = x = keras.Input(tuple(shape))
    if len(shape) == 3:
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(64, 1, activation="relu")(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    targets = np.eye(10, dtype=np.float32)[np.arange(count) % 10]
    contents = [str(number) for number in range(count)]
    images = Images(contents, contents, np.arange(count), targets, np.ones(10, np.float32))
    before, began = resident("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    rows = FeatureStore(Path(bank)).shelf(description(shape)).open()
    places = rows.find_intact(row_keys(contents))
    assert (places >= 0).all()
    features = BankedFeatures(images, rows, places, rows, np.empty((0, count), np.int64))
    batches = feature_batches(features, tuple(shape), seed=0, epochs=range(1), batch_size=BATCH)
    steps, validation = math.ceil(count / BATCH), plain_batches(features, tuple(shape))
    model.fit(batches, steps_per_epoch=steps, epochs=1, validation_data=validation, shuffle=False, verbose=0)
    return {
        "rows_mb": count * math.prod(shape) * 4 / 1e6, "before_mb": before, "growth_mb": resident("VmHWM") - before,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def resident(name: str) -> float:
    """Returns a line of /proc/self/status in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


# The parts, from the process that starts the others. It does not load TensorFlow.

SIDES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "guide": train_as_guide, "ours": train_ours, "tune_guide": tune_as_guide, "tune_ours": tune_ours,
}  # fmt: skip
OTHERS: dict[str, Callable[..., dict[str, Any]]] = {"extraction": extraction, "memory": memory}


def in_process(name: str, **options: Any) -> dict[str, Any]:
    """Returns what a function of this file returns in a new process."""
    command = [sys.executable, __file__, "--child", name, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} {options} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, options, json.dumps(result), sep="  ", file=sys.stderr, flush=True)
    return result


def run_job(side: str, job: Job) -> dict[str, Any]:
    return in_process(side, **dataclasses.asdict(job))


def answer_child(name: str, options: dict[str, Any]) -> None:
    result = SIDES[name](Job(**options)) if name in SIDES else OTHERS[name](**options)
    print(json.dumps(result))


class Guide:
    """The hand-written side, with XLA or without: whichever was faster the first time.

    Args:
        side: Of `SIDES`.
        seconds: What counts of a run.
    """

    def __init__(self, side: str, seconds: Callable[[dict[str, Any]], float]) -> None:
        self._side, self._seconds = side, seconds
        self.first: dict[str, dict[str, Any]] = {}

    def run(self, job: Job) -> dict[str, Any]:
        """Returns a run of the faster kind."""
        if self.first:
            return run_job(self._side, dataclasses.replace(job, xla=self._fastest() == "with XLA"))
        for name, xla in (("without XLA", False), ("with XLA", True)):
            self.first[name] = run_job(self._side, dataclasses.replace(job, xla=xla))
        return self.first[self._fastest()]

    def words(self) -> str:
        """Returns how long each kind took."""
        return ", ".join(f"{self._seconds(run):.1f} s {name}" for name, run in self.first.items())

    def _fastest(self) -> str:
        return min(self.first, key=lambda name: self._seconds(self.first[name]))


class Bench:
    """The measurements, each a part of the table.

    Args:
        root: A folder for everything that is written.
        folder: Labelled images, one sub-folder a class.
        sizes: How much is measured.
        options: Of the command line.
    """

    def __init__(self, root: Path, folder: Path, sizes: Sizes, options: argparse.Namespace) -> None:
        self.root, self.sizes, self.options = root, sizes, options
        self.photos = opaque_copies(folder, root / "photos")

    def data(self, split_seed: int) -> str:
        """Returns the folder with the manifest of a split and the same files laid out for the guide."""
        place = self.root / f"split-{split_seed}"
        if place.exists():
            return str(place)
        config = load_config(RECIPE, [f"ingest.data={json.dumps(str(self.photos))}", f"ingest.split.seed={split_seed}"])
        manifest = ingest(config.ingest, self.root / "data", self.root / ".cache", Silent()).manifest
        for split in SPLITS:
            for label in manifest.classes:
                (place / split / label).mkdir(parents=True)
        columns = [manifest.column(name) for name in ("path", "split", "label")]
        for number, (path, split, label) in enumerate(zip(*columns, strict=True)):
            shutil.copyfile(path, place / split / label / f"{number:05d}{Path(path).suffix}")
        save_manifest(manifest, place / "manifest.parquet")
        return str(place)

    def job(self, backbone: str, **more: Any) -> Job:
        """Returns the job of a network with this benchmark's settings, some of them changed."""
        settings: dict[str, Any] = {"weights": NETWORKS[backbone][0], "epochs": self.sizes.epochs, "data": self.data(0)}
        return Job(backbone=backbone, side=self.sizes.side(backbone), **(settings | more))

    def training(self, backbone: str) -> Part:
        """Returns the rows cold and warm."""
        runs: dict[str, list[dict[str, Any]]] = {"guide": [], "cold": [], "warm": []}
        guide = Guide("guide", lambda run: run["seconds"])
        for number in range(self.options.repeats):
            job = self.job(backbone, bank=str(self.root / f"bank-{backbone}-{number}"))
            runs["guide"].append(guide.run(job))
            runs["cold"].append(run_job("ours", job))
            runs["warm"].append(run_job("ours", job))
        seconds = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
        passes = sum(run["forward_passes"] for run in runs["warm"])
        rows, what = [], f"{backbone} at {self.sizes.side(backbone)}"
        for name, bar, holds in (("cold", 4, True), ("warm", 25, passes == 0)):
            ratio = seconds["guide"] / seconds[name]
            measured = f"{ratio:.1f}x  ({seconds['guide']:.1f} s / {seconds[name]:.1f} s)"
            passed = runs[name][0]["forward_passes"] if name == "cold" else passes
            if name in self.options.only:
                title = f"{name} bank, K = 1, {self.sizes.epochs} epochs, {what}, {passed} forward passes"
                rows.append(Row(title, measured, f">= {bar}x", holds and ratio >= bar))
        rows.append(Row(f"the guide, {what}, once", guide.words()))
        return rows, {f"training {backbone}": runs | {"guide_first": guide.first}}

    def accuracy(self) -> Part:
        """Returns the paired differences in test accuracy over the split seeds; one bank serves all of them."""
        pairs = []
        for seed in range(self.options.seeds):
            job = self.job("efficientnet_lite0", data=self.data(seed), seed=seed, bank=str(self.root / "bank-seeds"))
            pairs.append({"guide": run_job("guide", job), "ours": run_job("ours", job)})
        summary = {name: paired([(pair["ours"][name], pair["guide"][name]) for pair in pairs]) for name in
                   ("top_1", "log_loss")}  # fmt: skip
        rows = []
        for name, of in summary.items():
            measured = (
                f"{of['difference']:+.4f} ± {of['standard_error']:.4f}, "
                f"bound {of['bound']:+.4f}  ({of['ours']:.3f} / {of['guide']:.3f})"
            )
            row = Row(f"test {name}, ours less the guide's, {len(pairs)} split seeds", measured)
            rows.append(dataclasses.replace(row, bar="> -0.03", holds=of["bound"] > -0.03) if name == "top_1" else row)
        return rows, {"accuracy": {"summary": summary, "pairs": pairs}}

    def extraction(self, backbone: str) -> Part:
        """Returns extraction as a share of the bare forward rate, for each K."""
        weights, bar = NETWORKS[backbone]
        count = dict(self.sizes.rows)[backbone]
        photos, rows = self.root / f"jpeg-{backbone}", []
        repeated = jpegs(sorted(self.photos.glob("*/*")), photos, count // (1 + min(self.sizes.views)))
        found = in_process(
            "extraction", backbone=backbone, weights=weights, side=self.sizes.side(backbone), photos=str(photos),
            rows=count, views=self.sizes.views, repeats=self.options.repeats, seconds=self.sizes.raw_seconds,
        )  # fmt: skip
        for kept, pairs in found["pairs"].items():
            share = statistics.median(rate / bare for rate, bare in pairs)
            speeds = " / ".join(f"{statistics.median(of):.1f}" for of in zip(*pairs, strict=True))
            what = f"extraction, K = {kept}, {backbone} at {self.sizes.side(backbone)}, batch {found['batch']}"
            rows.append(Row(what, f"{share:.2f}  ({speeds} images/s)", f">= {bar}", share >= bar))
        return rows, {f"extraction {backbone}": found | {"variants_of_each_photo": repeated}}

    def cut(self, where: str) -> Part:
        """Returns seconds an epoch above a cut: bank, live, by hand."""
        backbone, _, cut = where.partition(":")
        epochs: dict[str, list[float]] = {"bank": [], "live": [], "by hand": []}
        guide, trained = Guide("tune_guide", lambda run: statistics.median(run["epochs"])), {}
        bank = str(self.root / f"bank-{backbone}-{cut}")
        for _ in range(self.options.repeats):
            job = Job(backbone, "none", self.sizes.side(backbone), self.sizes.tuned_epochs, self.data(0), bank, cut=cut)
            found = {
                "live": run_job("tune_ours", dataclasses.replace(job, features="live")),
                "bank": run_job("tune_ours", dataclasses.replace(job, epochs=2 * job.epochs)),
                "by hand": guide.run(job),
            }
            for name, run in found.items():
                epochs[name] += run["epochs"]
                trained[name] = run["trained"]
        seconds = {name: statistics.median(of) for name, of in epochs.items()}
        rows = []
        for name in ("live", "by hand"):
            ratio, bar = seconds[name] / seconds["bank"], CUT_BARS.get(where) if name == "live" else None
            measured = f"{ratio:.1f}x  ({seconds[name]:.2f} s / {seconds['bank']:.2f} s)"
            what = f"an epoch above {cut} of {backbone} at {self.sizes.side(backbone)}, against {name}"
            rows.append(Row(what, measured, f">= {bar:g}x", ratio >= bar) if bar else Row(what, measured))
        rows.append(Row(f"an epoch by hand above {cut} of {backbone}, once", guide.words()))
        return rows, {f"cut {where}": {"seconds": epochs, "trained_parameters": trained, "guide_first": guide.first}}

    def memory(self) -> Part:
        """Returns the growth of memory for both kinds of rows."""
        rows, details = [], {}
        for count, shape, bar in self.sizes.remembered:
            bank, what = self.root / f"bank-{count}", f"{count:,} rows of {'x'.join(map(str, shape))}"
            fill(bank, count, shape)
            found = in_process("memory", bank=str(bank), count=count, shape=shape)
            shutil.rmtree(bank)
            growth = found["growth_mb"]
            measured = f"{growth:.0f} MB  ({found['rows_mb']:.0f} MB of rows)"
            rows.append(Row(f"memory, {what}", measured, f"< {bar} MB", growth < bar))
            details[f"memory {what}"] = found
        return rows, details

    def parts(self) -> list[Callable[[], Part]]:
        """Returns what was asked for."""
        only = self.options.only
        calls: list[Callable[[], Part]] = []
        if {"cold", "warm"} & set(only):
            calls += [partial(self.training, name) for name in NETWORKS]
        if "accuracy" in only:
            calls.append(self.accuracy)
        if "extraction" in only:
            calls += [partial(self.extraction, name) for name in NETWORKS]
        if "cut" in only:
            calls += [partial(self.cut, where) for where in self.options.cuts]
        return calls + ([self.memory] if "memory" in only else [])


def opaque_copies(folder: Path, target: Path) -> Path:
    """Returns a folder of the same pictures that every decoder reads alike: RGB JPEGs as they are, others as RGB PNG.

    image_dataset_from_directory drops transparency and EXIF turns; a comparison on such files would be of decoders.
    """
    for path in sorted(path for path in folder.glob("*/*") if path.is_file()):
        contents = path.read_bytes()
        with Image.open(io.BytesIO(contents)) as image:
            plain = image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1
        place = target / path.parent.name / (path.stem + (".jpg" if plain else ".png"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(contents if plain else encode_png(read_picture(contents, None).pixels))
    return target


def jpegs(sources: Sequence[Path], target: Path, count: int) -> int:
    """Writes `count` JPEGs of about 400 x 300; returns how many each photo is the source of, a few pixels cut off."""
    target.mkdir()
    for number in range(count):
        variant, place = divmod(number, len(sources))
        with Image.open(sources[place]) as image:
            photo = image.convert("RGB").crop((variant, variant, *image.size))
        size = (400, 300) if photo.width >= photo.height else (300, 400)
        photo.resize(size, Image.Resampling.BICUBIC).save(target / f"{number:05d}.jpg", quality=90)
    return -(-count // len(sources))


def paired(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Returns the mean difference, its standard error and its one-sided and two-sided 95 % bounds (t distribution)."""
    ours, guide = np.array(pairs).T
    difference, count = ours - guide, len(pairs)
    error = float(difference.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    mean, freedom = float(difference.mean()), max(count - 1, 1)
    one, two = (float(stats.t.ppf(level, freedom)) * error for level in (0.95, 0.975))
    return {
        "ours": float(ours.mean()), "guide": float(guide.mean()), "difference": mean, "standard_error": error,
        "bound": mean - one, "low": mean - two, "high": mean + two,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    state = {"load": os.getloadavg()[0], "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"]}
    return {"cpu": model, "cores": os.cpu_count()} | versions | state


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--seeds", type=int, default=10, help="split seeds of the accuracy")
    parser.add_argument("--repeats", type=int, default=3, help="of every time that is taken")
    parser.add_argument("--cuts", default="inception_v3:mixed9,inception_v3:mixed8", help="BACKBONE:CUT,...")
    parser.add_argument("--smoke", action="store_true", help="everything tiny: does it run at all?")
    options = parser.parse_args()
    options.only, options.cuts = options.only.split(","), options.cuts.split(",")
    unknown = set(options.only) - set(PARTS)
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    if options.smoke:
        options.seeds, options.repeats = min(options.seeds, 2), 1
    return options


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        answer_child(sys.argv[2], json.loads(sys.argv[3]))
        return
    options = parse()
    document: dict[str, Any] = {"machine": machine(), "rows": [], "details": {}}
    print(f"{document['machine']}\n{'what':<82} {'bar':<9} {'holds':<6} measured", flush=True)
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), options.folder.resolve(), SMOKE if options.smoke else Sizes(), options)
        for part in bench.parts():
            rows, details = part()
            for row in rows:
                holds = {True: "yes", False: "NO", None: ""}[row.holds]
                print(f"{row.what:<82} {row.bar:<9} {holds:<6} {row.measured}", flush=True)
            document["rows"] += [dataclasses.asdict(row) for row in rows]
            document["details"] |= details
    print(json.dumps(document))


if __name__ == "__main__":
    main()
