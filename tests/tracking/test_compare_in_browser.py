"""The pages that people look at, in the browser they look with: two runs side by side, and what one run shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import BrowserError, Chromium, chromium_or_skip
from PIL import Image
from test_ui import SERVE, find_free_port

from pipeline.tracking import MlflowTracker

HEADLINE = (
    "top-1 0.875 (95 % interval 0.742 to 0.944) on 40 test images; always saying the commonest class scores 0.250"
)
REASON = "in stage train: the loss became NaN in epoch 2; lower train.head.learning_rate"
DIGEST = "f42d4743208c"
PICTURE_SIZE = (37, 23)

#: Of the two finished runs: what they were told, and what came out.
PARAMS = [{"seed": seed, "train": {"head": {"learning_rate": rate}}} for seed, rate in ((0, 0.003), (1, 0.0005))]
METRICS = [
    {"test/top_1": 0.875, "test/top_1_low": 0.742, "test/top_1_high": 0.944, "test/macro_f1": 0.861},
    {"test/top_1": 0.75, "test/top_1_low": 0.598, "test/top_1_high": 0.858, "test/macro_f1": 0.733},
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium_or_skip(tmp_path_factory.mktemp("chromium"), "MLflow's pages were not looked at") as browser:
        yield browser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    """Returns a project folder where nothing was run yet; the space and the sign are in people's folders too."""
    folder = tmp_path_factory.mktemp("ui") / "my project #1"
    folder.mkdir()
    shutil.copy(migrated_store, folder)
    return folder


@pytest.fixture(scope="module")
def runs(root: Path) -> list[str]:
    """Returns the ids of two finished runs and a failed one."""
    picture = root / "confusion_matrix.png"
    Image.new("RGB", PICTURE_SIZE, "navy").save(picture)
    ids = []
    for number, (params, metrics) in enumerate(zip(PARAMS, METRICS, strict=True), start=1):
        tracker = started(root, number, ids)
        tracker.log_params(params)
        for epoch in (1, 2):
            tracker.log_metrics({"validation/loss": number / epoch}, epoch)
        tracker.log_metrics(metrics)
        tracker.log_artifact(picture)
        tracker.log_table("per_class", {"label": ["cat", "dog"], "recall": [0.625, 0.5]})
        tracker.set_description(HEADLINE)
        tracker.finish("FINISHED")
    started(root, 3, ids).finish("FAILED", REASON)
    return ids


def started(root: Path, number: int, ids: list[str]) -> MlflowTracker:
    tracker = MlflowTracker(root)
    tags = {"task": "classification", "backbone": f"backbone_{number}", "dataset": DIGEST}
    ids.append(str(tracker.start(experiment="stamps", run_name=f"stamps-{number}", tags=tags)))
    return tracker


@pytest.fixture(scope="module")
def site(browser: Chromium, root: Path, runs: list[str]) -> Iterator[str]:
    """Returns the address that `pipeline ui` prints, up to the `#`."""
    command = [sys.executable, "-c", SERVE, str(root), str(find_free_port())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            line = server.stdout.readline()
            assert line.startswith("MLflow UI: http://127.0.0.1:"), line
            yield line.removeprefix("MLflow UI: ").partition("#")[0]
        finally:
            server.terminate()


def wait_for(browser: Chromium, *texts: str) -> None:
    """Waits until the texts stand side by side, in this order and with nothing between them."""

    def shown() -> bool:
        width = len(texts)
        return any(
            tuple(line[start : start + width]) == texts for line in browser.lines() for start in range(len(line))
        )

    browser.wait(shown, " | ".join(texts))


def test_two_runs_stand_side_by_side(browser: Chromium, site: str, runs: list[str]) -> None:
    browser.open(f'{site}#/compare-runs?runs=["{runs[0]}","{runs[1]}"]&experiments=["1"]')
    wait_for(browser, "Run Name:", "stamps-1", "stamps-2")
    wait_for(browser, "seed", "0", "1")
    wait_for(browser, "train.head.learning_rate", "0.003", "0.0005")
    for name in METRICS[0]:
        wait_for(browser, name, *(str(metrics[name]) for metrics in METRICS))
    wait_for(browser, "backbone", "backbone_1", "backbone_2")
    wait_for(browser, "dataset", DIGEST, DIGEST)
    wait_for(browser, "task", "classification", "classification")
    wait_for(browser, "confusion_matrix.png")


def test_runs_stand_in_one_table_with_charts(browser: Chromium, site: str, runs: list[str]) -> None:
    browser.open(f"{site}#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART")
    for text in ("stamps-1", "stamps-2", "stamps-3", "3", "validation/loss", "test/top_1", "test/top_1_low"):
        wait_for(browser, text)


def test_a_run_says_what_it_is(browser: Chromium, site: str, runs: list[str]) -> None:
    browser.open(f"{site}#/experiments/1/runs/{runs[0]}")
    wait_for(browser, HEADLINE)
    wait_for(browser, "Finished")
    for tag, value in (("task", "classification"), ("backbone", "backbone_1"), ("dataset", DIGEST)):
        wait_for(browser, tag, ":", value)
    wait_for(browser, "test/top_1_low", "0.742")


def test_a_failed_run_says_why(browser: Chromium, site: str, runs: list[str]) -> None:
    browser.open(f"{site}#/experiments/1/runs/{runs[2]}")
    wait_for(browser, f"FAILED: {REASON}")
    wait_for(browser, "Failed")


def test_a_picture_is_shown(browser: Chromium, site: str, runs: list[str]) -> None:
    browser.open(f"{site}#/experiments/1/runs/{runs[0]}/artifacts/confusion_matrix.png")
    sizes = "[...document.images].map(image => [image.naturalWidth, image.naturalHeight])"
    browser.wait(lambda: [*PICTURE_SIZE] in (browser.evaluate(sizes) or []), "confusion_matrix.png")


def test_a_table_is_shown_as_one(browser: Chromium, site: str, runs: list[str]) -> None:
    browser.open(f"{site}#/experiments/1/runs/{runs[0]}/artifacts/tables/per_class.json")
    wait_for(browser, "label", "recall")
    wait_for(browser, "cat", "0.625")
    wait_for(browser, "dog", "0.5")


def test_a_browser_that_cannot_start_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no display >&2\n")
    broken.chmod(0o755)
    with pytest.raises(BrowserError, match="it ended: no display"), Chromium(str(broken), tmp_path / "profile"):
        pass
