"""What the Ray engine decides without Ray: whether it is there, how many workers fit, what a block and a worker are."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from subjects import export_small, write_many

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.export import cluster, cluster_model
from pipeline.export.cluster import Workers, plan_workers
from pipeline.export.cluster_model import Worker
from pipeline.export.predict import BATCH_SIZE, Predictor

# How many workers.


@pytest.mark.parametrize(
    ("nodes", "asked", "workers"),
    [
        ([{"CPU": 2}], None, Workers(1, 2)),
        ([{"CPU": 2}], 2, Workers(2, 1)),
        ([{"CPU": 16}], None, Workers(4, 4)),
        ([{"CPU": 16}], 3, Workers(3, 5)),
        ([{"CPU": 8}] * 3, None, Workers(6, 4)),
        ([{"CPU": 8}] * 3, 4, Workers(4, 4)),  # not 6: two of 6 cores do not fit in a machine of 8
        ([{"CPU": 8}, {}, {"CPU": 0}], None, Workers(2, 4)),  # a head without cores to spare
        ([{"CPU": 3}, {"CPU": 8}], None, Workers(3, 3)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 32}], None, Workers(2, 4, 1)),
        ([{"CPU": 2}], 50, Workers(50, 1)),  # machines that join later have room
    ],
)
def test_workers_fill_the_machines(nodes: list[dict[str, float]], asked: int | None, workers: Workers) -> None:
    assert plan_workers(nodes, asked, growing=True) == workers
    room = sum(int(node.get("CPU", 0) // workers.cores) for node in nodes)
    assert asked == 50 or workers.count <= room


def test_no_room() -> None:
    with pytest.raises(PipelineError, match="no machine with a core to spare"):
        plan_workers([{"memory": 1e9}], None, growing=True)
    with pytest.raises(PipelineError, match="--workers 3: this machine has room for 2; name at most as many"):
        plan_workers([{"CPU": 2}], 3, growing=False)


# The command without a cluster.


def refusal(*words: str, code: int) -> str:
    result = CliRunner().invoke(cli, ["predict", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr.strip().split("\n")[-1]


def test_ray_is_missed_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    said = refusal("no-export", "no-image.jpg", "--engine", "ray", code=1)
    assert said == "error: --engine ray needs Ray, which is not installed; pip install 'transfer-pipeline[ray]'"


def test_workers_are_rays() -> None:
    said = refusal("export", "a.jpg", "--workers", "2", code=2)
    assert said == "Error: --workers needs --engine ray; the local engine uses all cores of this machine"


def test_no_cluster_is_started_for_what_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray_cluster", lambda *_: pytest.fail("started"))
    (tmp_path / "a.jpg").touch()
    said = refusal(str(tmp_path), str(tmp_path / "a.jpg"), "--engine", "ray", code=1)
    assert "holds no saved_model.pb" in said


# Which cluster.


def test_the_cluster_is_that_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster._cluster_address() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.7:6379")
    assert cluster._cluster_address() == "10.0.0.7:6379"
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert cluster._cluster_address() == "ray://head:10001"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster._cluster_address() is None


def test_a_cluster_that_is_away_is_one_line() -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("Could not\nfind it")

    with pytest.raises(
        PipelineError, match=r"cluster head:1 cannot be joined \(Could not find it\); start it, or set RAY"
    ):
        cluster._connect(SimpleNamespace(init=away), "head:1", 0)


@pytest.mark.parametrize("ended", [False, True], ids=["taken", "taken and sent"])
def test_sigterm_is_whose_it_was(ended: bool) -> None:
    """Ray takes the signal when it is started, and ends the process with its own code if it comes meanwhile."""
    heard: list[int] = []

    def mine(number: int, _: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    def rays(*_: object) -> None:
        raise SystemExit(1)

    def starting() -> None:
        with cluster._signals_kept():
            signal.signal(signal.SIGTERM, rays)
            if ended:
                signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(KeyboardInterrupt) if ended else contextlib.nullcontext():
            starting()
        assert signal.getsignal(signal.SIGTERM) is mine
        assert heard == [signal.SIGTERM] * ended
    finally:
        signal.signal(signal.SIGTERM, before)


# Blocks.


@pytest.mark.parametrize(("count", "workers"), [(1, 2), (41, 2), (16 * 8 * 6, 3), (100_000, 2), (70_000, 500)])
def test_blocks_are_whole_batches_and_enough_for_all(count: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_model, "_PATHS", 2**10)
    names = [f"{number} \udcff.jpg" for number in range(count)]
    blocks = [block["path"].to_pylist() for block in cluster_model._blocks((Path(name) for name in names), workers)]
    assert list(chain(*blocks)) == [name.encode("utf-8", "surrogateescape") for name in names]
    assert {len(block) % BATCH_SIZE for block in blocks[:-1]} <= {0}
    assert max(map(len, blocks)) <= 8 * BATCH_SIZE
    assert len(blocks) >= min(8 * workers, -(-count // BATCH_SIZE))


def test_no_paths_are_no_blocks() -> None:
    assert cluster_model._blocks(iter([]), 2) == []


# A worker, in this process.


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture
def worker(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Worker]:
    """Returns a function that starts one, whose threads are left as they are."""
    import ray
    import tensorflow as tf

    monkeypatch.setattr(ray, "get", lambda sent: sent)
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", lambda _: None)
    monkeypatch.chdir(tmp_path)
    files = cluster_model._served_files(export)

    def start(**changed: Any) -> Worker:
        given = {
            "sent": [files], "digest": cluster_model._files_digest(files), "cores": 1, "home": str(tmp_path),
            "wanted": cluster_model._own_version(),
        }  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.simplefilter", lambda _: None)
            return Worker(**{**given, **changed})

    return start


def ask(worker: Worker, *paths: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = worker(pa.table({"path": [path.encode() for path in paths]})).to_pylist()
    return rows


def test_only_what_answers_depend_on_is_sent(export: Path, tmp_path: Path) -> None:
    whole = tmp_path / "export"
    for path in (*(p for p in export.rglob("*") if p.is_file()), Path(__file__)):
        target = whole / (path.relative_to(export) if path.is_relative_to(export) else "golden/verify.py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    sent = cluster_model._served_files(whole)
    assert "golden/verify.py" not in sent
    assert {"saved_model.pb", "labels.txt", "variables/variables.index"} < set(sent)
    assert all(contents.tobytes() == (export / name).read_bytes() for name, contents in sent.items())


def test_a_worker_answers_as_a_predictor_does(export: Path, tmp_path: Path, worker: Callable[..., Worker]) -> None:
    (tmp_path / "photos").mkdir()
    paths = sorted(str(path.relative_to(tmp_path)) for path in write_many(tmp_path / "photos").iterdir())
    rows = ask(worker(), *paths)
    for row, one in zip(rows, Predictor(export).predict(map(Path, paths)), strict=True):
        assert (row["path"], row["error"], row["confident"]) == (one.path, one.error, one.confident)
        assert row["values"] == list(one.probabilities.values())
        assert row["absent"] is row["trouble"] is None


def test_a_file_that_only_the_worker_misses_ends_the_job(tmp_path: Path, worker: Callable[..., Worker]) -> None:
    """It would be a bad row, as if the file were at fault; one that is nowhere is."""
    (row,) = ask(worker(), "there.jpg")
    cluster_model._require_answer(row)
    (tmp_path / "there.jpg").touch()
    with pytest.raises(PipelineError, match=r"there.jpg is here, but not on the machine .*; name a folder that all"):
        cluster_model._require_answer(row)


@pytest.mark.parametrize(
    ("changed", "trouble"),
    [
        ({"wanted": "9.9"}, r"has transfer-pipeline \S+, not 9.9; install the same everywhere"),
        ({"digest": "0" * 64}, "the export did not arrive as it was sent"),
    ],
)
def test_a_worker_says_why_it_cannot_answer(
    worker: Callable[..., Worker], changed: dict[str, str], trouble: str
) -> None:
    (row,) = ask(worker(**changed), "a.jpg", "b.jpg")
    with pytest.raises(PipelineError, match=rf"^worker on .*: {trouble}"):
        cluster_model._require_answer(row)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            "traceback:\n\nModuleNotFoundError: No module named 'pipeline'",
            r"^a worker has no transfer-pipeline \S+; install",
        ),
        ("Much.\nThe disk is full", "^Ray gave up: The disk is full; the same command goes on"),
    ],
)
def test_an_error_of_rays_is_one_line(told: str, message: str) -> None:
    import ray

    with pytest.raises(PipelineError, match=message), cluster_model._ray_errors():
        raise ray.exceptions.RaySystemError(told)
