"""The command `predict`: what stands on stdout, what on stderr, the exit code, and a job that is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console
from subjects import export_small

import pipeline
from pipeline.cli import cli
from pipeline.cli_predict import _print
from pipeline.export.predict import Prediction, Predictor
from pipeline.export.probes import picture
from pipeline.terminal import Interrupts, TerminalProgress


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder of five images, the last one bad; the working folder is above it."""
    monkeypatch.chdir(tmp_path)
    root = Path("my photos")
    root.mkdir()
    for number in range(4):
        Image.fromarray(picture(number, 40, 50)).save(root / f"{number}.{'jpg' if number % 2 else 'png'}")
    (root / "4 \u2028 [x].jpg").write_bytes(b"no image")
    return root


def call(export: Path, *words: object, stdin: bytes | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["predict", str(export), *map(str, words)], input=stdin, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_json_is_one_list_as_it_was_before_it_came_in_pieces(export: Path, photos: Path) -> None:
    documents = [one.document() for one in Predictor(export).predict(sorted(photos.iterdir()))]
    printed = call(export, photos, "--json").stdout
    assert len(json.loads(printed)) == 5
    assert printed == json.dumps(documents, ensure_ascii=False, indent=2) + "\n"


def test_a_line_an_image_and_the_counts_last(export: Path, photos: Path) -> None:
    result = call(export, photos, "--top", 2)
    lines = result.stdout.split("\n")
    assert len(lines) == 6
    assert [line.partition(": ")[0] for line in lines[:4]] == [
        f"my photos/{n}.{'jpg' if n % 2 else 'png'}" for n in range(4)
    ]
    assert all(line.count(", ") == 1 for line in lines[:4])
    assert "error: holds no image" in lines[4]
    unsure = sum("(not confident)" in line for line in lines)
    last = result.stderr.strip().split("\n")[-1]
    assert last.startswith("4 predicted, 1 bad (my photos/4 ")
    assert last.endswith(f"holds no image that can be recognised), {unsure} not confident")


def test_lines_are_printed_while_later_files_are_asked(
    export: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[str] = []
    taken: list[int] = []
    monkeypatch.setattr("pipeline.cli_predict.click.echo", lambda text, **_: printed.append(text))
    found = Predictor.predict

    def spy(self: Predictor, paths: Any, batch_size: int = 16) -> Any:
        for one in found(self, paths, batch_size):
            taken.append(len(printed))
            yield one

    monkeypatch.setattr(Predictor, "predict", spy)
    for words in ([], ["--json"]):
        printed.clear()
        taken.clear()
        call(export, photos, *words)
        assert taken == [0, 1, 2, 3, 4]


def test_patterns_and_lists(export: Path, photos: Path) -> None:
    rows = json.loads(call(export, "my */*.png", "--json").stdout)
    assert [row["path"] for row in rows] == ["my photos/0.png", "my photos/2.png"]
    rows = json.loads(call(export, "-", "--json", stdin=b"my photos/3.jpg\nabsent.jpg\n").stdout)
    assert [(row["path"], bool(row["error"])) for row in rows] == [("my photos/3.jpg", False), ("absent.jpg", True)]
    result = call(export, "-", "-o", "labels.csv", stdin=b"my photos/2.png\0my photos/1.jpg\0")
    assert result.stdout == ""
    assert result.stderr.strip().split("\n")[-1].endswith(", in labels.csv")
    assert pyarrow.csv.read_csv("labels.csv")["path"].to_pylist() == ["my photos/2.png", "my photos/1.jpg"]


def test_all_bad_is_exit_code_1(export: Path, photos: Path) -> None:
    assert "0 predicted, 1 bad" in call(export, next(photos.glob("4*")), code=1).stderr
    call(export, next(photos.glob("4*")), "-o", "labels.jsonl", code=1)
    assert json.loads(Path("labels.jsonl").read_text())["error"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_job_that_is_ended_from_outside_goes_on(export: Path, photos: Path, how: signal.Signals) -> None:
    """A list that never ends on its own, so that the job is ended in the middle of it for sure."""
    words = [sys.executable, "-m", "pipeline", "predict", str(export), "-", "-o", "labels.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    listed = b"".join(b"my photos/%d.%s\n" % (n % 4, b"jpg" if n % 2 else b"png") for n in range(300))
    part = Path("labels.jsonl.part")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(listed)
        process.stdin.flush()
        until = time.monotonic() + 60
        while not (part.exists() and part.read_bytes().count(b"\n") > 64) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(how)
        process.stdin.close()
        said = process.stderr.read().decode()
    assert process.returncode == (130 if how == signal.SIGINT else -9), said
    if how == signal.SIGINT:
        assert "interrupted; the same command goes on where it stopped" in said
    assert "Traceback" not in said
    assert not Path("labels.jsonl").exists()
    kept = part.read_bytes().count(b"\n") - 1
    result = call(export, "-", "-o", "labels.jsonl", stdin=listed)
    assert f"resumes after {kept}: labels.jsonl.part" in result.stderr
    rows = [json.loads(line)["path"] for line in Path("labels.jsonl").read_text().splitlines()]
    assert rows == listed.decode().splitlines()
    assert sorted(os.listdir()) == ["labels.jsonl", "my photos"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, stdout: io.StringIO, interrupts: Interrupts | None = None) -> str:
    """Prints two predictions beside a bar on a terminal; returns what the terminal shows of the bar."""
    progress, screen = TerminalProgress(interrupts), Screen()
    progress.console = Console(file=screen, force_terminal=True)
    monkeypatch.setattr(sys, "stdout", stdout)
    answers = [Prediction(f"{number}.jpg", "ant", 0.9, {"ant": 0.9}, True) for number in range(2)]
    _print(iter(answers), 2, 1, False, progress)
    return screen.getvalue()


def test_a_bar_on_the_terminal_takes_no_line_away_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    shown = printed(monkeypatch, pipe)
    assert pipe.getvalue() == "0.jpg: ant 0.900\n1.jpg: ant 0.900\n"
    assert "2/2" in shown
    assert ".jpg" not in shown


def test_lines_on_the_terminal_are_their_own_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    assert printed(monkeypatch, screen) == ""
    assert screen.getvalue() == "0.jpg: ant 0.900\n1.jpg: ant 0.900\n"
    interrupts = Interrupts()
    monkeypatch.setattr(interrupts, "_received", signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        printed(monkeypatch, Screen(), interrupts)
