"""How often the 95 % intervals of an evaluation cover the truth, on test sets drawn from known populations.

    python benchmarks/interval_coverage.py [--sets 1000] [--scenario NAME]... [--seed 0]

Of at least 200 images and 20 a class, with and without near-duplicates, balanced and not, top-1 about 0.8 and 0.95. Per
class recall and precision are averaged over classes and sets. The bar is 93 to 97 %.

A population is a softmax with a bias for each pair of classes and Gumbel noise, so classes differ in how hard they are
and in what they are taken for; its truth is measured on a million images. Test sets are drawn as the intervals assume,
image by image or cluster by cluster; a set with a class under 20 images is drawn again. Scenarios called "fixed" take
the same number of images of each class every time, as a stratified split does: what that costs is shown, not judged.
The table ends in one line of JSON. One thread is enough: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from pipeline.evaluate.metrics import ClassificationScores, classification_scores, softmax

BAR = (0.93, 0.97)
SCORES = ("top_1", "recall", "precision", "macro_f1", "balanced_accuracy", "log_loss")
FEWEST_IMAGES, FEWEST_OF_CLASS = 200, 20

#: A cluster's size and how likely it is: 1.8 images in a cluster, 2.8 in that of an average image.
SIZES, SHARES = np.array([1, 2, 3, 4, 6]), np.array([0.6, 0.2, 0.1, 0.06, 0.04])

TWO, EVEN, LONG = (110, 130), (30,) * 10, (30, 30, 35, 40, 45, 50, 60, 80, 100, 120)


@dataclass(frozen=True)
class Scenario:
    """A way to draw test sets.

    Attributes:
        counts: Expected images of each class.
        top_1: The population's.
        clustered: Whether images come in clusters.
        alone: The share of images that the network answers apart from their cluster.
        fixed: Whether every set has exactly `counts`.
    """

    counts: tuple[int, ...]
    top_1: float
    clustered: bool = False
    alone: float = 0.0
    fixed: bool = False


SCENARIOS = {
    f"{shape} {top_1} {kind}": Scenario(counts, top_1, **options)
    for top_1 in (0.8, 0.95)
    for shape, counts in (("two", TWO), ("even", EVEN), ("long", LONG))
    for kind, options in (
        ("single", {}),
        ("copies", {"clustered": True}),
        ("loose", {"clustered": True, "alone": 0.5}),
        ("fixed", {"clustered": True, "fixed": True}),
    )
}  # fmt: skip


class Population:
    """Logits of images of known classes, of which the share `top_1` is right."""

    def __init__(self, counts: tuple[int, ...], top_1: float, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.shares = np.array(counts) / sum(counts)
        number = len(counts)
        self._bias = self._random.normal(0, 1, (number, number))
        np.fill_diagonal(self._bias, self._random.normal(0, 0.6, number))
        truth = self._random.choice(number, 50_000, p=self.shares)
        noise = self._random.gumbel(size=(len(truth), number))
        low, high = -10.0, 30.0
        for _ in range(50):
            self._margin = (low + high) / 2
            right = (self.logits(truth, noise).argmax(axis=1) == truth).mean()
            low, high = (self._margin, high) if right < top_1 else (low, self._margin)

    def logits(self, truth: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns `(N, C)` of images of these classes and this noise."""
        found = self._bias[truth] + noise
        found[np.arange(len(truth)), truth] += self._margin
        return 1.5 * found  # overconfident, as networks are

    def truth(self, images: int = 1_000_000, part: int = 50_000) -> dict[str, Any]:
        """Returns what each score is on infinitely many images, or nearly."""
        number, loss = len(self.shares), 0.0
        confusion = np.zeros((number, number))
        for _ in range(images // part):
            truth = self._random.choice(number, part, p=self.shares)
            found = softmax(self.logits(truth, self._random.gumbel(size=(part, number))))
            np.add.at(confusion, (truth, found.argmax(axis=1)), 1)
            loss -= np.log(found[np.arange(part), truth]).sum() / images
        hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
        return {
            "top_1": hits.sum() / images, "recall": hits / support, "precision": hits / predicted,
            "macro_f1": (2 * hits / (support + predicted)).mean(), "balanced_accuracy": (hits / support).mean(),
            "log_loss": loss,
        }  # fmt: skip


def draw(scenario: Scenario, population: Population, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Returns probabilities, true classes and clusters of a test set."""
    truth, clusters = (draw_fixed if scenario.fixed else draw_free)(scenario, population, random)
    shape = (len(truth), len(scenario.counts))
    noise = random.gumbel(size=(clusters.max() + 1, shape[1]))[clusters]
    alone = random.random(shape[0]) < scenario.alone
    noise[alone] = random.gumbel(size=(int(alone.sum()), shape[1]))
    return softmax(population.logits(truth, noise)), truth, clusters


def draw_free(scenario: Scenario, population: Population, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    number = round(sum(scenario.counts) / (SIZES @ SHARES if scenario.clustered else 1))
    while True:
        sizes = random.choice(SIZES, number, p=SHARES) if scenario.clustered else np.ones(number, int)
        truth = np.repeat(random.choice(len(scenario.counts), number, p=population.shares), sizes)
        fewest = np.bincount(truth, minlength=len(scenario.counts)).min()
        if fewest >= FEWEST_OF_CLASS and len(truth) >= FEWEST_IMAGES:
            return truth, np.repeat(np.arange(number), sizes)


def draw_fixed(scenario: Scenario, _: Population, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat(np.arange(len(scenario.counts)), scenario.counts)
    starts = np.zeros(len(truth), bool)
    starts[np.concatenate([[0], np.cumsum(scenario.counts)[:-1]])] = True
    starts[np.cumsum(random.choice(SIZES, len(truth), p=SHARES)).clip(max=len(truth) - 1)] = True
    return truth, np.cumsum(starts) - 1


def ends(scores: ClassificationScores, name: str) -> tuple[Any, Any]:
    if name == "recall":
        return scores.recall_interval
    if name == "precision":
        return scores.precision_interval
    return scores.metrics[f"{name}_low"], scores.metrics[f"{name}_high"]


def marked(share: float, shown_only: bool) -> str:
    return f"{'' if shown_only or BAR[0] <= share <= BAR[1] else '!'}{share:.3f}"


# The areas have no interval to judge, and take two thirds of the time.
@patch("pipeline.evaluate.metrics._areas", new=lambda *_: {})
def coverage(sets: int = 1000, chosen: Sequence[str] = (), seed: int = 0) -> list[dict[str, Any]]:
    print(f"{'share of intervals that cover':24}" + "".join(f"{name:>18}" for name in SCORES) + "     time")
    rows, judged = [], defaultdict(list)
    for scenario_name, scenario in SCENARIOS.items():
        if chosen and scenario_name not in chosen:
            continue
        began, random = time.perf_counter(), np.random.default_rng(seed)
        population = Population(scenario.counts, scenario.top_1, seed)
        truth, covered = population.truth(), defaultdict(list)
        for _ in range(sets):
            probabilities, labels, clusters = draw(scenario, population, random)
            scores = classification_scores(probabilities, labels, clusters, np.bincount(labels), 5)
            for name in SCORES:
                low, high = ends(scores, name)
                covered[name].append(np.mean((low <= truth[name]) & (truth[name] <= high)))
        found = {name: float(np.mean(covered[name])) for name in SCORES}
        rows.append({"part": "coverage", "scenario": scenario_name, "sets": sets, **found})
        cells = "".join(f"{marked(share, scenario.fixed):>18}" for share in found.values())
        print(f"{scenario_name:24}{cells}  {time.perf_counter() - began:5.0f} s", flush=True)
        if not scenario.fixed:
            for name, share in found.items():
                judged[name].append(share)
    for name, shares in judged.items():
        mean, low, high = float(np.mean(shares)), min(shares), max(shares)
        outside = sum(not BAR[0] <= share <= BAR[1] for share in shares)
        verdict = f"MISSED in {outside} of {len(shares)} scenarios" if outside else "holds"
        print(f"{name:18} mean {mean:.3f}, {low:.3f} to {high:.3f}  bar {BAR[0]} to {BAR[1]}: {verdict}")
        rows.append({"part": "coverage", "score": name, "mean": mean, "low": low, "high": high, "outside": outside})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="simulated test sets of each scenario")
    parser.add_argument("--scenario", action="append", default=[], help="this one alone; several times")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(coverage(options.sets, options.scenario, options.seed)))


if __name__ == "__main__":
    main()
