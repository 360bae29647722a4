"""The report is one file that fetches nothing, whatever names are in it, and fits a phone."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import pipeline
from pipeline.evaluate.report import MOST_ROWS, Report, build_table, cell, metric_cards, render_report, save_report
from pipeline.tasks.base import Chapter, Picture

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'single' & \"double\"", "</title></style><b>",
    "$x^2$", "W" * 300, "مرحبا بالعالم", "\u202egnp.exe", "a\nb\x00c", "\udcff", "{{ 7 * 7 }}", "",
)  # fmt: skip
VOID = {"meta", "img", "br", "wbr"}


def png(width: int = 30, height: int = 20) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), (0, 114, 178)).save(file, "PNG")
    return file.getvalue()


def make_report(name: str = "cat", **changes: Any) -> Report:
    chapters = (
        Chapter(
            "per_class", f"Classes of {name}", f"The worst class is {name}.",
            metrics={"test/macro_f1": 0.9, "test/macro_f1_low": 0.85, "test/macro_f1_high": 0.93},
            tables={"per_class": {"label": [name, "dog"], "recall": [0.5, 1.0], "recall_low": [0.4, 0.9],
                                  "recall_high": [0.6, 1.0]}},
            pictures={"per_class.png": Picture(Figure(), f"Recall of {name}, in words.")},
        ),
        Chapter("label_noise", "Labels", "Many.",
                tables={"suspects": {"id": [f"{name}/{number}.jpg" for number in range(3000)]}}),
        Chapter("drift", "Drift", "Nothing to compare with."),
    )  # fmt: skip
    return Report(**{
        "run": f"flowers-{name}", "created": "2026-11-25", "headline": f"top-1 0.977 on 269 images of {name}",
        "headline_metric": "test/top_1", "task": "classification", "backbone": "efficientnet_lite0",
        "metrics": {"test/top_1": 0.977, "test/top_1_low": 0.959, "test/top_1_high": 0.989,
                    "test/majority_baseline": 0.12, "test/log_loss": 0.234, "test/images": 269},
        "data": [f"class {name} is small"], "counts": {"label": [name, "dog"], "train": [1000, 20]},
        "chapters": chapters,
        "pictures": {"per_class.png": png(), "data.png": png(1800, 900), "history.png": png(700, 300)},
        "history": {"epoch": [1, 2], "phase": ["head", "fine_tune"], "validation/loss": [0.5, 0.25]},
        "config": f"seed: 0\nsource: {name}\n", "command": f"pipeline run -c a.yaml --data '{name}'",
        "environment": {"python": "3.11.2", "keras": "3.14.0"},
    } | changes)  # fmt: skip


class Page(HTMLParser):
    """The elements and the text of a page; elements have to be closed in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_everything_is_in_it() -> None:
    text = render_report(make_report())
    page = Page(text)
    for said in (
        "flowers-cat", "classification with efficientnet_lite0, 2026-11-25", "top-1 0.977 on 269 images of cat",
        "0.977 (0.959 to 0.989) test/top_1", "0.234", "269", "Classes of cat", "The worst class is cat.",
        "0.900 (0.850 to 0.930)", "0.500 (0.400 to 0.600)", "Nothing to compare with.", "class cat is small", "1,000",
        "fine_tune", "0.250", "source: cat", "pipeline run -c a.yaml --data 'cat'", "python 3.11.2, keras 3.14.0",
    ):  # fmt: skip
        assert said in page.words, said
    assert {image["alt"] for image in page.all("img")} >= {"Recall of cat, in words."}
    assert len(page.all("img")) == 3
    assert all(image["alt"] for image in page.all("img"))
    assert "test/top_1_low" not in page.words


