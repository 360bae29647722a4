"""Training from a bank against training live, and what a change of the recipe or the data costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_fit import FINE, HEAD, TASK, fit, make_manifest, recipe

from pipeline.augment.policy import load_policy
from pipeline.config import AugmentConfig, Config, build_config
from pipeline.ingest.manifest import Manifest
from pipeline.models.network import Network, build_network
from pipeline.progress import Silent
from pipeline.train import dataset
from pipeline.train.bank.store import FeatureStore
from pipeline.train.fit import train

NOISE = load_policy(["noise"])
#: One augmented view of each of 40 training images, and 12 of validation.
ALL = 2 * 40 + 12


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_manifest(tmp_path_factory.mktemp("grays"), lambda label, split: label)


def assert_close(one: Network, other: Network, *, atol: float = 1e-4) -> None:
    for mine, its in zip(one.full.get_weights(), other.full.get_weights(), strict=True):
        np.testing.assert_allclose(mine, its, atol=atol, rtol=0)


def show_kept_views(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Has live training show the views that a bank of `kept` views would, in place of fresh ones."""
    original = dataset.epoch_views
    monkeypatch.setattr(dataset, "epoch_views", lambda count, seed, epoch, _: original(count, seed, epoch, kept))


@pytest.mark.parametrize("phases", [{"head": HEAD}, {"head": HEAD | {"epochs": 0}, "fine_tune": FINE | {"epochs": 1}}])
def test_bank_and_live_end_in_the_same_weights(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, phases: dict[str, object]
) -> None:
    bank, outcome = fit(manifest, recipe(**phases), policy=NOISE)
    assert outcome.forward_passes == ALL
    show_kept_views(monkeypatch, 1)
    live, _ = fit(manifest, recipe(**phases, features="live"), policy=NOISE)
    start = build_network(recipe().model, TASK, 3, seed=0, weights=None)
    assert_close(bank, live)
    with pytest.raises(AssertionError):
        assert_close(bank, start, atol=5e-4)  # they went somewhere


def test_a_bank_that_does_not_fit_changes_the_time_and_not_the_weights(manifest: Manifest) -> None:
    phases = {"head": HEAD | {"epochs": 2}, "fine_tune": FINE | {"epochs": 1}}
    bank, _ = fit(manifest, recipe(**phases), policy=NOISE)
    store = FeatureStore(Path("nowhere"), budget=0)
    live, outcome = fit(manifest, recipe(**phases), policy=NOISE, store=store)
    assert outcome.forward_passes == 3 * 52 + 12  # validation once more, for the calibration
    assert not Path("nowhere").exists()
    assert_close(bank, live)


def test_two_phases_cost_one_pass_of_each_view(manifest: Manifest, tmp_path: Path) -> None:
    store, head = FeatureStore(tmp_path), HEAD | {"epochs": 3}
    _, outcome = fit(manifest, recipe(head=head, fine_tune=FINE), policy=NOISE, store=store)
    assert outcome.forward_passes == ALL
    apart, _ = fit(manifest, recipe(head=head), policy=NOISE)
    first = [row for row in outcome.history if row["phase"] == "head"]
    barely = FINE | {"learning_rate": 1e-9}
    again, outcome = fit(manifest, recipe(head=head, fine_tune=barely), policy=NOISE, store=store)
    assert outcome.forward_passes == 0
    assert [row["train/loss"] for row in outcome.history][:3] == [row["train/loss"] for row in first]
    np.testing.assert_allclose(
        again.classifier.get_weights()[0], apart.classifier.get_weights()[0], atol=1e-4
    )  # whatever way its features came


# Never stale, always incremental: a change, and what the second training costs.


def relabelled(manifest: Manifest) -> Manifest:
    labels = manifest.column("label")
    labels[10], labels[45] = labels[45], labels[10]
    place = manifest.table.column_names.index("label")
    return Manifest(manifest.table.set_column(place, "label", pa.array(labels)))


def without(manifest: Manifest, count: int) -> Manifest:
    """Returns the manifest without some of train."""
    train = [row for row, split in enumerate(manifest.column("split")) if split == "train"]
    return Manifest(manifest.table.take([row for row in range(len(manifest)) if row not in train[:count]]))


