"""The page of `pipeline serve` in a real browser: images that are chosen, dropped and pasted, and what it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, chromium_or_skip
from PIL import Image
from serving import CONTRACT, running
from subjects import publish_small

from pipeline.export.predict import Prediction, Predictor
from pipeline.serve.gate import UPLOAD_LIMIT
from pipeline.serve.server import PageServer, load_contract

HOSTILE = "<img src=x onerror=\"document.title='taken'\">"

#: Of the answers, the latest first: what stands in each, paragraph by paragraph, and row by row of its bars.
SHOWN = """
[...document.querySelectorAll("#answers > li")].map(item => ({
    kind: item.className,
    texts: [...item.querySelectorAll("p")].map(text => text.textContent),
    bars: [...item.querySelectorAll(".bars li")].map(row => [row.firstChild.textContent, row.lastChild.textContent]),
    widths: [...item.querySelectorAll(".bar")].map(bar => bar.firstChild.offsetWidth / bar.offsetWidth),
}))
"""

FETCHED = "performance.getEntriesByType('resource').map(entry => entry.name)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium_or_skip(tmp_path_factory.mktemp("chromium"), "the page of `serve` was not looked at") as browser:
        yield browser


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_small(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="module")
def server(published: Path) -> Iterator[PageServer]:
    with running(Predictor(published).predict_contents, load_contract(published)) as server:
        yield server


@pytest.fixture
def page(browser: Chromium, server: PageServer) -> Chromium:
    return opened(browser, server, "photos-1")


def opened(browser: Chromium, server: PageServer, run: str) -> Chromium:
    browser.open(server.address)
    browser.wait(lambda: browser.evaluate("document.title") == f"{run}: try the model", "the model's name")
    return browser


def choose(page: Chromium, *paths: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])


def answers(page: Chromium, count: int) -> list[dict[str, Any]]:
    """Returns what is shown, as soon as so many answers are there."""

    def shown() -> list[dict[str, Any]]:
        return page.evaluate(SHOWN) or []

    def there() -> bool:
        return len(found := shown()) == count and all("waiting" not in one["texts"] for one in found)

    page.wait(there, f"{count} answers")
    return shown()


def said(page: Chromium) -> str:
    return str(page.evaluate("document.querySelector('[aria-live=polite]').textContent"))


def golden(published: Path, *, confident: bool) -> tuple[Path, dict[str, Any]]:
    document = json.loads((published / "golden" / "golden.json").read_text())
    answer = next(one for one in document["answers"] if not one.get("bad") and one["confident"] is confident)
    return published / "golden" / answer["file"], answer


def expected_bars(published: Path, answer: dict[str, Any]) -> list[list[str]]:
    labels = (published / "labels.txt").read_text().splitlines()
    rows = sorted(zip(answer["probabilities"], labels, strict=True), reverse=True)
    return [[label, f"{probability:.3f}"] for probability, label in rows]


def test_chosen_images_are_answered_in_turn(page: Chromium, published: Path) -> None:
    (sure, sure_answer), (unsure, unsure_answer) = [golden(published, confident=wanted) for wanted in (True, False)]
    bad = published / "golden" / "bad-truncated.jpg"
    choose(page, sure, unsure, bad)
    third, second, first = answers(page, 3)
    (refused,) = Predictor(published).predict([bad])
    assert (first["kind"], first["texts"]) == ("", [sure.name, sure_answer["label"]])
    assert first["bars"] == expected_bars(published, sure_answer)
    assert first["widths"] == pytest.approx(sorted(sure_answer["probabilities"], reverse=True), abs=0.02)
    assert (second["kind"], second["bars"]) == ("unsure", expected_bars(published, unsure_answer))
    assert second["texts"] == [
        unsure.name,
        unsure_answer["label"],
        f"not confident: {max(unsure_answer['probabilities']):.2f} is under the threshold 0.50",
    ]
    assert (third["kind"], third["bars"]) == ("bad", [])
    assert third["texts"] == [bad.name, refused.error]
    assert said(page) == f"{bad.name}: {refused.error}"


def test_a_dropped_image_is_answered_and_the_page_stays(page: Chromium, published: Path) -> None:
    path, answer = golden(published, confident=True)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=kind, x=5, y=5, data=data)  # beside what looks like the place
    (found,) = answers(page, 1)
    assert found["texts"] == [path.name, answer["label"]]


def test_a_pasted_image_is_answered(page: Chromium, published: Path) -> None:
    path, answer = golden(published, confident=True)
    page.evaluate(
        f"""(() => {{
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array({[*path.read_bytes()]})], "image.png"));
            document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: files, bubbles: true }}));
        }})()"""
    )
    (found,) = answers(page, 1)
    assert found["texts"] == ["image.png", answer["label"]]


def test_it_is_worked_from_the_keyboard(page: Chromium) -> None:
    """The file picker is reached by Tab, and what is focused can be seen."""
    reached = []
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "files":
            break
    assert reached[-1] == "files", reached
    assert page.evaluate("getComputedStyle(document.querySelector('#files + label')).outlineStyle") == "solid"


def test_it_says_which_model_it_is(page: Chromium) -> None:
    texts = page.evaluate("document.querySelector('header').textContent")
    for text in ("photos-1", "some_net, 4 classes", "d" * 12, "0" * 32, "32 \xd7 32", "0.500", "ant, bee, cat, zebra"):
        assert text in texts


def test_nothing_is_fetched_from_elsewhere(page: Chromium, server: PageServer, published: Path) -> None:
    choose(page, golden(published, confident=True)[0])
    answers(page, 1)
    fetched = page.evaluate(FETCHED)
    assert {name for name in fetched if not name.startswith(("blob:", "data:"))} == {
        server.address + "contract", server.address + "predict",
    }  # fmt: skip
    # And the pictures are let through by the policy.
    page.wait(lambda: bool(page.evaluate("document.querySelector('.thumb img').naturalWidth")), "the preview")


def test_the_policy_stops_script_that_is_not_the_pages_own(page: Chromium) -> None:
    page.evaluate(
        """(() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken'";
            document.body.append(script);
        })()"""
    )
    assert page.evaluate("document.title") == "photos-1: try the model"


def test_an_image_that_is_too_large_is_not_sent(page: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(UPLOAD_LIMIT + 1)
    choose(page, path)
    (found,) = answers(page, 1)
    assert found["texts"] == ["large.jpg", "over 32 MB; save the image smaller, or use: pipeline predict"]
    assert not [name for name in page.evaluate(FETCHED) if name.endswith("/predict")]


def test_names_from_elsewhere_are_text(browser: Chromium, tmp_path: Path) -> None:
    labels = [HOSTILE, "</script><script>document.title='taken'</script>", "__proto__", "7"]
    contract = {**CONTRACT, "run": HOSTILE, "backbone": HOSTILE, "labels": labels}
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (9, 9)).save(path)

    def ask(_: bytes) -> Prediction:
        return Prediction("", HOSTILE, 0.6299, dict(zip(labels, (0.6299, 0.2, 0.1, 0.0701), strict=True)), False)

    with running(ask, contract) as server:
        page = opened(browser, server, HOSTILE)
        choose(page, path)
        (found,) = answers(page, 1)
        # With as many digits as it takes to see why.
        assert found["texts"] == [path.name, HOSTILE, "not confident: 0.6299 is under the threshold 0.6300"]
        assert [row[0] for row in found["bars"]] == labels
        assert page.evaluate("document.querySelectorAll('img').length") == 1  # the preview
        assert page.evaluate("document.title") == f"{HOSTILE}: try the model"


@pytest.mark.parametrize("width", [360, 1200])
def test_long_names_do_not_make_it_wider_than_the_screen(width: int, browser: Chromium, tmp_path: Path) -> None:
    labels = [f"{number}{'long' * 30}" for number in range(40)]
    path = tmp_path / f"{'name' * 40}.png"
    Image.new("RGB", (400, 9)).save(path)

    def ask(contents: bytes) -> Prediction:
        return Prediction("", labels[0], 0.7, dict.fromkeys(labels, 0.01) | {labels[0]: 0.61}, False)

    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    try:
        with running(ask, {**CONTRACT, "run": "run" * 60, "labels": labels}) as server:
            page = opened(browser, server, "run" * 60)
            page.evaluate("document.querySelector('details').open = true")
            choose(page, path)
            (found,) = answers(page, 1)
            assert found["texts"][-1] == "0.350 on 35 more"
            assert page.evaluate("document.documentElement.scrollWidth") == width
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_a_server_that_ended_is_told(browser: Chromium, published: Path) -> None:
    with running(lambda _: Prediction("", "cat", 1.0, {"cat": 1.0}, True)) as server:
        page = opened(browser, server, "photos-1")
    choose(page, golden(published, confident=True)[0])
    (found,) = answers(page, 1)
    assert found["texts"][1] == "no answer; does pipeline serve still run?"
