"""The zoo as a list: what `pipeline models` shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.models.backbones import BACKBONES, Backbone, find_backbone
from pipeline.models.backbones.row import gflops
from pipeline.models.weights import missing_weights

if TYPE_CHECKING:
    from rich.table import Table


def chosen_rows(names: Iterable[str]) -> list[Backbone]:
    """Returns the rows of some names, all of them where there are none.

    Raises:
        ModelError: There is no such backbone.
    """
    return [find_backbone(name) for name in names] or list(BACKBONES.values())


def model_row(row: Backbone) -> dict[str, Any]:
    """Returns what `--json` prints of a backbone: published figures with their sources, sizes in pixels, weights.

    "gflops" counts two operations for each of the "multiply_adds" of a forward pass at the default size.
    "weights_missing" says what is to be done for the published weights, null where they are here or none exist.
    """
    accuracy = row.accuracy
    return {
        "name": row.name,
        "year": row.paper.year,
        "authors": row.paper.authors,
        "source": str(row.paper),
        "parameters": row.parameters,
        "top_1": accuracy.top_1 if accuracy else None,
        "top_5": accuracy.top_5 if accuracy else None,
        "accuracy_source": accuracy.source if accuracy else None,
        "contest": row.contest,
        "multiply_adds": row.multiply_adds,
        "gflops": gflops(row.multiply_adds),
        "default_size": list(row.default_size),
        "smallest_size": row.smallest_size,
        "channels": row.channels,
        "classes": row.classes,
        "options": dict(row.options),
        "weights": row.weights.file_name if row.weights else None,
        "weights_missing": missing_weights(row.weights) if row.weights else None,
    }


def print_models(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a table, and below it what the networks were famous for."""
    from rich.console import Console
    from rich.text import Text

    console = Console() if Console().is_terminal else Console(width=140)
    console.print(_table(rows))
    famous = [row for row in rows if row["contest"]]
    if famous:
        console.print()
        width = max(len(row["name"]) for row in famous)
        for row in famous:
            console.print(Text(f"{row['name']:{width}}  {row['contest']}"))
    console.print(
        "\naccuracy on ImageNet, parameters and GFLOPs (two a multiply-add; papers often count one), as published",
        style="dim",
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("backbone", no_wrap=True)
    table.add_column("year")
    table.add_column("authors", no_wrap=True)
    measured = ["images/s here"] if "images_per_second" in rows[0] else []
    for column in ("parameters", "top-1", "top-5", "GFLOPs", "input", "smallest", *measured):
        table.add_column(column, justify="right")
    table.add_column("published weights")
    for row in rows:
        score = [f"{row[key]:.1%}" if row[key] else "" for key in ("top_1", "top_5")]
        height, width = row["default_size"]
        speed = [f"{row['images_per_second']:,.1f}"] if measured else []
        table.add_row(
            row["name"], str(row["year"]), row["authors"], _count(row["parameters"]), *score, f"{row['gflops']:.3g}",
            f"{height}x{width}", str(row["smallest_size"]), *speed, _weights(row),
        )  # fmt: skip
    return table


def _weights(row: dict[str, Any]) -> str:
    if row["weights"] is None:
        return "none"
    return str(row["weights_missing"] or "here")


def _count(number: int) -> str:
    """Returns a number of parameters for people.

    >>> _count(61_706), _count(25_636_712)
    ('62 k', '25.6 M')
    """
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"
