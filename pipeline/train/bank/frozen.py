"""What the frozen part of a trained network answers, for the stages after train: from the bank, each image once."""

from __future__ import annotations

import keras
import numpy as np

from pipeline.augment.policy import Policy
from pipeline.config import TrainConfig
from pipeline.ingest.manifest import Manifest
from pipeline.models.cuts import INPUT
from pipeline.models.network import FEATURES, Cut, Network
from pipeline.progress import Progress
from pipeline.train.bank.features import BankedFeatures, Features
from pipeline.train.bank.fill import Bank, Lower, Wanted
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import InputSpec, load_images
from pipeline.train.extraction import padded_forward


def head_cut(network: Network, config: TrainConfig) -> Cut:
    """Returns the cut of the head phase."""
    # Cutmix pastes a box: into feature maps in a bank, which must not have been pooled then.
    return network.cut(1.0 if config.cutmix and config.features == "bank" else FEATURES)


def frozen_cut(network: Network, config: TrainConfig) -> Cut | None:
    """Returns the cut whose features the last phase of a training was fed with, None where it was fed with pixels."""
    if config.features == "live":
        return None
    if not config.fine_tune.epochs:
        return head_cut(network, config)
    cut = network.cut(config.fine_tune.from_)
    return None if cut.name == INPUT else cut


class FrozenFeatures:
    """The features of images below a cut, and the pooled ones of the same network: what a linear probe is fitted on.

    Args:
        network: With the weights that training began from; below the cut they are the trained ones.
        cut: Of this network, as `frozen_cut` returns it.
        store: The feature bank.
        progress: Shown what is computed; features that training computed are there.

    Attributes:
        forward_passes: Images passed through frozen layers so far.
    """

    def __init__(self, network: Network, cut: Cut, store: FeatureStore, progress: Progress) -> None:
        self._network, self._cut, self._store, self._progress = network, cut, store, progress
        self._spec = InputSpec(network.image_size, network.channels, network.resize)
        self._banks: list[Bank] = []

    @property
    def forward_passes(self) -> int:
        """Images passed through the frozen layers so far, each of them once."""
        return sum(bank.forward_passes for bank in self._banks)

    def features(self, rows: Manifest, title: str) -> Features:
        """Returns the features of images as they are.

        Raises:
            DataError: A file is not what it was at ingest.
        """
        return self._open(self._cut, rows, title)

    def logits(self, top: keras.Model, rows: Manifest) -> np.ndarray:
        """Returns what the trained layers above the cut answer for images as they are, `(N, ...)` float32.

        Raises:
            DataError: A file is not what it was at ingest.
        """
        features, size = self.features(rows, "test"), self._network.row.extraction_batch
        forward = padded_forward(top, size)
        parts = [
            forward(values[start : start + size])
            for values in features.plain()
            for start in range(0, len(values), size)
        ]
        return np.concatenate(parts)

    def pooled(self, rows: Manifest, title: str) -> np.ndarray | None:
        """Returns the pooled features of images as they are, `(N, D)` float32; None where the bank cannot hold them."""
        features = self.features(rows, title)
        if not isinstance(features, BankedFeatures):
            return None
        if self._cut.name != FEATURES:
            lower = Lower(self._cut.name, self._network.rest(self._cut.name, FEATURES), [features])
            features = self._open(self._network.cut(FEATURES), rows, title, lower)
        if not isinstance(features, BankedFeatures):
            return None
        pooled = np.concatenate(list(features.plain()))
        return pooled.reshape(len(pooled), -1)

    def _open(self, cut: Cut, rows: Manifest, title: str, lower: Lower | None = None) -> Features:
        nothing = np.zeros((len(rows), 0), np.float32)
        bank = Bank(
            self._store, cut.trunk, self._spec, Policy(), batch_size=self._network.row.extraction_batch,
            dtype="float32", title=f"{self._network.row.name} to {cut.name}", lower=lower,
        )  # fmt: skip
        self._banks.append(bank)
        (features,) = bank.open([Wanted(load_images(rows, nothing, nothing[:0], 0))], self._progress, title)
        return features
