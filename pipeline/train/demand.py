"""What a training will compute, write and hold in memory: counted before it begins, from the network and the bank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import TrainConfig
from pipeline.models.cuts import INPUT
from pipeline.models.network import FEATURES, Cut, Network
from pipeline.train.bank.features import VALIDATION_BYTES
from pipeline.train.bank.fill import Bank, Lower, Wanted
from pipeline.train.bank.frozen import head_cut
from pipeline.train.bank.shelf import ROW_OVERHEAD
from pipeline.train.bank.store import FeatureStore
from pipeline.train.checkpoint import checkpoint_bytes
from pipeline.train.dataset import MEMORY_BYTES
from pipeline.train.extraction import measure_speed, padded_forward
from pipeline.train.fit import TrainData
from pipeline.train.search import search_grid, trial_count

#: Multiplications with an addition below which a speed is not measured: a slow machine is through in a minute.
SMALL = 10**12

_FLOAT = 4  # bytes

#: What TensorFlow takes for the graphs of a training, and for each layer in them; measured on two networks.
_GRAPHS, _GRAPH_LAYER = 48 * 2**20, 9 * 2**20 // 10

#: What a checkpoint says in JSON of an epoch, or of one of a trial.
_ROW_BYTES = 400


@dataclass(frozen=True)
class Demand:
    """What a training takes, at most: one that stops early takes less.

    Attributes:
        passes: Of images through frozen layers.
        rate: Of these a second, measured; None where there are too few to be worth it.
        bank: Bytes that the feature bank grows by.
        judged: Bytes that it grows by once more when the test images are judged.
        live: Why the bank is not used; None where it is.
        checkpoint: Bytes of a checkpoint.
        memory: Bytes, beside what the network takes that is built already.
    """

    passes: int
    rate: float | None
    bank: int
    judged: int
    live: str | None
    checkpoint: int
    memory: int


@dataclass(frozen=True)
class _Phase:
    """One phase, counted while the network was parted at its cut: which variables are trained depends on that."""

    cut: Cut
    live: bool
    epochs: int
    variables: Sequence[int]
    trained: Sequence[int]

    def arrays(self, ema: bool) -> list[int]:
        """Returns the bytes of the arrays that a checkpoint of it holds."""
        moments = 3 if ema else 2
        return [*self.variables, *self.variables, *(size for size in self.trained for _ in range(moments))]


def count_demand(
    network: Network, data: TrainData, config: TrainConfig, store: FeatureStore, test_images: int
) -> Demand:
    """Returns what a training takes. A few batches are passed through the network where there are many to come."""
    phases = _phases(network, config)
    images = len(data.train) + len(data.validation)
    banked = [phase for phase in phases if not phase.live]
    passes, size, reason = _of_bank(network, data, config, store, banked)
    live = [*(banked if reason else ()), *(phase for phase in phases if phase.live)]
    passes = (0 if reason else passes) + sum(phase.epochs * images for phase in live)
    if reason and not phases[-1].live:
        passes += len(data.validation)  # once more, to fit the calibration
    checkpoint = _checkpoint(phases, config)
    return Demand(
        passes=passes,
        rate=_measured(network, data, phases, passes),
        bank=0 if reason else size,
        judged=0 if live else _judged(network, phases[-1], images, test_images),
        live=reason or ("train.features is live" if live and not banked else None),
        checkpoint=checkpoint,
        memory=_memory(network, data, config, phases) + 2 * checkpoint,  # its arrays, and its copy in a file's cache
    )


def _phases(network: Network, config: TrainConfig) -> list[_Phase]:
    wanted = []
    if config.head.epochs:
        wanted.append((head_cut(network, config), config.head.epochs))
    if config.fine_tune.epochs:
        wanted.append((network.cut(config.fine_tune.from_), config.fine_tune.epochs))
    phases = []
    for found, epochs in wanted:
        cut = network.cut(found.name)  # again: another cut since then has set other layers trainable
        top = cut.sided or cut.top
        live = config.features == "live" or cut.name == INPUT
        phases.append(_Phase(cut, live, epochs, _sizes(top.variables), _sizes(top.trainable_variables)))
    return phases


def _of_bank(
    network: Network, data: TrainData, config: TrainConfig, store: FeatureStore, phases: Sequence[_Phase]
) -> tuple[int, int, str | None]:
    """Returns forward passes, bytes, and why there is no room for the bytes, if there is not."""
    cuts = {phase.cut.name: phase.cut for phase in reversed(phases)}  # fine-tuning's first: the head's follows from it
    passes = size = 0
    lower: str | None = None
    for cut in cuts.values():
        rest = Lower(lower, network.rest(lower, cut.name), ()) if lower else None
        bank = Bank(
            store, cut.trunk, data.spec, data.policy, batch_size=network.row.extraction_batch,
            dtype=config.bank.dtype, title="", lower=rest,
        )  # fmt: skip
        rows, more, reason = bank.lacking([Wanted(data.train, data.kept), Wanted(data.validation)])
        if reason:
            return 0, 0, reason
        passes, size = passes + (0 if lower else rows), size + more
        lower = cut.name
    return passes, size, None


def _judged(network: Network, phase: _Phase, images: int, test_images: int) -> int:
    """Returns the bytes of the test images' rows and, of all images, of the pooled ones that they are compared by."""
    rows = test_images * (_FLOAT * math.prod(phase.cut.top.input_shape[1:]) + ROW_OVERHEAD)
    if phase.cut.name == FEATURES:
        return rows
    pooled = _FLOAT * math.prod(network.pooling.output_shape[1:]) + ROW_OVERHEAD
    return rows + (images + test_images) * pooled


