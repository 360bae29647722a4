"""Which test images deserve a look: mistakes, hits that were nearly none, and pairs of classes. Loads no TensorFlow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.errors import shown
from pipeline.pictures.gallery import Group, Tile, gallery_figure
from pipeline.tasks.base import Chapter, Picture

if TYPE_CHECKING:
    from pipeline.models.explanation import FloatArray

Columns = Mapping[str, Sequence[Any]]

#: From here on a mistake is one that no threshold would have caught.
CONFIDENT = 0.9

#: Columns and characters of a name inside a sentence.
NAME = 40


@dataclass(frozen=True)
class ErrorGroup:
    """Test images that belong together.

    Attributes:
        kind: What they are.
        heading: The same in words.
        rows: Their places among the test images, the most telling first.
        count: How many there are of the kind, shown or not.
        pair: (true, predicted) of a "pair", else None.
    """

    kind: Literal["mistakes", "hits", "pair"]
    heading: str
    rows: tuple[int, ...]
    count: int
    pair: tuple[str, str] | None = None


def choose_errors(predictions: Columns, limit: int = 8, pairs: int = 4) -> tuple[ErrorGroup, ...]:
    """Returns the most confident mistakes, the least confident hits and the most confused pairs, as far as there are.

    Of equals the first test image, and the pair that comes first among them. A pair is one that happened twice; its
    images are those not shown above before the others, the most confident first.

    Args:
        predictions: The columns label, predicted and probability.
        limit: Images of a group at most; half as many of a pair.
        pairs: Pairs at most.
    """
    confidence = np.asarray(predictions["probability"], np.float64)
    falling = np.argsort(-confidence, kind="stable").tolist()
    answers = list(zip(predictions["label"], predictions["predicted"], strict=True))
    wrong = [row for row in falling if answers[row][0] != answers[row][1]]
    right = [row for row in np.argsort(confidence, kind="stable").tolist() if answers[row][0] == answers[row][1]]
    groups = []
    if wrong:
        groups.append(ErrorGroup("mistakes", "most confident mistakes", tuple(wrong[:limit]), len(wrong)))
    if right:
        groups.append(ErrorGroup("hits", "least confident hits", tuple(right[:limit]), len(right)))
    above = set(wrong[:limit])
    for pair, count in confused_pairs(predictions)[:pairs]:
        if count > 1:
            rows = sorted((row for row in wrong if answers[row] == pair), key=lambda row: row in above)
            heading = f"most often confused: {pair[0]} taken for {pair[1]} ({count})"
            groups.append(ErrorGroup("pair", heading, tuple(rows[: max(1, limit // 2)]), count, pair))
    return tuple(groups)


def confused_pairs(predictions: Columns) -> list[tuple[tuple[str, str], int]]:
    """Returns each (true, predicted) that was wrong with how often, the commonest first, then by first appearance."""
    answers = zip(predictions["label"], predictions["predicted"], strict=True)
    return Counter(answer for answer in answers if answer[0] != answer[1]).most_common()


def shown_rows(groups: Sequence[ErrorGroup]) -> list[int]:
    """Returns the rows of all groups, each once, in their order: the images to decode for the gallery."""
    return sorted({row for group in groups for row in group.rows})


def build_tiles(
    rows: Sequence[int], predictions: Columns, pixels: np.ndarray | None, heats: FloatArray | None
) -> dict[int, Tile]:
    """Returns what the gallery draws, by row.

    Args:
        rows: N test images, as `shown_rows` gives them.
        predictions: The columns label, predicted and probability of all test images.
        pixels: `(N, H, W, C)` in [0, 255], the images as the network takes them; None draws them as empty places.
        heats: `(N, h, w)`, what speaks for the predicted class; None where the task has no class an image.
    """
    labels, predicted, probability = (predictions[name] for name in ("label", "predicted", "probability"))
    return {
        row: Tile(
            pixels=None if pixels is None else np.rint(pixels[place]).clip(0, 255).astype(np.uint8),
            heat=None if heats is None else heats[place],
            label=labels[row], predicted=predicted[row], probability=float(probability[row]),
        )
        for place, row in enumerate(rows)
    }  # fmt: skip


def errors_chapter(groups: Sequence[ErrorGroup], tiles: Mapping[int, Tile], predictions: Columns) -> Chapter:
    """Returns the gallery of errors, and all mistakes in a table, the most confident first.

    Args:
        groups: From `choose_errors`.
        tiles: Of each row that a group names.
        predictions: The columns id, label, predicted and probability.
    """
    finding = _finding(predictions)
    drawn = [Group(group.heading, tuple(tiles[row] for row in group.rows)) for group in groups]
    picture = Picture(gallery_figure(drawn, finding), _alt(groups, predictions))
    ids = predictions["id"]
    pairs = confused_pairs(predictions)
    return Chapter(
        name="errors",
        title="Errors",
        finding=finding,
        document={
            "mistakes": sum(count for _, count in pairs),
            "images": len(ids),
            "gallery": [{"heading": group.heading, "ids": [ids[row] for row in group.rows]} for group in groups],
        },
        tables={"mistakes": _mistakes(predictions), "confused_pairs": _pair_columns(pairs)} if pairs else {},
        pictures={"errors.png": picture},
    )


def _finding(predictions: Columns) -> str:
    pairs, count = confused_pairs(predictions), len(predictions["label"])
    wrong = sum(times for _, times in pairs)
    if not wrong:
        return f"All {count:,} test images right; the least confident hit has {min(predictions['probability']):.2f}."
    said = f"{wrong:,} of {count:,} test images wrong"
    (true, predicted), times = pairs[0]
    if times > 1:
        said += f"; most often {_quoted(true)} taken for {_quoted(predicted)} ({times:,} times)"
    return f"{said}. {_confident(predictions)}."


def _confident(predictions: Columns) -> str:
    """Returns how confident the mistakes are, in a sentence."""
    columns = zip(*(predictions[name] for name in ("label", "predicted", "probability")), strict=True)
    wrong = [float(probability) for label, predicted, probability in columns if label != predicted]
    sure = sum(probability > CONFIDENT for probability in wrong)
    if not sure:
        return f"No mistake is made with more than {CONFIDENT}; the most confident one has {max(wrong):.2f}"
    many = "1 mistake is" if sure == 1 else f"{sure:,} mistakes are"
    return f"{many} made with more than {CONFIDENT}: no threshold below that would hold them back"


def _alt(groups: Sequence[ErrorGroup], predictions: Columns) -> str:
    """Returns what the gallery shows, in words."""
    labels, predicted, probability = (predictions[name] for name in ("label", "predicted", "probability"))
    said: defaultdict[str, list[str]] = defaultdict(list)
    for group in groups:
        for row in group.rows:
            taken = "" if labels[row] == predicted[row] else f" taken for {_quoted(predicted[row])}"
            said[group.heading].append(f"{_quoted(labels[row])}{taken}, {float(probability[row]):.2f}")
    parts = [f"{heading}: {'; '.join(tiles)}" for heading, tiles in said.items()]
    return "Test images, each beside what speaks for the predicted class (Grad-CAM). " + ". ".join(parts) + "."


def _quoted(name: str) -> str:
    text = shown(name)
    return f"'{text if len(text) <= NAME else text[: NAME - 1] + '…'}'"


def _mistakes(predictions: Columns) -> dict[str, list[Any]]:
    names = ("id", "label", "predicted", "probability")
    rows = [row for row in zip(*(predictions[name] for name in names), strict=True) if row[1] != row[2]]
    rows.sort(key=lambda row: -row[3])
    return {
        name: [float(row[place]) if name == "probability" else row[place] for row in rows]
        for place, name in enumerate(names)
    }


def _pair_columns(pairs: Sequence[tuple[tuple[str, str], int]]) -> dict[str, list[Any]]:
    return {
        "label": [true for (true, _), _ in pairs],
        "predicted": [predicted for (_, predicted), _ in pairs],
        "images": [count for _, count in pairs],
    }
