"""Labels that look wrong: those that a probe, fitted without the image, would not have given. No TensorFlow.

Confident learning (Northcutt, Jiang, Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR 70,
2021): an image counts for a class when its probability there is at least what the images labelled so have on average,
so that a class that is always doubted is not all suspects. Where it counts for another class than its label's, and that
class has ten times the label's probability, the label is a suspect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import shown
from pipeline.evaluate.probe import out_of_fold_probabilities
from pipeline.figures import one_line
from pipeline.files import write_csv
from pipeline.ingest.manifest import SPLITS, Manifest
from pipeline.pictures.doubtful import DoubtfulTile, doubtful_figure
from pipeline.tasks.base import Chapter, Picture

#: Probability of the suggested class over that of the label, from which on a label is a suspect. Without it (as in the
#: paper) every second suspect of planted flips was an image that is only hard.
ODDS = 10

#: Rows of the report's table, and images of its picture. The CSV has them all.
MOST_ROWS, MOST_TILES = 50, 24

#: Images of the picture where none is a suspect.
FEW_TILES = 12

COLUMNS = (
    "id", "split", "label", "suggested", "probability_of_label", "probability_of_suggested", "suspect", "new_label",
    "sha256",
)  # fmt: skip


@dataclass(frozen=True)
class LabelNoise:
    """How doubtful N labels are.

    Attributes:
        scores: `(N,)` in [0, 1], p(suggested) / (p(suggested) + p(label)): above 0.5 the probe says another class. 0
            where it cannot be said.
        suspect: `(N,)` bool, whether a label looks wrong.
        suggested: `(N,)` class ids, the likeliest class but the label's; the label where it cannot be said.
        of_label, of_suggested: `(N,)`, their probabilities; NaN where it cannot be said.
        ranking: `(N,)` rows, the most doubtful first; of equals the first row.
    """

    scores: npt.NDArray[np.float64]
    suspect: npt.NDArray[np.bool_]
    suggested: npt.NDArray[np.int64]
    of_label: npt.NDArray[np.float64]
    of_suggested: npt.NDArray[np.float64]
    ranking: npt.NDArray[np.int64]

    @property
    def wrong(self) -> int:
        """How many labels are wrong, as far as can be told: the suspects.

        Not the off-diagonal of the calibrated confident joint, which the paper takes: it was 2.5 times the truth with
        planted flips, since it takes each mistake of the probe for a wrong label.
        """
        return int(self.suspect.sum())

    @property
    def unjudged(self) -> int:
        """How many labels nothing can be said of: their class is in no other cluster."""
        return int(np.isnan(self.of_label).sum())


def find_label_noise(probabilities: npt.NDArray[np.float64], ids: npt.ArrayLike) -> LabelNoise:
    """Returns how doubtful labels are.

    Args:
        probabilities: `(N, C)`, out of fold: whoever gave them had not seen the image. A row of NaN says nothing.
        ids: `(N,)` class ids, the labels.
    """
    labels = np.asarray(ids, np.int64)
    rows, judged = np.arange(len(labels)), ~np.isnan(probabilities.sum(axis=1))
    known = np.where(judged[:, None], probabilities, 0.0)
    of_label = known[rows, labels]
    others = known.copy()
    others[rows, labels] = -1
    suggested = np.where(judged, others.argmax(axis=1), labels)
    of_suggested = known[rows, suggested]
    both = of_label + of_suggested
    scores = np.divide(of_suggested, both, out=np.zeros_like(both), where=judged & (both > 0))
    usual = _usual(known, labels, judged)
    suspect = judged & (of_suggested >= usual[suggested]) & (of_suggested >= ODDS * of_label)
    nothing = np.where(judged, 0.0, np.nan)
    return LabelNoise(
        scores, suspect, suggested, of_label + nothing, of_suggested + nothing, np.argsort(-scores, kind="stable")
    )


def _usual(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], judged: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Returns for each class the mean probability that its own images have for it, `(C,)`; infinite without images."""
    count = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    totals = np.bincount(labels[judged], own[judged], minlength=count)
    images = np.bincount(labels[judged], minlength=count)
    return np.divide(totals, images, out=np.full(count, np.inf), where=images > 0)


def judge_labels(manifest: Manifest, features: np.ndarray, *, folds: int = 5, seed: int = 0) -> LabelNoise:
    """Returns how doubtful the labels of a data set are, of train, validation and test alike.

    Args:
        manifest: All images.
        features: `(N, D)` of these images, in the manifest's order, of a network that has not been trained on their
            labels: one that has would remember the wrong ones.
        folds: Probes to fit; each judges its share of the clusters.
        seed: Which clusters share a fold.
    """
    ids = _ids(manifest)
    return find_label_noise(out_of_fold_probabilities(features, ids, manifest.column("cluster"), folds, seed), ids)


