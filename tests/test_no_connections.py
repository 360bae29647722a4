"""No command connects to anything beyond this machine, but for those that announce a download first."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

#: Loaded by every Python process below the one that is watched. Refuses and notes what would leave the machine.
GUARD = """
import os, sys

def _is_here(host):
    return host in (None, "", "localhost", b"localhost", "::1", "0.0.0.0", "::") or str(host).startswith("127.")

def _watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None  # a name in the file system, or a number
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.gethostbyname":
        host = arguments[0]
    else:
        return
    if not _is_here(host):
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{event} {host}\\n")
        raise OSError(f"{event} to {host} in a test")

sys.addaudithook(_watch)
"""

#: Runs command lines one after the other in a process, so that TensorFlow is loaded once.
MANY = """
import json, sys
from click.testing import CliRunner
from pipeline.cli import cli

for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(cli, words, input="y\\n")
    print(json.dumps([words, done.exit_code, done.output[-2000:]]))
"""

SETTINGS = [
    "model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[8]",
    "train.head.epochs=2", "evaluate.explain=1",
]  # fmt: skip
RUN = ["run", *(word for setting in SETTINGS for word in ("--set", setting)), "--data", "photos", "--name"]

#: Every command, as in a project with a run of the first line.
COMMANDS = [
    [*RUN, "one"],
    [*RUN, "two", "--set", "seed=1"],
    ["runs", "--json"],
    ["predict", "runs/one/export", "photos/red", "--json"],
    ["verify", "runs/one/export"],
    ["compare", "one", "two"],
    ["explain", "one", "photos/red/0.jpg", "-o", "explained.png"],
    ["similar", "one", "photos/red/0.jpg", "-o", "similar.png"],
    ["doctor", "photos"],
    ["inspect", "photos/red/0.jpg", "-o", "inspected.png"],
    ["models", "--json"],
    ["init", "mine.yaml"],
    ["relabel", "one", "fixes.csv"],
    ["bank", "list"],
    ["bank", "clear"],
    ["promote", "one", "--alias", "champion", "--register", "ours"],
    ["weights", "efficientnet_lite0"],
]


@pytest.fixture
def project(tmp_path: Path, make_photos: Callable[..., Path]) -> Path:
    make_photos(tmp_path / "photos", count=12)
    (tmp_path / "fixes.csv").write_text("id,new_label\nred/0.jpg,blue\n")
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    return tmp_path


def watched(project: Path, *words: str, under: Sequence[str] = ()) -> tuple[subprocess.CompletedProcess[str], str]:
    """Returns what a Python process did, and a line for each connection that it or a child of it tried."""
    noted = project / "connections.txt"
    noted.unlink(missing_ok=True)
    path = os.pathsep.join([str(project / "guard"), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "CONNECTIONS": str(noted), "HOME": str(project / "home")}
    environment.pop("KERAS_HOME", None)
    command = [*under, sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project, env=environment, check=False)
    return done, noted.read_text() if noted.exists() else ""


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[int, str]]:
    """Returns exit code and output of each command line that `MANY` was given."""
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {" ".join(words): (code, output) for words, code, output in rows}


def test_the_guard_sees_a_connection(project: Path) -> None:
    ask = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/')"
    done, noted = watched(project, "-c", ask)
    assert done.returncode != 0
    assert "192.0.2.1" in noted


def test_no_command_leaves_the_machine(project: Path) -> None:
    done, noted = watched(project, "-c", MANY, json.dumps(COMMANDS))
    for words, (code, output) in answers(done).items():
        assert code == 0, f"{words}: {output}"
    assert noted == ""


def test_every_command_is_among_them() -> None:
    from pipeline.cli import cli

    announcing_or_serving = {"ui", "serve"}
    assert set(cli.commands) == {words[0] for words in COMMANDS} | announcing_or_serving


def test_a_download_is_announced_before_it_is_tried(project: Path) -> None:
    done, noted = watched(project, "-m", "pipeline", "weights", "inception_v3")
    assert done.returncode == 1
    host = re.search(r"https://([^/ ]+)/", done.stderr)
    assert host is not None
    assert "downloading" in done.stderr
    assert {line.split()[-1] for line in noted.splitlines()} == {host[1]}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace sees what C++ does; it is not installed")
def test_nothing_below_python_leaves_it_either(project: Path) -> None:
    trace = project / "trace.txt"
    under = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]
    answers(watched(project, "-c", MANY, json.dumps(COMMANDS), under=under)[0])
    calls = trace.read_text()
    assert "AF_UNIX" in calls or "AF_INET" in calls or calls == ""
    addresses = re.findall(r'inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"', calls)
    assert [address for address in addresses if not address.startswith("127.") and address != "::1"] == []
