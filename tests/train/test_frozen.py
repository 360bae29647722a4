"""What comes from the bank after training is what the whole network says of the pixels, and costs one pass an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_fit import FINE, HEAD, make_manifest, recipe

from pipeline.augment.policy import Policy
from pipeline.config import AugmentConfig, Config
from pipeline.ingest.manifest import Manifest
from pipeline.models.network import FEATURES, Cut, Network, build_network
from pipeline.progress import Silent
from pipeline.tasks.table import load_task
from pipeline.train.bank.frozen import FrozenFeatures, frozen_cut
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import InputSpec, load_images
from pipeline.train.extraction import extract
from pipeline.train.fit import TrainResult, train

TASK = load_task("classification")
CASES = {
    "head": {"head": HEAD | {"epochs": 2}},
    "fine_tune": {"head": HEAD | {"epochs": 1}, "fine_tune": FINE},
    "cutmix": {"head": HEAD | {"epochs": 1}, "cutmix": 1.0},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_manifest(tmp_path_factory.mktemp("grays"), lambda label, split: label)


def trained(config: Config, manifest: Manifest, store: FeatureStore) -> tuple[Network, TrainResult]:
    network = build_network(config.model, TASK, 3, seed=0, weights=None)
    outcome = train(
        network, TASK, manifest, Policy(), AugmentConfig(views=0), config.train, seed=0, store=store, progress=Silent()
    )
    return network, outcome


def whole(network: Network, rows: Manifest) -> np.ndarray:
    nothing = np.zeros((len(rows), 0), np.float32)
    images = load_images(rows, nothing, nothing[:0], 0)
    spec = InputSpec(network.image_size, network.channels, network.resize)
    return extract(network.full, images, spec, network.row.extraction_batch, Silent(), "")


def frozen(config: Config, network: Network, store: FeatureStore) -> tuple[FrozenFeatures, Cut]:
    cut = frozen_cut(network, config.train)
    assert cut is not None
    before = build_network(config.model, TASK, 3, seed=0, weights=None)
    return FrozenFeatures(before, before.cut(cut.name), store, Silent()), cut


@pytest.mark.parametrize("phases", CASES.values(), ids=CASES)
def test_test_images_pass_once_and_the_others_not_at_all(
    manifest: Manifest, tmp_path: Path, phases: dict[str, object]
) -> None:
    config, store, test = recipe(**phases), FeatureStore(tmp_path), manifest.split("test")
    network, _ = trained(config, manifest, store)
    features, cut = frozen(config, network, store)
    np.testing.assert_allclose(features.logits(cut.top, test), whole(network, test), atol=1e-5)
    assert features.forward_passes == len(test)
    pooled = features.pooled(manifest, "all")
    assert features.forward_passes == len(test)  # train and validation are there, test by now
    again, cut = frozen(config, network, store)
    again.logits(cut.top, test)
    assert again.forward_passes == 0
    trunk = build_network(config.model, TASK, 3, seed=0, weights=None).cut(FEATURES).trunk
    nothing = np.zeros((len(manifest), 0), np.float32)
    spec = InputSpec(network.image_size, network.channels, network.resize)
    expected = extract(trunk, load_images(manifest, nothing, nothing[:0], 0), spec, 32, Silent(), "")
    np.testing.assert_allclose(pooled, expected.reshape(len(manifest), -1), atol=1e-5)


def test_without_room_in_the_bank_there_are_logits_and_no_pooled_features(manifest: Manifest, tmp_path: Path) -> None:
    config, test = recipe(**CASES["fine_tune"]), manifest.split("test")
    network, _ = trained(config, manifest, FeatureStore(tmp_path / "some"))
    features, cut = frozen(config, network, FeatureStore(tmp_path / "none", budget=0))
    np.testing.assert_allclose(features.logits(cut.top, test), whole(network, test), atol=1e-5)
    assert features.pooled(manifest, "all") is None


def test_a_network_that_was_fed_with_pixels_has_no_frozen_cut() -> None:
    def cut_of(**phases: object) -> str | None:
        config = recipe(**phases)
        cut = frozen_cut(build_network(config.model, TASK, 3, seed=0, weights=None), config.train)
        return cut.name if cut else None

    assert cut_of(head=HEAD) == FEATURES
    assert cut_of(head=HEAD, features="live") is None
    assert cut_of(head=HEAD, fine_tune=FINE | {"from": "input"}) is None
    assert cut_of(head=HEAD, fine_tune=FINE) == "block1_pool"


def test_what_training_calibrates_is_what_validation_answers(manifest: Manifest, tmp_path: Path) -> None:
    """Twelve images are too few for a temperature; that it would be fitted on the right logits is seen by the task."""
    seen: list[np.ndarray] = []

    class Listening(type(TASK)):  # type: ignore[misc]
        def fit_calibration(self, logits: np.ndarray, targets: np.ndarray, confident_accuracy: float) -> object:
            seen.extend((logits, targets))
            return super().fit_calibration(logits, targets, confident_accuracy)

    validation = manifest.split("validation")
    for phases in ({"features": "live", "head": HEAD}, *CASES.values()):
        config = recipe(**phases)
        network = build_network(config.model, TASK, 3, seed=0, weights=None)
        outcome = train(
            network, Listening(), manifest, Policy(), AugmentConfig(views=0), config.train, seed=0,
            store=FeatureStore(tmp_path), progress=Silent(),
        )  # fmt: skip
        np.testing.assert_allclose(seen[-2], whole(network, validation), atol=1e-4)
        np.testing.assert_array_equal(seen[-1], TASK.encode_targets(validation.column("label"), manifest.classes))
        assert outcome.calibration.images == len(validation)
