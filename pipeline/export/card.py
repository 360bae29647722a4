"""The model card of an export, `card.md`: what it is, what it was trained on, what it is worth, how it is called.

Everything in it is a number or a name of the run's own documents; what is not known is said to be unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from pipeline.config import Config
from pipeline.export.card_words import class_rows, limits, split_words, training_words
from pipeline.export.markdown import Raw, escape, number

#: Its name in an export.
CARD = "card.md"

#: Of classes, in each table.
MOST_ROWS = 100

#: How other catalogues call a task.
_PIPELINE_TAGS = {"classification": "image-classification"}


@dataclass(frozen=True)
class Weights:
    """Where training began.

    Attributes:
        spec: As in `model.weights`.
        origin: Who published them, in words; None where they are a user's own file or random.
        digest: SHA-256 of the file, None where there is none.
    """

    spec: str
    origin: str | None
    digest: str | None


@dataclass(frozen=True)
class Card:
    """What a card is made of, beside the contract of its export.

    Attributes:
        created: The day, in ISO's form.
        config: The recipe.
        paper: Where the backbone was published.
        ingest: What `ingest.json` holds.
        left_out: How many images were left out, by reason.
        model: What `model.json` holds.
        weights: Where training began.
        epochs: How many each phase took, those without a gain at the end included.
        evaluation: What `evaluation.json` holds; None where the stage evaluate is not done.
    """

    created: str
    config: Config
    paper: str
    ingest: Mapping[str, Any]
    left_out: Mapping[str, int]
    model: Mapping[str, Any]
    weights: Weights
    epochs: Mapping[str, int]
    evaluation: Mapping[str, Any] | None


def save_card(card: Card, export: Path) -> None:
    """Writes `card.md` into an export that has its contract, and its other formats if it is to have any."""
    contract = json.loads((export / "contract.json").read_text(encoding="utf-8"))
    table = export / "formats.json"
    formats = json.loads(table.read_text(encoding="utf-8"))["formats"] if table.is_file() else []
    litert = (export / "litert" / "float32.tflite").is_file()
    (export / CARD).write_text(render_card(card, contract, formats, litert=litert), encoding="utf-8")


def render_card(
    card: Card, contract: Mapping[str, Any], formats: Sequence[Mapping[str, Any]] = (), *, litert: bool = False
) -> str:
    """Returns the card as GitHub's Markdown; equal input gives equal text.

    Args:
        card: What it is made of.
        contract: What `contract.json` holds.
        formats: The rows of `formats.json`.
        litert: Whether the export holds `litert/float32.tflite`.
    """
    found = card.evaluation
    text = _template().render(
        card=card, contract=contract, formats=formats, litert=litert,
        tag=_PIPELINE_TAGS.get(contract["task"]),
        counts=_counts(card.ingest), classes=len(contract["labels"]),
        source=_source_name(card.ingest["source"]),
        metrics=found["metrics"] if found else {}, found=found,
        scores=_scores(found, baselines=False), baselines=_scores(found, baselines=True),
        per_class=class_rows(found), limits=limits(found),
        split=split_words(card), training=training_words(card),
        most=MOST_ROWS,
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(  # of Markdown: `finalize` escapes every name that is printed
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters["number"] = number
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    return environment.from_string((files("pipeline.export") / "card.md.j2").read_text(encoding="utf-8"))


def _finalize(value: Any) -> Any:
    return escape(value) if isinstance(value, str) and not isinstance(value, Raw) else value


def _source_name(source: str) -> str:
    """Returns a source's name: of a path the last part, since the rest is nobody's business."""
    return source if source.startswith(("sample:", "tfds:")) else Path(source).name


def _counts(ingest: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Returns each class with its images in train, validation and test."""
    splits = [ingest["counts"][split] for split in ("train", "validation", "test")]
    return [(label, [split[label] for split in splits]) for label in ingest["classes"]]


def _scores(found: Mapping[str, Any] | None, *, baselines: bool) -> list[tuple[str, float, tuple[float, float] | None]]:
    """Returns (name, value, interval) of the scores, or of what they are to be compared with."""
    metrics = found["metrics"] if found else {}
    rows = []
    for name, value in metrics.items():
        end = name.endswith(("_low", "_high")) and name.removesuffix("_low").removesuffix("_high") in metrics
        if end or name.endswith("_baseline") is not baselines or not name.startswith("test/"):
            continue
        ends = (metrics[f"{name}_low"], metrics[f"{name}_high"]) if f"{name}_low" in metrics else None
        rows.append((name, value, ends))
    return rows
