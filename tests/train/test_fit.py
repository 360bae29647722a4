from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augment.policy import Policy, load_policy
from pipeline.config import AugmentConfig, Config, build_config
from pipeline.files import file_digest
from pipeline.ingest.manifest import Manifest, build_manifest
from pipeline.models.network import Network, build_network
from pipeline.progress import Silent
from pipeline.tasks.table import load_task
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import InputSpec, load_images, view_batches
from pipeline.train.epochs import Sided
from pipeline.train.fit import TrainResult, train

GRAYS = {"dark": 40, "light": 220, "middle": 130}
TASK = load_task("classification")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Noisy grays; the label is the brightness. Dark is more than twice as common as the others."""
    return make_manifest(tmp_path_factory.mktemp("grays"), lambda label, split: label)


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The same with validation labels that are all wrong: the better train is learnt, the worse validation gets."""
    turned = dict(zip(GRAYS, [*GRAYS][1:] + [*GRAYS][:1], strict=True))
    root = tmp_path_factory.mktemp("contrary")
    return make_manifest(root, lambda label, split: turned[label] if split == "validation" else label)


def make_manifest(root: Path, relabel: Callable[[str, str], str]) -> Manifest:
    rng, rows = np.random.default_rng(0), []
    for label, gray in GRAYS.items():
        for number in range(32 if label == "dark" else 16):
            path = root / f"{label}{number}.png"
            pixels = np.clip(rng.normal(gray, 30, (8, 8)), 0, 255)
            Image.fromarray(pixels.astype("uint8")).save(path)
            split = "test" if number < 4 else "validation" if number < 8 else "train"
            rows.append(
                {"id": path.name, "path": str(path), "label": relabel(label, split), "split": split,
                 "sha256": file_digest(path), "cluster": path.name, "width": 8, "height": 8, "format": "PNG",
                 "mode": "L", "bytes": 1}
            )  # fmt: skip
    return build_manifest(rows)


def recipe(**train: object) -> Config:
    """The small CNN, in place of the zoo."""
    model = {"backbone": "convnet", "weights": "none", "image_size": 8, "head": {"hidden": [16], "dropout": 0.2}}
    return build_config({"model": model, "train": {"batch_size": 8, "patience": 0, **train}})


def fit(
    manifest: Manifest, config: Config, *, policy: Policy | None = None, seed: int = 0,
    store: FeatureStore | None = None, **options: Any,
) -> tuple[Network, TrainResult]:  # fmt: skip
    """Trains with an empty bank, unless one is given."""
    network = build_network(config.model, TASK, 3, seed=seed, weights=None)
    with tempfile.TemporaryDirectory() as folder:
        store = store or FeatureStore(Path(folder))
        return network, fit_network(network, manifest, config, store, policy=policy, seed=seed, **options)


def fit_network(
    network: Network, manifest: Manifest, config: Config, store: FeatureStore, *, policy: Policy | None = None,
    seed: int = 0, **options: Any,
) -> TrainResult:  # fmt: skip
    return train(
        network, TASK, manifest, policy or Policy(), AugmentConfig(views=1), config.train, seed=seed, store=store,
        **{"progress": Silent(), **options},
    )  # fmt: skip


HEAD = {"epochs": 8, "learning_rate": 0.02}
FINE = {"epochs": 2, "from": "block1", "learning_rate": 0.001}


def test_the_head_learns_and_the_backbone_stays(manifest: Manifest) -> None:
    config = recipe(head=HEAD)
    untouched = build_network(config.model, TASK, 3, seed=0, weights=None).backbone.get_weights()
    network, outcome = fit(manifest, config)
    assert outcome.history[-1]["train/loss"] < 0.75 * outcome.history[0]["train/loss"]  # type: ignore[operator]
    for before, after in zip(untouched, network.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert outcome.forward_passes == 52  # one for each image of train and validation, none of test


def test_both_phases_are_one_count_of_epochs(manifest: Manifest) -> None:
    told: list[object] = []
    config = recipe(head=HEAD | {"epochs": 2}, fine_tune=FINE)
    _, outcome = fit(manifest, config, on_epoch=told.append)
    assert [(row["epoch"], row["phase"]) for row in outcome.history] == [
        (1, "head"), (2, "head"), (3, "fine_tune"), (4, "fine_tune"),
    ]  # fmt: skip
    assert told == list(outcome.history)
    names = {"train/loss", "train/top_1", "validation/loss", "validation/top_1", "train/learning_rate"}
    assert all(names <= set(row) for row in outcome.history)


def test_fine_tuning_changes_what_is_above_the_cut_only(manifest: Manifest) -> None:
    config = recipe(head=HEAD | {"epochs": 0}, fine_tune=FINE | {"epochs": 1})
    before = build_network(config.model, TASK, 3, seed=0, weights=None)
    after, _ = fit(manifest, config)
    changed = {
        one.name
        for one, other in zip(before.backbone.layers, after.backbone.layers, strict=True)
        if any(not np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))
    }
    assert changed == {"block2_conv"}


