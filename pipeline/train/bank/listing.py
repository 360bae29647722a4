"""The feature bank as a list: what `pipeline bank` shows, and what it says after clearing. TensorFlow is not loaded."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from pipeline.space import in_words
from pipeline.train.bank.store import FeatureStore, ShelfEntry

#: Stands where `shelf.json` cannot be read.
DAMAGED = "description damaged"


def bank_document(store: FeatureStore) -> dict[str, Any]:
    """Returns what `bank list --json` prints: the shelves, the most recently used first, and the sum of their bytes."""
    shelves = [_shelf(entry) for entry in store.entries()]
    return {
        "folder": str(store.root),
        "shelves": shelves,
        "bytes": sum(shelf["bytes"] for shelf in shelves),
        "budget_bytes": store.budget,
    }


def _shelf(entry: ShelfEntry) -> dict[str, Any]:
    description = entry.description
    return {
        "name": entry.name,
        "title": description.get("title"),
        "image_size": description.get("image_size"),
        "transforms": _names(description.get("transforms")),
        "dtype": description.get("dtype"),
        "rows": entry.rows,
        "bytes": entry.size,
        "last_used": datetime.datetime.fromtimestamp(entry.used).isoformat(timespec="seconds"),
    }


def _names(transforms: object) -> list[str] | None:
    """Returns the names of a policy's transforms, none for images as they are; None where that cannot be said."""
    if not isinstance(transforms, list):
        return None
    return [", ".join(map(str, item)) if isinstance(item, Mapping) else str(item) for item in transforms]


def print_bank(document: Mapping[str, Any]) -> None:
    """Prints the shelves as a table, and their size beside the budget."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("backbone and cut", "image size", "views"):
        table.add_column(column)
    for column in ("rows", "size", "last used"):
        table.add_column(column, justify="right")
    for shelf in document["shelves"]:
        used = shelf["last_used"].replace("T", " ")[:-3]
        table.add_row(*map(Text, (*_words(shelf), f"{shelf['rows']:,}", in_words(shelf["bytes"]), used)))
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(table)
    total, budget = in_words(document["bytes"]), in_words(document["budget_bytes"])
    console.print(f"\n{total} in all; budget {budget}, unless a recipe sets train.bank.budget_gb", style="dim")


def _words(shelf: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns a shelf's backbone and cut, image size and views for people."""
    size, transforms = shelf["image_size"], shelf["transforms"]
    size = "x".join(map(str, size)) if isinstance(size, list) else ""
    views = "" if transforms is None else ", ".join(transforms) or "as they are"
    return str(shelf["title"] or f"{shelf['name']}: {DAMAGED}"), size, views


def clear_bank(store: FeatureStore) -> list[str]:
    """Returns what there is to say after deleting all shelves: what was freed, and which a process is filling."""
    shelves = {shelf["name"]: shelf for shelf in bank_document(store)["shelves"]}
    freed, busy = store.clear()
    if not freed and not busy:
        return ["the bank is empty; there is nothing to clear"]
    kept = [_kept(name, shelves.get(name)) for name in busy]
    return [f"freed {in_words(freed)}", *kept]


def _kept(name: str, shelf: Mapping[str, Any] | None) -> str:
    words = ", ".join(filter(None, _words(shelf))) if shelf else "begun just now"
    return f"kept {name} ({words}): a process is filling it; wait for it to end, then clear again"
