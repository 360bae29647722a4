"""`pipeline promote` as it is called: runs that no training made, exports that are real, a store that is MLflow's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import pytest
from click.testing import CliRunner, Result
from test_compare import CLASSES, Photo, make_run, photos, wrong

from pipeline.cli import cli
from pipeline.errors import CheckError
from pipeline.export import verify
from pipeline.export.golden import Original
from pipeline.export.stage import Origin, publish
from pipeline.files import read_json, write_json
from pipeline.ingest.manifest import load_manifest
from pipeline.registration import version_tags
from pipeline.tasks.base import UNCALIBRATED
from pipeline.tasks.table import load_task
from pipeline.tracking import MlflowTracker, Registry, Version
from pipeline.workdir import RunDir

Register = Callable[..., RunDir]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real export without test images, to be copied."""
    root = tmp_path_factory.mktemp("export")
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(len(CLASSES))]
    of = Original(keras.Sequential(layers), load_task("classification"), CLASSES, UNCALIBRATED, "stretch")
    test = load_manifest(make_run(root, "any", photos()).manifest).split("test")
    publish(of, Origin("any", None, "d" * 64, "none"), test, None, 0, root / "export")
    return root / "export"


#: Asks an export; a second and more each time.
check_answers = verify.check_answers


@pytest.fixture
def project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which an export's files are checked and its answers are believed."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(verify, "check_answers", lambda folder: ({"images": 0, "largest_difference": 0.0}, []))
    return root


@pytest.fixture
def add(project: Path, export: Path) -> Register:
    """Returns a function that makes a run whose export is logged and, if a name is given, registered."""

    def make(name: str, shots: Sequence[Photo], model: str | None = "flowers") -> RunDir:
        run = make_run(project, name, shots)
        shutil.copytree(export, run.export)
        add_file(run.export, "name.txt", name)  # no two exports are the same
        write_json(run.file("ingest.json"), {"digest": "f" * 64})
        metrics = {"test/top_1": 0.9, "test/top_1_low": 0.8, "test/top_1_high": 0.95}
        write_json(run.evaluation, {"headline_metric": "test/top_1", "metrics": metrics})
        tracker = MlflowTracker(project)
        run_id = tracker.start(experiment="x", run_name=name)
        model_id = tracker.log_model(run.export, labels=CLASSES, example=b"image")
        state = run.load_state()
        run.update_state(mlflow_run_id=run_id, stages=state["stages"] | {"export": {"state": "done"}})
        if model and model_id:
            tracker.register_model(model, model_id, version_tags(run))
        tracker.finish("FINISHED")
        return run

    return make


