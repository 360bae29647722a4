"""The zoo as a list: what `pipeline models` shows."""

from __future__ import annotations

from typing import Any

from pipeline.models.backbones import BACKBONES


def model_rows() -> list[dict[str, Any]]:
    """Returns a row for each backbone: published figures with their source, sizes in pixels, weights."""
    return [
        {
            "name": row.name,
            "parameters": row.parameters,
            "top_1": row.top_1,
            "top_5": row.top_5,
            "source": row.source,
            "default_size": list(row.default_size),
            "smallest_size": row.smallest_size,
            "channels": row.channels,
            "weights": row.weights.file_name if row.weights else None,
        }
        for row in BACKBONES.values()
    ]


def print_models(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("backbone")
    for column in ("parameters", "top-1", "top-5", "input", "smallest"):
        table.add_column(column, justify="right")
    table.add_column("ImageNet weights")
    for row in rows:
        score = [f"{row[key]:.1%}" if row[key] else "" for key in ("top_1", "top_5")]
        height, width = row["default_size"]
        table.add_row(
            row["name"], f"{row['parameters'] / 1e6:.1f} M", *score, f"{height}x{width}", str(row["smallest_size"]),
            row["weights"] or "none published",
        )  # fmt: skip
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)
    console.print("accuracy as published on ImageNet, with the classifier that belongs to it", style="dim")