def _ids(manifest: Manifest) -> npt.NDArray[np.int64]:
    place = {label: number for number, label in enumerate(manifest.classes)}
    return np.array([place[label] for label in manifest.column("label")], np.int64)


def save_label_noise(manifest: Manifest, noise: LabelNoise, path: Path) -> None:
    """Writes `label_noise.csv`, doubtful labels first; `pipeline relabel` takes it with `new_label` filled in."""
    write_csv(path, [row | {"new_label": ""} for row in _rows(manifest, noise)], COLUMNS)


def _rows(manifest: Manifest, noise: LabelNoise) -> Iterator[dict[str, Any]]:
    """Yields what is known of each image, the most doubtful first; what cannot be said is None."""
    names = {name: manifest.column(name) for name in ("id", "split", "label", "sha256")}
    for row in noise.ranking.tolist():
        unsaid = bool(np.isnan(noise.of_label[row]))
        yield {name: values[row] for name, values in names.items()} | {
            "suggested": None if unsaid else manifest.classes[noise.suggested[row]],
            "probability_of_label": None if unsaid else round(float(noise.of_label[row]), 4),
            "probability_of_suggested": None if unsaid else round(float(noise.of_suggested[row]), 4),
            "suspect": "yes" if noise.suspect[row] else "no",
        }


def label_noise_chapter(manifest: Manifest, noise: LabelNoise) -> Chapter:
    """Returns the report's chapter on labels: what was found, the first rows, a gallery.

    Args:
        manifest: All images.
        noise: Of them, by `judge_labels`.
    """
    splits = Counter(split for split, wrong in zip(manifest.column("split"), noise.suspect, strict=True) if wrong)
    finding = _finding(manifest, noise, splits)
    shown_rows = [row for _, row in zip(range(MOST_ROWS), _rows(manifest, noise), strict=False)]
    columns = [name for name in COLUMNS if name not in ("new_label", "sha256")]
    return Chapter(
        name="label_noise",
        title="Label noise",
        finding=finding,
        metrics={"data/suspect_labels": noise.wrong, "data/suspect_labels_share": noise.wrong / max(1, len(manifest))},
        document={
            "images": len(manifest), "suspect": noise.wrong, "not_judged": noise.unjudged,
            "suspect_by_split": {split: splits[split] for split in SPLITS},
        },
        tables={"doubtful_labels": {name: [row[name] for row in shown_rows] for name in columns}},
        pictures={"label_noise.png": _picture(manifest, noise, finding)},
    )  # fmt: skip


def _finding(manifest: Manifest, noise: LabelNoise, splits: Counter[str]) -> str:
    unsaid = f" Of {noise.unjudged} nothing can be said: their class is in no other cluster." if noise.unjudged else ""
    if not noise.wrong:
        return f"No label of {len(manifest):,} stands out.{unsaid}"
    first = next(row for row in noise.ranking.tolist() if noise.suspect[row])
    name, label = shown(manifest.column("id")[first]), manifest.column("label")[first]
    where = ", ".join(f"{splits[split]} in {split}" for split in SPLITS if splits[split])
    looks = "label looks" if noise.wrong == 1 else "labels look"
    return (
        f"About {noise.wrong:,} of {len(manifest):,} {looks} wrong ({where}); the first to look at is {name}: "
        f"{label}, which looks like {manifest.classes[noise.suggested[first]]} "
        f"({noise.of_suggested[first]:.2f} against {noise.of_label[first]:.2f}).{unsaid}"
    )


def _picture(manifest: Manifest, noise: LabelNoise, finding: str) -> Picture:
    names = {name: manifest.column(name) for name in ("path", "id", "label", "split")}
    # Suspects first, since a score alone may be as high where the probe is sure of nothing.
    order = [row for row in noise.ranking.tolist() if noise.suspect[row]][:MOST_TILES]
    title = f"{noise.wrong:,} of {len(manifest):,} labels look wrong"
    if not order:
        order = [row for row in noise.ranking.tolist() if not np.isnan(noise.of_label[row])][:FEW_TILES]
        title = f"No label of {len(manifest):,} stands out; the least certain ones"
    elif noise.wrong == 1:
        title = f"1 of {len(manifest):,} labels looks wrong"
    elif noise.wrong > MOST_TILES:
        title += f"; the first {MOST_TILES}"
    tiles = [
        DoubtfulTile(
            names["path"][row], names["id"][row], names["label"][row], manifest.classes[noise.suggested[row]],
            f"{noise.of_label[row]:.2f} → {noise.of_suggested[row]:.2f}   {names['split'][row]}",
        )
        for row in order
    ]  # fmt: skip
    note = "label, what a linear probe fitted without the image says instead, and the probabilities it gives to both"
    said = "; ".join(f"{one_line(t.name, 40)}: {t.label}, looks like {t.suggested}" for t in tiles[:5])
    return Picture(doubtful_figure(tiles, title, note), f"{finding} Shown: {said or 'nothing'}")