def add_file(export: Path, name: str, text: str) -> None:
    """Makes another export of an export."""
    (export / name).write_text(text)
    with (export / "sha256sums.txt").open("a") as file:
        file.write(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n")


@pytest.fixture
def runs(add: Register) -> None:
    """Runs old and new; new is right on ten images more and wrong on two."""
    shots = photos()
    add("old", [wrong(shot) if 5 <= shot.number < 15 else shot for shot in shots])
    add("new", [wrong(shot) if shot.number in (30, 31) else shot for shot in shots])


def call(run: str, *words: str) -> Result:
    result = CliRunner().invoke(cli, ["promote", run, "--alias", "champion", *words], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def promoted(run: str, *words: str) -> dict[str, Any]:
    result = call(run, *words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def refusal(code: int, run: str, *words: str) -> str:
    result = call(run, *words)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def holder(client: Any, alias: str = "champion") -> str | None:
    found = client.get_registered_model("flowers").aliases.get(alias)
    return None if found is None else str(found)


def tags(client: Any, version: str) -> dict[str, str]:
    found: dict[str, str] = client.get_model_version("flowers", version).tags
    return found


@pytest.mark.usefixtures("runs")
def test_the_first_needs_no_comparison(client: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "check_answers", check_answers)
    result = call("old")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "nothing had the alias champion before", "version 1 of flowers is its champion now",
    ]  # fmt: skip
    assert (holder(client), holder(client, "candidate")) == ("1", "2")
    known = tags(client, "1")
    assert (known["champion.instead_of"], known["run"], known["dataset"]) == ("nothing", "old", "f" * 12)
    assert known["score"] == "test/top_1 0.900 (95 % interval 0.800 to 0.950)"
    assert known["champion.since"].endswith("+00:00")


@pytest.mark.usefixtures("runs")
def test_the_better_takes_over_and_the_comparison_is_recorded(client: Any, project: Path) -> None:
    call("old")
    found = promoted(RunDir(project / "runs" / "new").load_state()["mlflow_run_id"])  # a run by its MLflow id
    assert (found["moved"], found["version"], found["before"]) == (True, "2", {"version": "1", "run": "old"})
    assert found["verdict"].startswith("new is better than old, +13.3 points")
    assert found["comparison"]["mcnemar"]["fixed"] == 10
    assert holder(client) == "2"
    known = tags(client, "2")
    assert (known["champion.instead_of"], known["champion.verdict"]) == ("version 1 (run old)", found["verdict"])
    run_id = RunDir(project / "runs" / "new").load_state()["mlflow_run_id"]
    stored = client.download_artifacts(run_id, "compare/old/comparison.json")
    assert json.loads(Path(stored).read_text()) == found["comparison"]


@pytest.mark.usefixtures("runs")
def test_the_worse_is_refused_and_nothing_moves(client: Any) -> None:
    call("new")
    line = refusal(3, "old")
    assert line.startswith("old is worse than new, -13.3 points, 95 % CI -")
    assert line.endswith("; --even-if-worse promotes it all the same")
    assert holder(client) == "2"
    assert not [key for key in tags(client, "1") if key.startswith("champion")]
    as_json = call("old", "--json")
    document = json.loads(as_json.stdout)
    assert (as_json.exit_code, document["moved"], document["comparison"]["outcome"]) == (3, False, "worse")
    assert as_json.stderr == f"error: {line}\n"


@pytest.mark.usefixtures("runs")
def test_but_not_if_it_is_wanted(client: Any) -> None:
    call("new")
    found = promoted("old", "--even-if-worse")
    assert (found["moved"], holder(client)) == (True, "1")
    assert found["against"].startswith("old is worse than new")
    assert tags(client, "1")["champion.verdict"].endswith("(promoted all the same)")


def test_a_difference_like_chance_is_no_reason_to_refuse(add: Register, client: Any) -> None:
    shots = photos()
    add("first", shots)
    add("second", [wrong(shot) if shot.number == 3 else shot for shot in shots])
    call("first")
    result = call("second")
    assert (result.exit_code, holder(client)) == (0, "2")
    assert result.stdout.startswith("cannot tell whether second is better than first: -1.7 points")
    assert "version 2 of flowers is its champion now instead of version 1 (run first)" in result.stdout


def test_other_test_images_are_refused_as_compare_does(add: Register, client: Any) -> None:
    add("first", photos(60))
    add("second", photos(50))
    call("first")
    line = refusal(3, "second")
    assert line.startswith("the test sets of first and second differ")
    assert line.endswith("--intersection compares on the 50 they share")
    assert holder(client) == "1"
    assert promoted("second", "--intersection")["comparison"]["images"] == 50
    assert holder(client) == "2"


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("words", [(), ("--even-if-worse",)])
def test_a_damaged_export_is_never_promoted(words: tuple[str, ...], project: Path, client: Any) -> None:
    (project / "runs" / "old" / "export" / "labels.txt").write_text("a\nb\nc\n")
    line = refusal(3, "old", *words)
    assert "labels.txt: is not what was exported" in line
    assert holder(client) is None


@pytest.mark.usefixtures("runs")
def test_an_export_that_answers_otherwise_is_not_promoted(
    project: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "check_answers", check_answers)
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    assert "a probability is off by" in refusal(3, "old", "--even-if-worse")
    assert holder(client) is None


def test_a_run_that_was_never_registered_is_told_how(add: Register, client: Any) -> None:
    add("alone", photos(), model=None)
    assert refusal(1, "alone") == "run 'alone' was never registered; --register NAME does that now"
    assert client.search_registered_models() == []
    assert promoted("alone", "--register", "flowers")["version"] == "1"
    assert (holder(client), holder(client, "candidate"), tags(client, "1")["run"]) == ("1", "1", "alone")
    assert promoted("alone", "--register", "flowers")["moved"] is False  # no second version of one export
    assert "takes no registered model 'a/b'" in refusal(1, "alone", "--register", "a/b")


def test_a_version_of_an_earlier_export_is_not_the_export(add: Register, client: Any) -> None:
    run = add("one", photos())
    add_file(run.export, "more.txt", "more")
    line = refusal(1, "one")
    assert line == "version 1 of flowers is not of the export that 'one' has now; --register flowers makes one"
    assert "has no LoggedModel of its export" in refusal(1, "one", "--register", "flowers")
    tracker = MlflowTracker(run.project)
    tracker.start(experiment="x", run_name="one", run_id=run.load_state()["mlflow_run_id"])
    tracker.log_model(run.export, labels=CLASSES, example=b"image")
    client.set_registered_model_alias("flowers", "champion", "1")
    found = promoted("one", "--register", "flowers")
    assert (found["version"], holder(client)) == ("2", "2")
    assert (
        found["verdict"] == "version 1 of flowers is an earlier export of one, with the same answers to its test images"
    )
    client.set_registered_model_alias("flowers", "champion", "1")
    client.delete_model_version_tag("flowers", "1", "answers")
    assert "from before the stage evaluate was run; --even-if-worse" in refusal(3, "one")


@pytest.mark.usefixtures("runs")
def test_a_holder_that_is_gone_or_was_trained_again_cannot_be_compared(project: Path, client: Any) -> None:
    call("old")
    old = RunDir(project / "runs" / "old")
    old.predictions.write_bytes(RunDir(project / "runs" / "new").predictions.read_bytes())
    assert refusal(3, "new").startswith("old was trained or evaluated again since version 1 of flowers was made of it")
    shutil.rmtree(old.path)
    line = refusal(3, "new")
    assert line.startswith(f"version 1 of flowers comes from old, which is not in {project / 'runs'}, so nothing shows")
    assert line.endswith("--even-if-worse promotes it all the same")
    assert holder(client) == "1"
    assert promoted("new", "--even-if-worse")["comparison"] is None
    assert holder(client) == "2"


@pytest.mark.usefixtures("runs")
def test_promoting_twice_changes_nothing(client: Any) -> None:
    call("old")
    before = tags(client, "1")
    result = call("old")
    assert (result.exit_code, result.stdout) == (0, "version 1 of flowers is its champion already\n")
    assert tags(client, "1") == before


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("alias", ["latest", "v2", "two words", ""])
def test_an_alias_that_mlflow_refuses_is_refused_at_once(alias: str, project: Path) -> None:
    shutil.rmtree(project / "runs" / "old" / "export")  # not even looked at
    line = refusal(1, "old", "--alias", alias)
    assert line.startswith(f"--alias {alias!r}: MLflow takes letters, digits")


@pytest.mark.usefixtures("runs")
def test_who_was_promoted_meanwhile_is_not_overrun(project: Path, client: Any) -> None:
    registry = Registry(project)
    client.set_registered_model_alias("flowers", "champion", "1")
    with pytest.raises(CheckError, match=r"'champion' of flowers moved to version 1 of flowers meanwhile"):
        registry.move_alias("champion", Version("flowers", "2"), None, {})
    assert holder(client) == "1"


def test_a_run_without_an_export_or_a_store(add: Register, project: Path) -> None:
    run = add("one", photos())
    state = read_json(run.path / "run.json")
    run.update_state(stages=state["stages"] | {"export": {"state": "stale"}})
    assert refusal(1, "one").startswith("promote needs export, which is stale in run 'one'")
    run.update_state(stages=state["stages"], mlflow_run_id=None)
    assert "was not recorded in MLflow" in refusal(1, "one")
    run.update_state(mlflow_run_id=state["mlflow_run_id"])
    (project / "mlflow.db").unlink()
    assert refusal(1, "one").startswith("there is no MLflow store")
    assert not (project / "mlflow.db").exists()