def test_forward_passes_are_those_that_were_made(manifest: Manifest) -> None:
    noise = load_policy(["noise"])
    _, bank = fit(manifest, recipe(head=HEAD, fine_tune=FINE), policy=noise)
    assert bank.forward_passes == 2 * 40 + 12  # two views of train; the head's features follow from those at the cut
    _, live = fit(manifest, recipe(head=HEAD | {"epochs": 3}, features="live"), policy=noise)
    assert live.forward_passes == 3 * 52


@pytest.mark.parametrize("features", ["live", "bank"])
def test_a_line_says_what_training_will_cost(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, features: str
) -> None:
    monkeypatch.setattr("pipeline.train.extraction.MEASURED_SECONDS", 0.0)
    said: list[str] = []

    class Listener(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    fit(manifest, recipe(head=HEAD | {"epochs": 2}, features=features), progress=Listener())
    passes = 52 if features == "bank" else 2 * 52
    assert len(said) == 1
    assert f"{passes:,} forward passes" in said[0]
    assert (" images/s, about " in said[0]) == (features == "live")  # 52 images are one batch: nothing to measure
    assert ("more in the bank" if features == "bank" else "no disk") in said[0]


@pytest.mark.parametrize("features", ["live", "bank"])
def test_cutmix_reaches_the_training(manifest: Manifest, features: str) -> None:
    plain, _ = fit(manifest, recipe(head=HEAD | {"epochs": 2}, features=features))
    cut, _ = fit(manifest, recipe(head=HEAD | {"epochs": 2}, features=features, cutmix=1.0))
    assert not np.allclose(plain.classifier.get_weights()[0], cut.classifier.get_weights()[0])


def test_bank_and_live_train_the_same_head_on_the_same_views(manifest: Manifest) -> None:
    bank, _ = fit(manifest, recipe(head=HEAD, features="bank"))
    live, _ = fit(manifest, recipe(head=HEAD, features="live"))
    for one, other in zip(bank.classifier.get_weights(), live.classifier.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_the_best_weights_on_validation_are_kept(contrary: Manifest) -> None:
    network, outcome = fit(contrary, recipe(head=HEAD))
    losses = [float(row["validation/loss"]) for row in outcome.history]
    assert losses[-1] > 1.2 * min(losses)
    assert validation_loss(network, contrary) == pytest.approx(min(losses), rel=1e-3)


def validation_loss(network: Network, manifest: Manifest) -> float:
    rows = manifest.split("validation")
    targets = TASK.encode_targets(rows.column("label"), manifest.classes)
    images = load_images(rows, targets, targets[0], 0)
    pixels = np.concatenate(list(view_batches(images, InputSpec((8, 8), 1), Policy(), 0, 8)))
    return float(TASK.loss(0.0)(targets, network.full(pixels, training=False)))


def test_patience_ends_a_phase(contrary: Manifest) -> None:
    _, outcome = fit(contrary, recipe(head=HEAD | {"epochs": 30}, patience=2))
    losses = [float(row["validation/loss"]) for row in outcome.history]
    assert len(losses) == losses.index(min(losses)) + 1 + 2 < 30


def test_a_fine_tuning_that_harms_is_taken_back(contrary: Manifest) -> None:
    said: list[str] = []

    class Listener(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    head = HEAD | {"epochs": 1, "learning_rate": 1e-4}
    config = recipe(head=head, fine_tune=FINE | {"learning_rate": 0.1, "warmup_epochs": 0, "rate_at_cut": 1.0})
    network, _ = fit(contrary, config, progress=Listener())
    head_only, _ = fit(contrary, recipe(head=head))
    for one, other in zip(network.full.get_weights(), head_only.full.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any("head phase's weights are kept" in line for line in said)


def test_the_same_seed_gives_the_same_weights(manifest: Manifest) -> None:
    policy = load_policy([{"noise": {}}])
    config = recipe(head=HEAD | {"epochs": 2}, fine_tune=FINE | {"epochs": 1}, mixup=0.2)
    first, again = (fit(manifest, config, policy=policy)[0].full.get_weights() for _ in range(2))
    other = fit(manifest, config, policy=policy, seed=1)[0].full.get_weights()
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize(
    "switch", [{"ema": 0.9}, {"label_smoothing": 0.2}, {"mixup": 0.4}, {"class_weights": "none"}], ids=str
)
def test_each_switch_changes_the_outcome(manifest: Manifest, switch: dict[str, object]) -> None:
    plain, _ = fit(manifest, recipe(head=HEAD | {"epochs": 3}))
    switched, outcome = fit(manifest, recipe(head=HEAD | {"epochs": 3}, **switch))
    assert not np.allclose(plain.classifier.get_weights()[0], switched.classifier.get_weights()[0])
    assert np.isfinite([float(row["validation/loss"]) for row in outcome.history]).all()


def test_averaged_weights_are_what_is_measured_and_kept(manifest: Manifest) -> None:
    network, outcome = fit(manifest, recipe(head=HEAD | {"epochs": 3}, ema=0.9))
    best = min(float(row["validation/loss"]) for row in outcome.history)
    assert validation_loss(network, manifest) == pytest.approx(best, rel=1e-3)


def test_balanced_weights_have_mean_one_and_favour_the_rare() -> None:
    targets = TASK.encode_targets(["a"] * 8 + ["b"] * 2, ["a", "b"])
    weights = TASK.target_weights(targets, "balanced")
    np.testing.assert_allclose(weights, [10 / 16, 10 / 4])
    assert (targets @ weights).mean() == pytest.approx(1)
    np.testing.assert_array_equal(TASK.target_weights(targets, "none"), [1, 1])


TWO_REPLICAS = """
import sys, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_fit as these

mirrored, fit, replicas = tf.distribute.MirroredStrategy, keras.Model.fit, []
tf.distribute.MirroredStrategy = lambda: mirrored(["CPU:0", "CPU:1"])

def watched(model, *args, **kwargs):
    replicas.append(model.distribute_strategy.num_replicas_in_sync)
    return fit(model, *args, **kwargs)

keras.Model.fit = watched
manifest = these.make_manifest(Path(sys.argv[2]), lambda label, split: label)
config = these.recipe(head=these.HEAD, fine_tune=these.FINE)
from pipeline.train.fit import strategy_scope

with strategy_scope("mirrored"):
    _, outcome = these.fit(manifest, config)
assert replicas == [2, 2], replicas
losses = [row["train/loss"] for row in outcome.history]
assert losses[7] < 0.75 * losses[0], losses
"""


@pytest.mark.slow
def test_two_replicas_share_the_work(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_REPLICAS, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_auxiliary_classifiers_train_with_their_weight_and_do_not_count_in_validation() -> None:
    config = build_config({"model": {"backbone": "googlenet", "weights": "none", "image_size": 32}}).model
    network = build_network(config, TASK, 3, seed=0, weights=None)
    cut = network.cut("inception_3b")
    assert cut.sided
    for layer in cut.sided._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # so that two calls agree
    inputs = keras.Input(cut.sided.input_shape[1:])
    model = Sided(inputs, cut.sided(inputs), auxiliary_weight=0.3)
    model.compile(keras.optimizers.SGD(0.0), TASK.loss(0.0), metrics=TASK.training_metrics(), jit_compile=False)
    x = np.random.default_rng(0).normal(size=(4, *cut.sided.input_shape[1:])).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    losses = [float(TASK.loss(0.0)(y, logits)) for logits in cut.sided(x, training=False)]
    assert len(losses) == 3
    data = tf.data.Dataset.from_tensors((x, y))
    history = model.fit(data, validation_data=data, shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(losses[0] + 0.3 * (losses[1] + losses[2]), rel=1e-5)]
    assert history["val_loss"] == [pytest.approx(losses[0], rel=1e-5)]
    top_1 = float(np.mean(np.argmax(cut.top(x, training=False), axis=1) == y.argmax(axis=1)))
    assert history["val_top_1"] == [pytest.approx(top_1)]


def test_googlenet_trains_through_its_auxiliary_classifiers(manifest: Manifest) -> None:
    model = {"backbone": "googlenet", "weights": "none", "image_size": 32}
    train = {"batch_size": 8, "head": {"epochs": 0}, "fine_tune": {"epochs": 1, "from": "input"}}
    config = build_config({"model": model, "train": train})
    network = build_network(config.model, TASK, 3, seed=0, weights=None)
    before = [side.get_weights() for side in network.auxiliary.values()]
    with tempfile.TemporaryDirectory() as folder:
        outcome = fit_network(network, manifest, config, FeatureStore(Path(folder)))
    for old, side in zip(before, network.auxiliary.values(), strict=True):
        assert not any(np.array_equal(*both) for both in zip(old, side.get_weights(), strict=True))
    # With two more losses of about log 3 each, at 0.3, what is trained on starts well above what validation shows.
    assert float(outcome.history[0]["train/loss"]) > 1.3 * float(outcome.history[0]["validation/loss"])