def resplit(manifest: Manifest) -> Manifest:
    """Returns the manifest with four images of validation and four of train exchanged, and two of test made train."""
    splits = manifest.column("split")
    rows = {name: [row for row, split in enumerate(splits) if split == name] for name in set(splits)}
    for row in rows["validation"][:4] + rows["test"][:2]:
        splits[row] = "train"
    for row in rows["train"][:4]:
        splits[row] = "validation"
    place = manifest.table.column_names.index("split")
    return Manifest(manifest.table.set_column(place, "split", pa.array(splits)))


def with_head(**head: object) -> Config:
    tree = recipe(head=HEAD | {"epochs": 1}).model_dump(mode="json")
    return build_config({**tree, "model": {**tree["model"], "head": head}})


BEFORE = recipe(head=HEAD | {"epochs": 1})


@pytest.mark.parametrize(
    ("first", "second", "config", "policy", "seed", "passes"),
    [
        (None, None, BEFORE, "noise", 0, 0),
        (lambda of: without(of, 10), None, BEFORE, "noise", 0, 10 * 2),
        (None, relabelled, BEFORE, "noise", 0, 0),
        (None, resplit, BEFORE, "noise", 0, 4 + 2 * 2),  # 4 new to train have their plain view; 2 of test have nothing
        (None, None, BEFORE, "blur", 0, 40),
        (None, None, BEFORE, "noise", 1, ALL),  # another seed gives this network other random weights
        (None, None, with_head(hidden=[7, 5], dropout=0.4), "noise", 0, 0),
        (None, None, with_head(pooling="max"), "noise", 0, ALL),
        (None, None, recipe(head={"epochs": 3, "learning_rate": 0.1, "weight_decay": 0.1}), "noise", 0, 0),
        (None, None, recipe(head=HEAD | {"epochs": 1}, batch_size=5, mixup=0.3, ema=0.9), "noise", 0, 0),
    ],
    ids=[
        "nothing", "ten new images", "labels", "split", "policy", "weights", "head", "pooling", "optimizer", "training",
    ],
)  # fmt: skip
def test_a_change_costs_what_it_changes(
    manifest: Manifest, tmp_path: Path, first: Callable[[Manifest], Manifest] | None,
    second: Callable[[Manifest], Manifest] | None, config: Config, policy: str, seed: int, passes: int,
) -> None:  # fmt: skip
    store = FeatureStore(tmp_path)
    fit(first(manifest) if first else manifest, BEFORE, policy=NOISE, store=store)
    changed = second(manifest) if second else manifest
    _, outcome = fit(changed, config, policy=load_policy([policy]), seed=seed, store=store)
    assert outcome.forward_passes == passes


CUTS = [("inception_v3", 75, "mixed8"), ("efficientnet_lite0", 64, "block5"), ("resnet50", 64, "conv5_block1")]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "side", "cut"), CUTS)
def test_the_zoo_is_fine_tuned_from_a_bank_as_it_is_live(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backbone: str, side: int, cut: str
) -> None:
    fine = {"epochs": 1, "from": cut, "learning_rate": 1e-3, "warmup_epochs": 0}
    tree = {"backbone": backbone, "weights": "none", "image_size": side, "batch_norm": "frozen"}

    def tuned(features: str) -> tuple[Network, int]:
        train_config = {"batch_size": 8, "features": features, "head": {"epochs": 0}, "fine_tune": fine}
        config = build_config({"model": tree, "train": train_config})
        network = build_network(config.model, TASK, 3, seed=0, weights=None)
        outcome = train(
            network, TASK, manifest, NOISE, AugmentConfig(views=1), config.train, seed=0,
            store=FeatureStore(tmp_path), progress=Silent(),
        )  # fmt: skip
        return network, outcome.forward_passes

    bank, passes = tuned("bank")
    assert passes == ALL
    show_kept_views(monkeypatch, 1)
    live, _ = tuned("live")
    assert_close(bank, live)
