"""The rows of `formats.json` as lines for people, as a table and as metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Columns of a row that are numbers worth a curve over runs, beside the headline metric and its change.
_METRICS = ("largest_difference", "bytes", "images_per_second", "agreement")

Row = Mapping[str, Any]


def format_lines(rows: Sequence[Row]) -> list[str]:
    """Returns a line a format."""
    width = max(len(row["name"]) for row in rows)
    return [f"{row['name']:<{width}}  {_published(row) if row['published'] else _refused(row)}" for row in rows]


def _published(row: Row) -> str:
    return (
        f"{row['bytes'] / 1e6:5.1f} MB  {row['images_per_second']:6.1f} images/s  {_score(row)}"
        f"off by at most {row['largest_difference']:.2g} ({row['tolerance']:g} is allowed)"
    )


def _refused(row: Row) -> str:
    return f"not published: {row['reason']}"


def _score(row: Row) -> str:
    metric = row["metric"]
    if row[metric] is None:  # no test image is there any more
        return ""
    return f"{metric} {row[metric]:.3f} ({row[f'{metric}_change']:+.3f} on {row['images']} test images)  "


def format_table(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Returns the columns of the table, in the order of the rows' keys."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def format_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Returns `export/<format>/<name>` of what was measured, and whether it was published, as 0 or 1."""
    found: dict[str, float] = {}
    for row in rows:
        metric = row["metric"]
        measured = {name: row[name] for name in (*_METRICS, metric, f"{metric}_change")} | {
            "published": float(row["published"])
        }
        found |= {f"export/{row['name']}/{name}": float(value) for name, value in measured.items() if value is not None}
    return found