def test_nothing_is_fetched_or_run() -> None:
    text = render_report(make_report())
    assert "http://" not in text
    assert "https://" not in text
    page = Page(text)
    assert {name for name, _ in page.found} & {"script", "link", "iframe", "object", "embed", "form", "base"} == set()
    for _, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/")
    assert re.findall(r"url\(|@import", text) == []
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_contents_lead_to_every_section() -> None:
    page = Page(render_report(make_report()))
    targets = [link["href"].removeprefix("#") for link in page.all("a")]
    sections = [section["id"] for section in page.all("section")]
    assert targets == sections == ["1-per-class", "2-label-noise", "3-drift", "data", "training", "again"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_never_more_than_text(name: str) -> None:
    usual, page = Page(render_report(make_report())), Page(render_report(make_report(name)))
    assert [tag for tag, _ in page.found if tag != "span"] == [tag for tag, _ in usual.found if tag != "span"]
    assert [sorted(attributes) for tag, attributes in page.found if tag != "span"] == [
        sorted(attributes) for tag, attributes in usual.found if tag != "span"
    ]
    if name.isascii() and name.isprintable() and len(name) < 100:
        assert f"The worst class is {name}." in page.words
        assert f"Recall of {name}, in words." in [image["alt"] for image in page.all("img")]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_stored_and_read_again(name: str, tmp_path: Path) -> None:
    report = make_report(name)
    save_report(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == render_report(report)
    assert not set(text) & set("\x00\u202e\udcff")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_long_table_is_capped_and_says_where_the_rest_is() -> None:
    text = render_report(make_report())
    assert f"cat/{MOST_ROWS - 1}.jpg" in text
    assert f"cat/{MOST_ROWS}.jpg" not in text
    page = Page(text)
    assert f"{3000 - MOST_ROWS:,} more rows: the rest is in evaluation.json" in page.words
    assert "suspects (3,000 rows)" in page.words
    assert len(page.all("details")) == 2  # this table and the recipe; short tables stand open


def test_a_picture_that_is_missing_is_told_in_words() -> None:
    page = Page(render_report(make_report(pictures={})))
    assert page.all("img") == []
    assert "Recall of cat, in words." in page.words


def test_without_anything_it_is_a_page_still() -> None:
    bare = Report("run", "2026-11-25", "nothing", "test/top_1", "classification", "lenet5", {})
    page = Page(render_report(bare))
    assert page.all("img") == []
    assert not [attributes for attributes in page.all("div") if attributes.get("class") == "bar"]


def test_what_is_no_module_is_shipped_too() -> None:
    package = Path(pipeline.__file__).parent
    settings = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = settings["tool"]["setuptools"]["package-data"]["pipeline"]
    found = [path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()]
    assert sorted(shipped) == sorted(name for name in found if not name.endswith((".py", ".pyc")))


def test_equal_input_gives_equal_text() -> None:
    first = make_report()
    assert render_report(first) == render_report(dataclasses.replace(first))


@pytest.mark.parametrize(("value", "bars"), [(0.5, 1), (0.0, 1), (1.0, 1), (1.7, 0), (float("nan"), 0)])
def test_the_bar_is_of_shares_only(value: float, bars: int) -> None:
    page = Page(render_report(make_report(metrics={"test/top_1": value})))
    assert len([attributes for attributes in page.all("div") if attributes.get("class") == "bar"]) == bars


def test_the_bar_spans_the_interval() -> None:
    text = render_report(make_report())
    assert '<i class="band" style="left: 95.90%; width: 3.00%"></i>' in text
    assert '<i class="dot" style="left: 97.70%"></i>' in text
    assert '<i class="base" style="left: 12.00%"></i>' in text


def test_cards_merge_intervals_only_where_there_is_a_value() -> None:
    assert metric_cards({"a_low": 0.5, "b": np.float64(0.25), "b_low": 0.1}) == [
        ("a_low", "0.500", ""),
        ("b", "0.250", ""),
    ]


def test_columns_of_a_table() -> None:
    table = build_table("a_name", {"label": ["a", "b"], "x": [0.5, float("nan")], "x_low": [0.4, None],
                                   "x_high": [0.6, None], "n": np.array([1, 2000])})  # fmt: skip
    assert table.name == "a name"
    assert table.head == (("label", False), ("x", True), ("n", True))
    assert table.rows == (("a", "0.500 (0.400 to 0.600)", "1"), ("b", "–", "2,000"))  # noqa: RUF001
    assert build_table("empty", {}).rows == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (1.0, "1.000"), (12.0, "12"), (0.12345, "0.123"), (1e-6, "1e-06"), (np.int64(5), "5"),
     (False, "no"), ("x" * 400, "x" * 60 + "…" + "x" * 60), (float("inf"), "inf"), ((1, 2), "1, 2")],
)  # fmt: skip
def test_a_cell(value: Any, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_makes_the_page_wider_than_the_screen(width: int, tmp_path: Path) -> None:
    """In Chromium, every fold opened, under names that do not break."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on the PATH to lay the page out")
    pages = "".join(
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{html.escape(opened)}"></iframe>'
        for opened in (render_report(make_report(name)).replace("<details>", "<details open>") for name in HOSTILE)
    )
    script = (
        "onload = () => { document.body.textContent = 'widths ' + [...document.querySelectorAll('iframe')].map("
        "frame => frame.contentDocument.documentElement.scrollWidth).join(' ') + ' end' }"
    )
    (tmp_path / "frames.html").write_text(
        f"<!doctype html><meta charset=utf-8><body>{pages}<script>{script}</script>", encoding="utf-8"
    )
    dom = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom",
         (tmp_path / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"widths ([\d ]+) end", dom)
    assert found, dom[-2000:]
    assert found[1].split() == [str(width)] * len(HOSTILE)
