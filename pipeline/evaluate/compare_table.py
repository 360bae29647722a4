"""A comparison of two runs as it is printed for people, from what `compare --json` prints for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.figures import one_line
from pipeline.ingest.manifest import SPLITS

if TYPE_CHECKING:
    from rich.console import Console

#: Classes that are named: those that changed most.
MOST_CLASSES = 12

#: Columns of a name, and of a setting, that may be long.
_NAME, _SETTING = 32, 48

_SCORES = (("top-1", "top_1"), ("macro-F1", "macro_f1"), ("log loss (less is better)", "log_loss"))


def print_comparison(document: dict[str, Any]) -> None:
    """Prints the verdict, the scores, the classes that changed, and what differs in settings and data."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    names = tuple(one_line(document[side]["run"], _NAME) for side in "ab")
    console.print(Text(document["verdict"], style="bold"), soft_wrap=True)
    _say(console, [document["scope"], *document["notes"]])
    _print_table(console, ("score", *names, "difference", "95 % interval"), _score_rows(document))
    mcnemar, b = document["mcnemar"], names[1]
    _say(
        console,
        [
            f"{b} fixes {mcnemar['fixed']:,} and breaks {mcnemar['broken']:,}; McNemar's exact test: "
            f"p = {mcnemar['p_value']:.2g}"
        ],
    )
    _print_classes(console, document["classes"], names)
    if document["config"]:
        rows = [(key, *(_setting(pair[side]) for side in "ab")) for key, pair in document["config"].items()]
        _print_table(console, ("setting", *names), rows, left=3)
    else:
        _say(console, ["settings: the same"])
    _say(console, data_lines(document["data"], *names))


def _say(console: Console, lines: Iterable[str]) -> None:
    from rich.text import Text

    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _print_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """Prints rows between empty lines; the first `left` columns hold words, the others numbers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if place < left else "right")  # Text: a "[" is no markup
    for row in rows:
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    console.print()


def _score_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, key in _SCORES:
        found = document[key]
        if found is not None:
            interval = f"{found['low']:+.3f} to {found['high']:+.3f}"
            rows.append((name, f"{found['a']:.3f}", f"{found['b']:.3f}", f"{found['difference']:+.3f}", interval))
    return rows


def _print_classes(console: Console, classes: Sequence[dict[str, Any]], names: tuple[str, ...]) -> None:
    changed = [one for one in classes if one["fixed"] or one["broken"]]
    changed.sort(key=lambda one: (-one["fixed"] - one["broken"], one["label"]))
    rows = [
        (
            one_line(one["label"], _NAME), f"{one['images']:,}", f"{one['recall_a']:.3f}", f"{one['recall_b']:.3f}",
            f"{one['fixed']:,}", f"{one['broken']:,}",
        )
        for one in changed[:MOST_CLASSES]
    ]  # fmt: skip
    if rows:
        header = ("class", "images", f"recall {names[0]}", f"recall {names[1]}", "fixed", "broken")
        _print_table(console, header, rows)
    rest, same = changed[MOST_CLASSES:], len(classes) - len(changed)
    lines = [f"{len(rest):,} more classes changed, less than these (--json has them all)"] if rest else []
    lines += [f"{same:,} class{'es' * (same != 1)} without a change"] if same else []
    _say(console, lines)


def data_lines(data: dict[str, Any], a: str, b: str) -> list[str]:
    """Returns how the data of two runs differ, in words, a line for each split that does."""
    if data["same"]:
        return ["data: the same images, labels and splits"]
    lines = []
    for split in SPLITS:
        found = data[split]
        if found["only_a"] or found["only_b"]:
            lines.append(
                f"{split}: {found['a']:,} images and {found['b']:,}; {found['only_a']:,} only in {a}'s, "
                f"{found['only_b']:,} only in {b}'s"
            )
    if data["relabelled"]:
        lines.append(f"{data['relabelled']:,} images with other labels")
    for name, key in ((a, "classes_only_a"), (b, "classes_only_b")):
        if data[key]:
            lines.append(f"classes only in {name}: {one_line(', '.join(data[key]), 100)}")
    return [f"data: {line}" for line in lines or ["the same images, saved anew"]]


def _setting(value: str | None) -> str:
    return "(no such key)" if value is None else one_line(value, _SETTING)
