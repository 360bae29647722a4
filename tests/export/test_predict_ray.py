"""Predictions by a Ray cluster of two workers on this machine: the rows of one process, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from subjects import COUNT, export_small, write_many

import pipeline
from pipeline.errors import PipelineError
from pipeline.export.cluster import Workers, ray_cluster
from pipeline.export.cluster_model import ClusterModel
from pipeline.export.job import Tally, predict_to_file
from pipeline.export.predict import Predictor
from pipeline.progress import Silent

# Of Ray's settings object about its own fields, whenever it is made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

#: Rows of a job in which a worker has more to do whenever it is looked at.
MANY = 6000


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(write_many(tmp_path_factory.mktemp("photos")).iterdir())


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """Returns two workers of a cluster that is there for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        with ray_cluster(2) as found:
            yield found


@pytest.fixture
def model(export: Path, workers: Workers) -> ClusterModel:
    return ClusterModel(export, Workers(2, 1))


def many(photos: list[Path]) -> list[Path]:
    return [photos[number % COUNT] for number in range(MANY)]


def rows_of_ray(process: psutil.Process) -> set[int]:
    """Returns the ids of the workers that have the export, below a process."""
    found = set()
    for child in process.children(recursive=True):
        try:
            if "MapWorker" in " ".join(child.cmdline()):
                found.add(child.pid)
        except psutil.Error:  # it has just ended
            continue
    return found


