"""The model card of a run: what its stages left in its folder, for `export/card.py` to write."""

from __future__ import annotations

import csv
import datetime
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pipeline.config import Config
from pipeline.export.card import Card, Weights
from pipeline.files import read_json
from pipeline.models.backbones import find_backbone
from pipeline.workdir import RunDir


def load_card(run: RunDir, config: Config) -> Card:
    """Returns the card of a run whose stage train is done."""
    model = read_json(run.file("model.json"))
    return Card(
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        config=config,
        paper=str(find_backbone(config.model.backbone).paper),
        ingest=read_json(run.file("ingest.json")),
        left_out=_left_out(run),
        model=model,
        weights=_weights(config, model.get("weights_sha256")),
        epochs=_epochs(run),
        evaluation=read_json(run.evaluation) if run.stage_state("evaluate") == "done" else None,
    )


def _weights(config: Config, digest: str | None) -> Weights:
    spec = config.model.weights
    published = find_backbone(config.model.backbone).weights
    if spec != "imagenet" or published is None:
        return Weights(spec if spec == "none" else Path(spec).name, None, digest)
    origin = published.origin
    words = f"Python package {origin.removeprefix('package:')}" if origin.startswith("package:") else origin
    return Weights(spec, f"{words}, {published.file_name}", digest)


def _left_out(run: RunDir) -> Mapping[str, int]:
    """Returns how many images were left out, by reason, the commonest first."""
    return dict(Counter(row["reason"] for row in _rows(run.file("quarantine.csv"))).most_common())


def _epochs(run: RunDir) -> Mapping[str, int]:
    """Returns how many epochs each phase took, in order."""
    return dict(Counter(row["phase"] for row in _rows(run.history)))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