def _checkpoint(phases: Sequence[_Phase], config: TrainConfig) -> int:
    """Returns the bytes of the largest checkpoint: fine-tuning's holds the head that it began from, too."""
    ema = config.ema > 0
    sizes = [phase.arrays(ema) for phase in phases]
    if len(sizes) > 1:
        sizes[1] += phases[0].variables
    trials = trial_count(search_grid(config, 0.0)[1]) if config.searched else 0
    rows = config.head.epochs * (1 + trials) + config.fine_tune.epochs
    return max(map(checkpoint_bytes, sizes)) + rows * _ROW_BYTES


def _measured(network: Network, data: TrainData, phases: Sequence[_Phase], passes: int) -> float | None:
    """Returns passes a second through the lowest trunk that there is; None where all are done in no time."""
    height, width = network.row.default_size
    own = math.prod(network.image_size) / (height * width) * network.row.multiply_adds
    if passes * own < SMALL:
        return None
    size = network.row.extraction_batch
    return measure_speed(padded_forward(phases[-1].cut.trunk, size), data.spec, size)


def _memory(network: Network, data: TrainData, config: TrainConfig, phases: Sequence[_Phase]) -> int:
    """Returns bytes: of pixels or features that are kept, of what a step makes, of weights kept twice, of graphs."""
    pixels = _FLOAT * math.prod((*network.image_size, network.channels))
    kept = step = weights = 0
    for phase in phases:
        if phase.live:
            decoded = [len(images) * pixels for images in (data.train, data.validation)]
            kept = max(kept, sum(size for size in decoded if size <= MEMORY_BYTES))
        else:
            row = _FLOAT * math.prod(phase.cut.top.input_shape[1:])
            kept = max(kept, min(VALIDATION_BYTES, len(data.validation) * row))
        forwards = 2 * config.batch_size * _answers(phase.cut.top)  # kept for the way back, and their gradients
        through = 3 * network.row.extraction_batch * max(_each_answer(phase.cut.trunk), default=0)
        step = max(step, forwards, through)
        weights = max(weights, sum(phase.variables) + 3 * sum(phase.trained))
    whole = sum(_sizes(network.full.variables)) if config.fine_tune.epochs else 0
    layers = sum(1 for _ in network.full._flatten_layers())
    return kept + step + weights + whole + _GRAPHS + layers * _GRAPH_LAYER


def _answers(network: Any) -> int:
    return sum(_each_answer(network))


def _each_answer(network: Any) -> Iterable[int]:
    """Yields the bytes of what each operation of a network answers for one image."""
    for operation in network.operations:
        if hasattr(operation, "operations"):
            yield from _each_answer(operation)
        else:
            outputs = operation.output if isinstance(operation.output, list | tuple) else [operation.output]
            yield from (_FLOAT * math.prod(size or 1 for size in output.shape[1:]) for output in outputs)


def _sizes(variables: Iterable[Any]) -> list[int]:
    return [_FLOAT * math.prod(variable.shape) for variable in variables]
