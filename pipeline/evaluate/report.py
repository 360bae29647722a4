"""The report of a run: one HTML file that needs nothing beside it, for a screen, a phone and paper."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from pipeline.evaluate.embedding import Embedded, embed
from pipeline.files import write_text
from pipeline.tasks.base import Chapter

Columns = Mapping[str, Sequence[Any]]

#: Rows of a table that are printed; more than `FEW_ROWS` are folded away on a screen.
MOST_ROWS, FEW_ROWS = 50, 12

#: Letters of a cell; of a longer one, such as a path, both ends are printed.
MOST_LETTERS = 120

_ENDS = ("_low", "_high")

_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_TURNING = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        run: The run's name.
        created: When, as an ISO date or time.
        headline: The result in one line.
        headline_metric: The metric that the bar at the top shows, by its full name (`test/top_1`).
        task: What was learnt.
        backbone: By which network.
        metrics: All numbers, by full name; `x_low` and `x_high` are printed as the interval of `x`.
        data: What ingest found, a line each.
        counts: Images, a row a class and a column a split.
        chapters: What was looked at.
        pictures: The PNG bytes of the chapters' pictures, and `data.png` and `history.png`, by file name.
        history: Columns of the training history.
        config: The resolved recipe, YAML.
        command: That does all of this again.
        environment: Versions, by name.
    """

    run: str
    created: str
    headline: str
    headline_metric: str
    task: str
    backbone: str
    metrics: Mapping[str, float]
    data: Sequence[str] = ()
    counts: Columns = field(default_factory=dict)
    chapters: tuple[Chapter, ...] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    history: Columns = field(default_factory=dict)
    config: str = ""
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """The headline's score on a line from 0 to 1, in percent of its length; the baseline is None where unknown."""

    value: float
    low: float
    high: float
    baseline: float | None


@dataclass(frozen=True)
class Table:
    """A table as it is printed.

    Attributes:
        name: In words.
        head: The columns' names, and whether numbers stand in them.
        rows: Of cells, at most `MOST_ROWS`.
        left_out: How many more there are.
        folded: Whether it is opened by a click.
    """

    name: str
    head: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int
    folded: bool


def save_report(report: Report, path: Path) -> None:
    """Writes the report atomically."""
    write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """Returns the report as HTML; equal input gives equal text.

    Nothing in it is fetched, run or sent: no script, no font, no link out, and a policy in its head that forbids them.
    """
    names = ["data.png", "history.png", *(name for chapter in report.chapters for name in chapter.pictures)]
    pictures: dict[str, Embedded] = embed({name: report.pictures[name] for name in names if name in report.pictures})
    bar = _bar(report.metrics, report.headline_metric)
    told = {name for chapter in report.chapters for name in chapter.metrics}  # in their chapters
    cards = [card for card in metric_cards(report.metrics) if card[0] not in told]
    return _template().render(
        report=report,
        bar=bar,
        score=next((card for card in cards if bar and card[0] == report.headline_metric), None),
        cards=[card for card in cards if not (bar and card[0] == report.headline_metric)],
        counts=build_table("images of each class", report.counts),
        history=build_table("every epoch", report.history),
        chapters=[
            {
                "chapter": chapter,
                "anchor": f"{number}-{re.sub('[^a-z0-9]+', '-', chapter.name.lower()).strip('-')}",
                "cards": metric_cards(chapter.metrics),
                "tables": [build_table(name, table) for name, table in chapter.tables.items()],
            }
            for number, chapter in enumerate(report.chapters, start=1)
        ],
        pictures=pictures,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_readable
    )
    environment.filters["breakable"] = _breakable
    text = (files("pipeline.evaluate") / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text)


def _readable(value: Any) -> Any:
    """Returns text that HTML and UTF-8 can hold and that turns nothing round: names of files may have any byte."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    # A name that overrides the direction would mirror the sentence it stands in; letters have theirs anyway.
    return _UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", _TURNING.sub("", value))


def _breakable(name: str) -> Markup:
    """Returns the name of a metric or a column, which may go on in the next line after "/" and "_"."""
    return Markup(re.sub("([/_])", r"\1<wbr>", str(escape(_readable(name)))))


def metric_cards(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Returns (name, value, interval or "") of each metric that is not the end of another one's interval.

    >>> metric_cards({"test/top_1": 0.977, "test/top_1_low": 0.959, "test/top_1_high": 0.989, "test/images": 269})
    [('test/top_1', '0.977', '0.959 to 0.989'), ('test/images', '269', '')]
    """
    return [
        (name, cell(value), _interval(metrics.get(name + "_low"), metrics.get(name + "_high")))
        for name, value in metrics.items()
        if not (name.endswith(_ENDS) and name.removesuffix("_low").removesuffix("_high") in metrics)
    ]


def build_table(name: str, columns: Columns) -> Table:
    """Returns a table as it is printed; columns `x_low` and `x_high` become the interval of column `x`."""
    length = max((len(values) for values in columns.values()), default=0)
    head, cells = [], []
    for title, values in columns.items():
        if title.endswith(_ENDS) and title.removesuffix("_low").removesuffix("_high") in columns:
            continue
        printed = list(values[:MOST_ROWS])
        ends = [list(columns.get(title + end, ())[:MOST_ROWS]) or [None] * len(printed) for end in _ENDS]
        intervals = [_interval(low, high) for low, high in zip(*ends, strict=True)]
        head.append((title, all(value is None or isinstance(value, Real) for value in printed)))
        cells.append(
            [cell(v) + (f" ({between})" if between else "") for v, between in zip(printed, intervals, strict=True)]
        )
    rows = tuple(zip(*cells, strict=True))
    return Table(name.replace("_", " "), tuple(head), rows, length - len(rows), length > FEW_ROWS)


def cell(value: Any) -> str:
    """Returns a value as a reader wants it: three decimals for shares, thousands parted, a dash for nothing.

    >>> [cell(value) for value in (0.97654, 12345, 1234.5, 2e-7, True, None, float("nan"), ["a", "b"])]
    ['0.977', '12,345', '1,234.5', '2e-07', 'yes', '–', '–', 'a, b']
    """
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return "–"  # noqa: RUF001
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return _number(float(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    text = str(value)
    half = MOST_LETTERS // 2
    return text if len(text) <= MOST_LETTERS else f"{text[:half]}…{text[-half:]}"


def _number(value: float) -> str:
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}" if abs(value) > 1 else f"{value:.3f}"
    return f"{value:,.5g}" if abs(value) >= 10 or abs(value) < 0.0005 else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{cell(low)} to {cell(high)}"


def _bar(metrics: Mapping[str, float], name: str) -> Bar | None:
    """Returns the bar of the headline's metric; None where it is not a share."""
    value = metrics.get(name)
    if value is None or not 0 <= value <= 1:
        return None
    ends = [100 * min(max(metrics.get(name + end, value), 0.0), 1.0) for end in _ENDS]
    baseline = metrics.get(f"{name.rpartition('/')[0]}/majority_baseline")
    return Bar(100 * value, ends[0], ends[1], None if baseline is None else 100 * baseline)