def test_the_bytes_are_those_of_one_process(
    export: Path, photos: list[Path], model: ClusterModel, tmp_path: Path
) -> None:
    """And nothing of the cluster can be reached from another machine meanwhile. One worker starts in half the time."""
    model._workers = Workers(1, 2)
    open_to: set[str] = set()

    class Looking(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if not open_to:
                processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
                sockets = [one for process in processes for one in process.net_connections()]
                open_to.update(one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN)

    names = ["here.csv", "there.csv"]
    tallies = [
        predict_to_file(Predictor(export), iter(photos), COUNT, tmp_path / names[0], Silent()),
        predict_to_file(model, iter(photos), COUNT, tmp_path / names[1], Looking()),
    ]
    here, there = ((tmp_path / name).read_bytes() for name in names)
    assert here.count(b"\n") == COUNT + 1
    assert there == here
    assert tallies[0].line() == tallies[1].line()
    assert tallies[1].bad == 2
    assert sorted(os.listdir(tmp_path)) == names
    assert {address.removeprefix("::ffff:") for address in open_to} == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_bytes_of_every_format_and_of_urls(
    export: Path, photos: list[Path], model: ClusterModel, tmp_path: Path, suffix: str
) -> None:
    names = [f"here.{suffix}", f"there.{suffix}"]
    urls = [f"file://{path}" for path in photos]
    for name, one in zip(names, (Predictor(export), model), strict=True):
        predict_to_file(one, iter(urls), COUNT, tmp_path / name, Silent())
    here, there = ((tmp_path / name).read_bytes() for name in names)
    assert there == here
    if suffix == "jsonl":
        assert [json.loads(line)["path"] for line in there.splitlines()] == urls


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_row(
    export: Path, photos: list[Path], model: ClusterModel, tmp_path: Path
) -> None:
    """Both have blocks when one of them is killed; it is another process that answers for it then."""
    seen: set[int] = set()
    killed: list[int] = []

    class Killing(Silent):
        done = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.done += steps
            if self.done == 100:
                seen.update(rows_of_ray(psutil.Process()))
                killed.append(min(seen))
                os.kill(killed[0], signal.SIGKILL)
            elif self.done % 500 == 0:
                seen.update(rows_of_ray(psutil.Process()))

    for name, one, progress in (("here.csv", Predictor(export), Silent()), ("there.csv", model, Killing())):
        predict_to_file(one, iter(many(photos)), MANY, tmp_path / name, progress)
    assert len(killed) == 1
    assert len(seen - set(killed)) >= 2, "nobody came in the place of the one that was killed"
    assert not psutil.pid_exists(killed[0])
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


@pytest.mark.slow
def test_a_job_goes_on_from_rows_of_either_engine(
    export: Path, photos: list[Path], model: ClusterModel, tmp_path: Path
) -> None:
    class Stop(BaseException):
        pass

    class Stopping(Silent):
        done = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.done += 1
            if self.done == 20:
                raise Stop

    class Told(Silent):
        said = ""

        def say(self, line: str) -> None:
            self.said = line

    predictor = Predictor(export)
    for number, (first, then) in enumerate([(predictor, model), (model, predictor)]):
        output, told = tmp_path / f"{number}.jsonl", Told()
        with pytest.raises(Stop):
            predict_to_file(first, iter(photos), COUNT, output, Stopping())
        assert not output.exists()
        tally: Tally = predict_to_file(then, iter(photos), COUNT, output, told)
        assert told.said.startswith("resumes after 20 of 41")
        assert (tally.predicted, tally.bad) == (COUNT - 2, 2)
        assert [json.loads(line)["path"] for line in output.read_text().splitlines()] == list(map(str, photos))


@pytest.mark.slow
def test_what_keeps_a_worker_from_answering_is_told(model: ClusterModel, photos: list[Path]) -> None:
    model._sent = model._sent[0], "0" * 64
    with pytest.raises(PipelineError, match=r"^worker on \S+: the export did not arrive as it was sent"):
        next(model.predict(photos))


@pytest.mark.slow
def test_a_cluster_that_is_there_is_joined_and_stays(
    export: Path, photos: list[Path], workers: Workers, tmp_path: Path
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    with start(export, b"".join(os.fsencode(path) + b"\n" for path in photos), tmp_path / "a.csv", address) as process:
        assert process.stderr
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    predict_to_file(Predictor(export), iter(photos), COUNT, tmp_path / "b.csv", Silent())
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert [node["Alive"] for node in ray.nodes()] == [True]


# The command, which starts a cluster and stops it.


def start(
    export: Path, listed: bytes, output: Path, address: str = "local", under: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    words = ["predict", str(export), "-", "-o", str(output), "--engine", "ray", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1]), "RAY_ADDRESS": address}
    if address != "local":  # one on the loopback address, which Ray does not take for a cluster's otherwise
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    output.with_name("listed").write_bytes(listed)
    with output.with_name("listed").open("rb") as stdin:
        return subprocess.Popen(
            [*under, sys.executable, "-m", "pipeline", *words], stdin=stdin, stderr=subprocess.PIPE, env=environment
        )


def wait_until(holds: Callable[[], Any], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(holds())


def is_agent(process: psutil.Process) -> bool:
    """Returns whether a process is one of the two that Ray lets wait a minute for a lost cluster before they end."""
    return "agent" in " ".join(process.cmdline()).lower()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_is_ended_leaves_rows_and_no_process(
    export: Path, photos: list[Path], tmp_path: Path, how: signal.Signals
) -> None:
    paths = many(photos) * 5
    output, part = tmp_path / "labels.jsonl", tmp_path / "labels.jsonl.part"
    with start(export, b"".join(os.fsencode(path) + b"\n" for path in paths), output) as process:
        assert process.stderr
        assert wait_until(lambda: part.exists() and part.read_bytes().count(b"\n") > 200)
        below = [one for one in psutil.Process(process.pid).children(recursive=True) if not is_agent(one)]
        process.send_signal(how)
        said = process.stderr.read().decode()
    assert process.returncode == (-9 if how == signal.SIGKILL else 128 + how), said
    assert "Traceback" not in said
    if how != signal.SIGKILL:
        assert said.strip().splitlines()[-1].startswith("interrupted; the same command goes on where it stopped")
    assert len(below) > 4
    assert wait_until(lambda: not any(child.is_running() for child in below))
    assert not output.exists()
    kept = part.read_bytes().count(b"\n") - 1
    assert kept < len(paths)
    tally = predict_to_file(Predictor(export), iter(paths[: kept + 20]), None, output, Silent())
    assert tally.predicted + tally.bad == kept + 20
    assert [json.loads(line)["path"] for line in output.read_text().splitlines()] == list(map(str, paths[: kept + 20]))


@pytest.mark.slow
def test_the_command_says_who_answers_and_nothing_of_rays(export: Path, photos: list[Path], tmp_path: Path) -> None:
    with start(export, b"".join(os.fsencode(path) + b"\n" for path in photos), tmp_path / "labels.csv") as process:
        assert process.stderr
        lines = process.stderr.read().decode().strip().splitlines()
    assert process.returncode == 0
    assert lines[0] == "ray: 2 workers, each with 1 core"
    assert lines[-1].startswith("39 predicted, 2 bad (")
    assert all(line.startswith("predict  ") for line in lines[1:-1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace sees what C++ does; it is not installed")
def test_nothing_leaves_the_machine(export: Path, photos: list[Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    under = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]
    listed = b"".join(os.fsencode(path) + b"\n" for path in photos)
    with start(export, listed, tmp_path / "labels.csv", under=under) as process:
        assert process.stderr
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    asked = re.findall(r'inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"', trace.read_text(errors="replace"))
    assert {address.removeprefix("::ffff:") for address in asked} == {"127.0.0.1"}
