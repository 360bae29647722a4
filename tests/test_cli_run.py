"""The command line as a person uses it: real processes, the real MLflow store, an export that is then asked."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SETTINGS = [
    "model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[8]",
    "train.head.epochs=2",
]  # fmt: skip
RUN = [sys.executable, "-m", "pipeline", "run", *(word for setting in SETTINGS for word in ("--set", setting))]


def pipeline(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", *words], capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Path:
    """A folder in which one run has been made."""
    root = tmp_path_factory.mktemp("a project")
    make_photos(root / "my photos")
    done = subprocess.run([*RUN, "--data", "my photos"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    (root / "stdout.txt").write_text(done.stdout)
    (root / "stderr.txt").write_text(done.stderr)
    return root


def test_the_summary_says_where_everything_is(project: Path) -> None:
    printed = (project / "stdout.txt").read_text()
    assert "top-1" in printed
    for path in ("runs/photos-1", "runs/photos-1/report.html", "runs/photos-1/export"):
        assert path in printed
        assert (project / path).exists()
    assert "runs/photos-1/*.png  runs/photos-1/explain/*.png" in printed
    assert "compare OTHER-RUN photos-1" in printed
    assert "make ui" in printed


def test_stderr_has_progress_and_no_chatter(project: Path) -> None:
    shown = (project / "stderr.txt").read_text()
    for word in ("ingest", "head", "evaluate", "left"):
        assert word in shown
    for noise in ("oneDNN", "cuda", "Traceback", "Warning", "alembic"):
        assert noise not in shown


def test_predict_prints_one_json_document(project: Path) -> None:
    (project / "broken.jpg").write_bytes(b"no image")
    done = pipeline("predict", "runs/photos-1/export", "my photos/red", "broken.jpg", "--json", cwd=project)
    assert done.returncode == 0
    rows = json.loads(done.stdout)
    assert len(rows) == 9
    for row in rows[:8]:
        assert set(row) == {"path", "label", "probability", "probabilities", "confident", "error"}
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert (rows[8]["label"], rows[8]["probability"]) == ("", None)
    assert rows[8]["error"]


def test_predict_writes_a_table(project: Path) -> None:
    done = pipeline("predict", "runs/photos-1/export", "my photos", "-o", "answers.csv", cwd=project)
    assert (done.returncode, done.stdout) == (0, "")
    rows = list(csv.DictReader((project / "answers.csv").read_text().splitlines()))
    assert len(rows) == 24
    assert {"path", "label", "probability", "confident", "error", "p:blue", "p:green", "p:red"} == set(rows[0])


def test_runs_lists_the_run(project: Path) -> None:
    (row,) = json.loads(pipeline("runs", "--json", cwd=project).stdout)
    assert (row["name"], row["status"], row["backbone"]) == ("photos-1", "done", "convnet")
    evaluation = json.loads((project / "runs/photos-1/evaluation.json").read_text())
    assert row["metrics"] == evaluation["metrics"]
    assert "photos-1" in pipeline("runs", cwd=project).stdout


def test_an_error_is_one_line_and_exit_code_1(project: Path) -> None:
    done = pipeline("run", "--data", "absent", cwd=project)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: no folder absent; --data takes a folder with one sub-folder of images a class"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_says_how_to_go_on(project: Path, how: signal.Signals) -> None:
    name = how.name.lower()
    endless = ["--set", "train.head.epochs=5000", "--set", "train.patience=0"]
    command = [*RUN, "--data", "my photos", "--name", name, *endless]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=project) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("features of head"):  # the bar before training has ended
                break
        os.kill(process.pid, how)
        rest = process.stderr.read()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[how], rest
    assert "pipeline run --resume" in rest
    assert "Traceback" not in rest
    rows = {row["name"]: row for row in json.loads(pipeline("runs", "--json", cwd=project).stdout)}
    assert rows[name]["status"] == "killed"
    done = pipeline("run", "--resume", "--name", name, "--set", "train.head.epochs=1", cwd=project)
    assert done.returncode == 1  # train has begun with other values
    assert "train: stage train has run" in done.stderr
