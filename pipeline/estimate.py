"""What a run will take, in one screen before its first epoch: arithmetic on what is known by then.

The bytes of a layer and of records are measured ones, rounded up; `tests/test_estimate.py` holds them against what runs
have really written.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.export.golden import BYTE_BUDGET
from pipeline.ingest.manifest import Manifest
from pipeline.models.network import Network
from pipeline.space import Need, by_disk, free_bytes, in_words, size_on_disk
from pipeline.train.demand import Demand
from pipeline.workdir import RunDir

#: Beside its weights a `.keras` file has so many bytes a layer, and an export, whose graph stands in three signatures.
_KERAS_LAYER, _EXPORT_LAYER = 3_900, 8_300

#: Of an export: generated golden images and the script that asks them.
_PROOF = 520_000

#: Figures and the page that holds them; what a picture of an explanation adds to both; and what each pixel of the side
#: of an image adds, which is shown with so many at most.
_FIGURES, _EXPLANATION, _SIDE, _SHOWN_SIDE = 1_500_000, 250_000, 55_000, 168

#: Of `predictions.parquet` a row, and there a class.
_PREDICTION_ROW, _PREDICTION_CLASS = 120, 9

#: Metrics in MLflow's database, an epoch.
_EPOCH_RECORDS = 3_000

#: Checkpoints that are there at once: the newest, the one before, and the one that is being written.
_CHECKPOINTS = 3


@dataclass(frozen=True)
class Facts:
    """What is known before the first epoch.

    Attributes:
        demand: Of the training.
        counts: Images by split.
        classes: How many.
        weights: Bytes of the network's.
        side: Of the network's input, the longer one, in pixels.
        layers: Of the network, those of its parts counted and not the parts.
        golden: Bytes of the test images that go into the export.
    """

    demand: Demand
    counts: Mapping[str, int]
    classes: int
    weights: int
    side: int
    layers: int
    golden: int


def gather(network: Network, manifest: Manifest, demand: Demand, golden: int) -> Facts:
    """Returns the facts of a network that is built and of images that are found; `golden` of them may be exported."""
    sizes = sorted(manifest.split("test").table.column("bytes").to_pylist(), reverse=True)[:golden]
    return Facts(
        demand=demand,
        counts={split: sum(counts.values()) for split, counts in manifest.counts().items()},
        classes=len(manifest.classes),
        weights=sum(4 * math.prod(variable.shape) for variable in network.full.variables),
        side=max(network.image_size),
        layers=sum(1 for _ in network.full._flatten_layers()),
        golden=min(sum(sizes), BYTE_BUDGET),
    )


def disk_needs(
    facts: Facts, config: Config, stages: Sequence[str], run: RunDir, bank: Path, mlruns: Path | None
) -> list[Need]:
    """Returns what the stages from train on write, the largest at once, and where.

    Args:
        facts: What is known.
        config: The recipe.
        stages: Those that will be run.
        run: The run's folder.
        bank: Where features are kept.
        mlruns: Where MLflow's copies go; None where they go to no disk of this machine.
    """
    demand, needs = facts.demand, list[Need]()
    records = _records(facts, config, stages)
    export = _export(facts, config) if "export" in stages else 0
    if "train" in stages:
        kept = size_on_disk(run.checkpoints)  # of an interrupted training
        needs.append(Need("features", bank, _features(facts, stages)))
        needs.append(Need("checkpoints", run.checkpoints, max(0, _CHECKPOINTS * demand.checkpoint - kept)))
        needs.append(Need("the model", run.path, facts.weights + _KERAS_LAYER * facts.layers))
    needs.append(Need("records and pictures", run.path, records))
    if export:
        needs.append(Need("the export", run.path, export))
    if mlruns:
        logged = export * (2 if config.export.logged_model else 1)
        epochs = config.train.head.epochs + config.train.fine_tune.epochs
        needs.append(Need("MLflow's copies", mlruns, records + logged + epochs * _EPOCH_RECORDS))
        if config.export.logged_model and export:
            needs.append(Need("a passing copy", Path(tempfile.gettempdir()), export))
    return [need for need in needs if need.size]


def _features(facts: Facts, stages: Sequence[str]) -> int:
    demand = facts.demand
    return demand.bank + (demand.judged if "evaluate" in stages else 0)


def _export(facts: Facts, config: Config) -> int:
    answers = (config.export.golden + 16) * (200 + 25 * facts.classes)
    labels = 3 * 30 * facts.classes
    return facts.weights + _EXPORT_LAYER * facts.layers + _PROOF + facts.golden + answers + labels


def _records(facts: Facts, config: Config, stages: Sequence[str]) -> int:
    if "evaluate" not in stages:
        return 100_000
    test = facts.counts["test"] * (_PREDICTION_ROW + _PREDICTION_CLASS * facts.classes)
    pictures = _FIGURES + config.evaluate.explain * _EXPLANATION + min(facts.side, _SHOWN_SIDE) * _SIDE
    return pictures + test


def lines(facts: Facts, needs: Sequence[Need], root: Path) -> list[str]:
    """Returns the screen: images, passes and time, memory, and for each disk what will be written where."""
    demand = facts.demand
    counts = ", ".join(f"{count:,} {split}" for split, count in facts.counts.items())
    used, free = memory_used(), memory_free()
    short = "; more than there is: expect swapping, or lower train.batch_size" if free and demand.memory > free else ""
    found = [
        f"images:  {counts}, in {facts.classes} classes",
        f"passes:  {_passes(demand)}",
        f"memory:  about {in_words(demand.memory)} beside {in_words(used)} in use, {in_words(free)} free{short}",
    ]
    for disk in by_disk(needs):
        total = in_words(sum(need.size for need in disk))
        found.append(f"disk:    at most {total} of {in_words(free_bytes(disk[0].path))} that are free")
        found += [f"{in_words(need.size):>18}  {need.what}: {_shown(need.path, root)}" for need in disk]
    return found


def _passes(demand: Demand) -> str:
    if not demand.passes:
        return "none, the bank has all features; the epochs take seconds to minutes"
    of = f"at most {demand.passes:,} through frozen layers" + (f" ({demand.live})" if demand.live else "")
    if demand.rate is None:
        return f"{of}; too few to be worth timing"
    time = _time(demand.passes / demand.rate)
    return f"{of}, about {time} at the {demand.rate:,.0f} images/s measured now; what is trained above comes on top"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _shown(path: Path, root: Path) -> str:
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)


def memory_used() -> int:
    """Returns the bytes of memory that this process takes now; 0 where the system does not say."""
    return _kib("/proc/self/status", "VmRSS:")


def memory_free() -> int:
    """Returns the bytes of memory that can be had, within the limit of a container too; 0 where nobody says."""
    free = _kib("/proc/meminfo", "MemAvailable:")
    try:
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, max(0, most - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return free


def _kib(file: str, name: str) -> int:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)
