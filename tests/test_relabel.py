"""`pipeline relabel` on a tiny run, as it is called from the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import pipeline.tracking
from pipeline.cli import cli
from pipeline.config import load_config
from pipeline.ingest.manifest import load_manifest
from pipeline.plan import Request, plan_run
from pipeline.run import run_pipeline
from pipeline.tracking import MemoryTracker
from pipeline.workdir import RunDir


@pytest.fixture(autouse=True)
def tracker(monkeypatch: pytest.MonkeyPatch) -> MemoryTracker:
    """The tracker that the command gets, in memory."""
    memory = MemoryTracker()
    monkeypatch.setattr(pipeline.tracking, "MlflowTracker", lambda _root: memory)
    return memory


@pytest.fixture
def project(tmp_path: Path, make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the ingested run mine-1 of the recipe mine.yaml, in it."""
    make_photos(tmp_path / "photos", count=12)
    (tmp_path / "mine.yaml").write_text("ingest: {data: photos, split: {seed: 5}}\naugment: {views: 2}\n")
    monkeypatch.chdir(tmp_path)
    run_pipeline(Request(Path("mine.yaml"), stages=("ingest",)), tmp_path, tracker=MemoryTracker())
    return tmp_path


def call(*words: object) -> Result:
    result = CliRunner().invoke(cli, ["relabel", *(str(word) for word in words)], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def fixes(text: str, name: str = "fixes.csv") -> Path:
    Path(name).write_text("id,new_label\n" + text)
    return Path(name)


def rows(run: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in load_manifest(Path("runs") / run / "manifest.parquet").table.to_pylist()}


def overlay(run: str) -> dict[str, str]:
    with (Path("runs") / run / "relabel.csv").open(newline="") as file:
        return {row["id"]: row["new_label"] for row in csv.DictReader(file)}


def test_a_new_run_of_the_same_recipe_and_what_to_do_next(project: Path, tracker: MemoryTracker) -> None:
    before, first = Path("runs/mine-1/manifest.parquet").read_bytes(), rows("mine-1")
    result = call("mine-1", fixes("red/0.jpg,blue\nred/1.png,\ngreen/3.png,blue\n"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "2 labels changed from mine-1 to mine-2: 1 green -> blue, 1 red -> blue"
    assert "  red/0.jpg: red -> blue" in lines
    assert lines[-1] == "go on with: pipeline run --name mine-2 augment build train evaluate export"
    second = rows("mine-2")
    assert {name for name in second if second[name]["label"] != first[name]["label"]} == {"red/0.jpg", "green/3.png"}
    assert second["red/0.jpg"]["source_label"] == "red"
    assert {name: row["split"] for name, row in second.items()} == {name: row["split"] for name, row in first.items()}
    assert Path("runs/mine-1/manifest.parquet").read_bytes() == before
    assert (tracker.experiment, tracker.status) == ("mine", "FINISHED")
    assert list(RunDir(Path("runs/mine-2")).load_state()["stages"]) == ["ingest"]


def test_the_run_has_the_recipe_and_a_copy_of_the_overlay(project: Path, tracker: MemoryTracker) -> None:
    Path("mine.yaml").write_text("ingest: {data: elsewhere}\n")  # edited meanwhile: the run's own recipe counts
    call("mine-1", fixes("red/0.jpg,blue\n"))
    old, new = (load_config(Path(f"runs/mine-{number}/config.yaml")) for number in (1, 2))
    assert new.ingest == old.ingest.model_copy(update={"relabel": new.ingest.relabel})
    assert new.model_copy(update={"ingest": old.ingest, "experiment": None}) == old
    assert new.ingest.relabel is not None
    kept = project / new.ingest.relabel
    assert kept.parent == project / "relabels"
    copy = project / "runs" / "mine-2" / "relabel.csv"
    assert copy.read_bytes() == kept.read_bytes()
    assert copy in [path for path, _ in tracker.artifacts]
    Path("fixes.csv").unlink()  # not needed any more
    plan = plan_run(Request(name="mine-2", stages=("augment", "build", "train")), project / "runs")
    assert (plan.kind, plan.config) == ("joined", new)


def test_relabelling_a_relabelled_run_adds_up(project: Path) -> None:
    call("mine-1", fixes("red/0.jpg,blue\nred/1.png,green\n"))
    Path(load_config(Path("runs/mine-2/config.yaml")).ingest.relabel or "").unlink()  # the run has its own copy
    result = call("mine-2", fixes("green/3.png,red\nred/1.png,red\n"), "--name", "third", "--json")
    document = json.loads(result.stdout)
    assert document["changes"] == [
        {"id": "green/3.png", "before": "green", "after": "red"},
        {"id": "red/1.png", "before": "green", "after": "red"},
    ]
    assert (document["of"], document["run"], document["earlier"]) == ("mine-2", "third", 1)
    changed = {name: row["label"] for name, row in rows("third").items() if row["label"] != row["source_label"]}
    assert changed == {"red/0.jpg": "blue", "green/3.png": "red"}
    assert overlay("third") == changed
    assert Path(document["file"]).read_bytes() == Path("runs/third/relabel.csv").read_bytes()


def test_an_earlier_fix_of_an_image_that_was_left_out_still_holds(project: Path) -> None:
    """Copies under two labels are left out unless a fix makes them agree; neither is in the manifest before."""
    shutil.copy("photos/red/1.png", "photos/blue/copy.png")
    settings = (f"ingest.relabel={fixes('blue/copy.png,green' + chr(10), 'useless.csv')}",)
    run_pipeline(Request(Path("mine.yaml"), settings=settings, stages=("ingest",)), project, tracker=MemoryTracker())
    assert "blue/copy.png" not in rows("mine-2")
    assert call("mine-2", fixes("red/0.jpg,blue\n")).exit_code == 0
    assert overlay("mine-3") == {"red/0.jpg": "blue", "blue/copy.png": "green"}


def test_a_fix_of_an_image_that_was_deleted_since_goes_with_it(project: Path) -> None:
    call("mine-1", fixes("red/0.jpg,blue\n"))
    Path("photos/red/0.jpg").unlink()
    assert call("mine-2", fixes("red/1.png,blue\n")).exit_code == 0
    assert overlay("mine-3") == {"red/1.png": "blue"}


def test_sides_are_those_of_the_run_though_a_newer_one_has_others(project: Path) -> None:
    settings = ("ingest.split.seed=9",)
    run_pipeline(Request(Path("mine.yaml"), settings=settings, stages=("ingest",)), project, tracker=MemoryTracker())
    first, newer = rows("mine-1"), rows("mine-2")
    assert {name for name in first if first[name]["split"] != newer[name]["split"]}
    call("mine-1", fixes("red/0.jpg,blue\ngreen/1.png,red\nblue/2.jpg,red\n"))
    third = rows("mine-3")
    assert {name: row["split"] for name, row in third.items()} == {name: row["split"] for name, row in first.items()}


def test_moved_images_are_found_again(project: Path) -> None:
    call("mine-1", fixes("red/0.jpg,blue\n"))
    kept = load_config(Path("runs/mine-2/config.yaml")).ingest.relabel
    Path("photos").rename("pictures")
    Path("pictures/red/0.jpg").rename("pictures/red/renamed.jpg")
    request = Request(Path("mine.yaml"), "pictures", settings=(f"ingest.relabel={kept}",), stages=("ingest",))
    run_pipeline(request, project, tracker=MemoryTracker())
    assert rows("mine-3")["red/renamed.jpg"]["label"] == "blue"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine-1", "gone.csv"], "fixes gone.csv cannot be read: No such file"),
        (["mine-9", "good.csv"], "no run 'mine-9'"),
        (["mine-1", "empty.csv"], "nothing to change in mine-1 by empty.csv: no line has a new_label"),
        (["mine-1", "same.csv"], "nothing to change in mine-1 by same.csv: all 1 are so already"),
        (["mine-1", "columns.csv"], "fixes columns.csv have no column 'new_label' but 'id', 'label'"),
        (["mine-1", "label.csv"], "red/0.jpg is to be 'bleu', which is no class here; did you mean 'blue'?"),
        (["mine-1", "unknown.csv"], "red/99.jpg is no image of this source (1 more like it)"),
        (["mine-1", "good.csv", "--name", "mine-1"], "run 'mine-1' exists"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_no_run(words: list[str], message: str, project: Path) -> None:
    fixes("red/0.jpg,blue\n", "good.csv")
    fixes("red/0.jpg,\n", "empty.csv")
    fixes("red/0.jpg,red\n", "same.csv")
    fixes("red/0.jpg,bleu\n", "label.csv")
    fixes("red/99.jpg,blue\nred/98.jpg,blue\n", "unknown.csv")
    Path("columns.csv").write_text("id,label\nred/0.jpg,blue\n")
    result = call(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in Path("runs").iterdir()] == ["mine-1"]


def test_a_run_that_was_not_ingested_is_refused(project: Path) -> None:
    RunDir(Path("runs/mine-1")).update_state(stages={"ingest": {"state": "failed"}})
    result = call("mine-1", fixes("red/0.jpg,blue\n"))
    assert result.exit_code == 1
    assert "relabel needs ingest, which is failed in run 'mine-1'" in result.stderr
