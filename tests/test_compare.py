"""`pipeline compare` on small run folders that no training made, as it is called from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import cli
from pipeline.config import build_config, dump_yaml
from pipeline.files import text_digest, write_json
from pipeline.ingest.manifest import build_manifest, save_manifest
from pipeline.workdir import RunDir

CLASSES = ("blue", "green", "red")


@dataclass(frozen=True)
class Photo:
    """An image of a made run: `number` is what it shows, `said` the class a run takes it for."""

    number: int
    label: str
    split: str = "test"
    said: str = ""
    cluster: str = ""
    sure: float = 0.9


def make_run(root: Path, name: str, photos: Sequence[Photo], settings: Mapping[str, Any] | None = None) -> RunDir:
    """Returns a run folder whose stage evaluate is done."""
    run = RunDir(root / "runs" / name)
    run.path.mkdir(parents=True)
    rows = [_row(root, name, photo) for photo in photos]
    manifest = build_manifest(rows)
    save_manifest(manifest, run.manifest)
    tested = [(row["id"], photo) for row, photo in zip(rows, photos, strict=True) if photo.split == "test"]
    pq.write_table(_predictions(tested, manifest.classes), run.predictions)
    run.config.write_text(dump_yaml(build_config(settings or {})), encoding="utf-8")
    write_json(run.evaluation, {"headline_metric": "test/top_1", "metrics": {}})
    stages = {stage: {"state": "done"} for stage in ("ingest", "build", "train", "evaluate")}
    write_json(
        run.path / "run.json",
        {"name": name, "created": 0, "experiment": "x", "stages": stages, "mlflow_run_id": None},
    )
    return run


def _row(root: Path, name: str, photo: Photo) -> dict[str, object]:
    """Returns a row of the manifest; the file has another name and other bytes in each run, but the same pixels."""
    path = root / "photos" / name / photo.label / f"{photo.number}.png"
    return {
        "id": f"{name}/{photo.label}/{photo.number:04} {photo.split}", "path": str(path), "original": str(path),
        "label": photo.label, "split": photo.split, "sha256": text_digest(name, str(photo.number)),
        "pixels": text_digest("pixels", str(photo.number)), "cluster": photo.cluster or f"{name}-{photo.number}",
        "width": 24, "height": 20, "format": "PNG", "mode": "RGB", "bytes": 1, "orientation": 1,
    }  # fmt: skip


def _predictions(tested: Sequence[tuple[object, Photo]], classes: Sequence[str]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "id": [name for name, _ in tested],
        "path": ["" for _ in tested],
        "label": [photo.label for _, photo in tested],
        "predicted": [photo.said or photo.label for _, photo in tested],
        "probability": [photo.sure for _, photo in tested],
    }
    for label in classes:
        columns[f"p:{label}"] = [
            photo.sure if label == (photo.said or photo.label) else (1 - photo.sure) / (len(classes) - 1)
            for _, photo in tested
        ]
    return pa.table(columns)


def wrong(photo: Photo, classes: Sequence[str] = CLASSES) -> Photo:
    """Returns the photo, taken for the next class."""
    return replace(photo, said=classes[(classes.index(photo.label) + 1) % len(classes)])


def photos(count: int = 60, train: int = 30) -> list[Photo]:
    tests = [Photo(number, CLASSES[number % 3]) for number in range(count)]
    return tests + [Photo(1000 + number, CLASSES[number % 3], "train") for number in range(train)]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the runs old and new, of which new is right on ten images more and on two less."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shots = photos()
    make_run(root, "old", [wrong(shot) if 5 <= shot.number < 15 else shot for shot in shots])
    make_run(root, "new", [wrong(shot) if shot.number in (30, 31) else shot for shot in shots], {"seed": 7})
    return root


def call(*words: object) -> Result:
    result = CliRunner().invoke(cli, ["compare", *map(str, words)], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def answer(*words: object) -> dict[str, Any]:
    result = call(*words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def refusal(code: int, *words: object) -> str:
    result = call(*words)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    (line,) = result.stderr.splitlines()
    assert not list(Path.cwd().glob("compare-*"))
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# What is found.


def test_one_json_document_and_nothing_else(project: Path) -> None:
    found = answer("old", "new")
    assert found["verdict"].startswith("new is better than old, +13.3 points, 95 % CI ")
    assert (found["a"], found["b"]) == (
        {"run": "old", "mlflow_run_id": None}, {"run": "new", "mlflow_run_id": None}
    )  # fmt: skip
    assert (found["outcome"], found["images"], found["clusters"], found["images_needed"]) == ("better", 60, 60, None)
    assert found["scope"] == "60 test images, the same for both"
    assert (found["top_1"]["a"], found["top_1"]["b"]) == pytest.approx((50 / 60, 58 / 60))
    assert found["top_1"]["difference"] == pytest.approx(8 / 60)
    assert 0 < found["top_1"]["low"] < 8 / 60 < found["top_1"]["high"] < 0.3
    assert found["mcnemar"] == {"fixed": 10, "broken": 2, "p_value": pytest.approx(0.03857, abs=1e-5)}
    assert found["log_loss"]["b"] < found["log_loss"]["a"]
    assert [one["label"] for one in found["classes"]] == list(CLASSES)
    assert sum(one["fixed"] for one in found["classes"]) == 10
    assert found["test_sets"]["same"]
    assert len(set(found["test_sets"]["fingerprints"])) == 1
    assert (found["picture"], found["notes"]) == (None, [])
    assert list(project.glob("*.png")) == []


def test_images_are_named_with_both_answers(project: Path) -> None:
    found = answer("old", "new")
    assert {Path(one["path"]).name for one in found["fixed"]} == {f"{number}.png" for number in range(5, 15)}
    broken = {Path(one["path"]).name: one for one in found["broken"]}
    assert broken["30.png"] == {
        "id": "new/blue/0030 test", "path": str(project / "photos/new/blue/30.png"), "label": "blue",
        "predicted_a": "blue", "probability_a": 0.9,
        "predicted_b": "green", "probability_b": 0.9,
    }  # fmt: skip


def test_the_other_way_round_the_other_is_worse() -> None:
    found, turned = answer("old", "new"), answer("new", "old")
    assert turned["verdict"].startswith("old is worse than new, -13.3 points, 95 % CI -")
    assert turned["top_1"]["low"] == pytest.approx(-found["top_1"]["high"])
    assert [one["label"] for one in turned["broken"]] == [one["label"] for one in found["fixed"]]


def test_settings_and_data_that_differ(project: Path) -> None:
    more = [*photos(), Photo(2000, "red", "train")]
    settings = {"model": {"backbone": "resnet50"}, "train": {"head": {"epochs": 3}}}
    make_run(project, "third", more, settings)
    found = answer("new", "third")
    assert found["config"]["seed"] == {"a": "7", "b": "0"}
    assert found["config"]["model.backbone"] == {"a": "efficientnet_lite0", "b": "resnet50"}
    assert set(found["config"]) == {"seed", "model.backbone", "train.head.epochs"}
    assert found["data"]["train"] == {"a": 30, "b": 31, "only_a": 0, "only_b": 1}
    assert found["data"]["same"] is False
    said = call("new", "third").stdout
    assert "model.backbone" in said
    assert "data: train: 30 images and 31; 0 only in new's, 1 only in third's" in said


def test_without_json_a_table_and_a_picture(project: Path) -> None:
    result = call("old", "new")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("new is better than old, +13.3 points, 95 % CI ")
    assert lines[1] == "60 test images, the same for both"
    assert lines[-1] == "picture: compare-old-new.png"
    cells = [line.split() for line in lines]
    assert ["top-1", "0.833", "0.967", "+0.133"] in [row[:4] for row in cells]
    assert "new fixes 10 and breaks 2; McNemar's exact test: p = 0.039" in lines
    assert ["blue", "20", "0.850", "0.950", "3", "1"] in cells
    assert ["seed", "0", "7"] in cells
    assert any(line.startswith("data: the same images") for line in lines)
    with Image.open(project / "compare-old-new.png") as picture:
        assert (picture.format, picture.width > 1000) == ("PNG", True)


def test_with_json_a_picture_only_where_it_was_asked_for(project: Path) -> None:
    assert answer("old", "new", "-o", "both.png")["picture"] == "both.png"
    with Image.open("both.png") as picture:
        assert picture.format == "PNG"


def test_images_of_either_run_are_drawn_where_they_are_left(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.pictures import compare as pictures

    for run, number, label in (("old", 5, "red"), ("old", 30, "blue"), ("new", 30, "blue")):
        path = project / "photos" / run / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20)).save(path)
    drawn: list[str] = []
    figure = pictures.compare_figure

    def spy(*arguments: Any, fixed: pictures.Gallery, broken: pictures.Gallery) -> Any:
        drawn.extend(tile.path for tile in (*fixed.tiles, *broken.tiles) if Path(tile.path).is_file())
        return figure(*arguments, fixed=fixed, broken=broken)

    monkeypatch.setattr(pictures, "compare_figure", spy)
    assert call("old", "new").exit_code == 0
    assert drawn == [str(project / "photos/old/red/5.png"), str(project / "photos/new/blue/30.png")]


def test_copies_widen_the_interval(project: Path) -> None:
    alone = answer("old", "new")["top_1"]
    shots = [replace(shot, cluster=f"c{shot.number // 5}") for shot in photos()]
    make_run(project, "copies", [wrong(shot) if shot.number in (30, 31) else shot for shot in shots])
    found = answer("old", "copies")
    assert found["clusters"] == 12
    assert found["top_1"]["difference"] == pytest.approx(alone["difference"])
    assert found["top_1"]["low"] < alone["low"]
    assert found["top_1"]["high"] > alone["high"]
    assert "(12 clusters)" in found["notes"][0]


def test_a_run_is_named_by_its_folder_or_its_mlflow_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = answer("old", "new")
    identifier = "0123456789abcdef0123456789abcdef"
    RunDir(project / "runs" / "old").update_state(mlflow_run_id=identifier)
    found = answer(identifier, "runs/new")
    assert found["a"] == {"run": "old", "mlflow_run_id": identifier}
    assert found["top_1"] == wanted["top_1"]
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert answer("../runs/old", project / "runs" / "new")["verdict"] == wanted["verdict"]


def test_runs_of_one_name_in_two_projects_are_told_apart(project: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "second", "old", photos())
    found = answer("old", "../second/runs/old")
    assert found["verdict"].startswith(f"{tmp_path / 'second/runs/old'} is better than {project / 'runs/old'}, +16.7")


# Different test sets.


def other_split(project: Path) -> None:
    """Adds a run that tests ten images which old was trained on, and trains on five that old tests."""
    shots = [*photos(), *(Photo(3000 + number, "red") for number in range(2))]
    learnt = [replace(shot, split="train") if shot.number < 5 else shot for shot in shots]
    moved = [replace(shot, split="test") if 1000 <= shot.number < 1010 else shot for shot in learnt]
    relabelled = [replace(shot, label="green") if shot.number == 48 else shot for shot in moved]
    make_run(project, "other", relabelled)


def test_different_test_sets_are_refused_with_what_differs(project: Path) -> None:
    other_split(project)
    assert refusal(3, "old", "other") == (
        "the test sets of old and other differ: 5 images only in old's (5 of them other has learnt from), "
        "12 images only in other's (10 of them old has learnt from), 1 with another label; "
        "--intersection compares on the 54 they share"
    )
    assert refusal(3, "old", "other", "--json").startswith("the test sets of old and other differ: ")


def test_the_intersection_is_compared_when_asked_for(project: Path) -> None:
    other_split(project)
    found = answer("old", "other", "--intersection")
    assert found["images"] == 54
    assert found["top_1"]["a"] == pytest.approx(44 / 54)
    assert found["top_1"]["b"] == 1
    assert {Path(one["path"]).name for one in found["fixed"]} == {f"{number}.png" for number in range(5, 15)}
    sets = found["test_sets"]
    assert (sets["same"], sets["compared"], sets["left_out"]) == (False, 54, 0)
    assert (sets["only_a"], sets["only_b"], sets["relabelled"]) == (5, 12, 1)
    assert found["scope"].startswith("54 test images that both have; left out: 5 images only in old's (5 of them ")
    assert call("old", "other", "--intersection").stdout.splitlines()[1] == found["scope"]


def test_the_intersection_of_equal_sets_is_all_of_them() -> None:
    assert answer("old", "new", "--intersection") == answer("old", "new")


def test_images_that_a_run_has_learnt_from_are_left_out(project: Path) -> None:
    """A source may name the split of each image, and one image twice."""
    twice = [*photos(), *(Photo(number, CLASSES[number % 3], "train") for number in range(20, 26))]
    make_run(project, "leaky", twice)
    found = answer("old", "leaky")
    assert (found["images"], found["test_sets"]["learnt"]) == (60, 6)
    assert found["notes"] == ["6 of the test images a run has learnt from too; --intersection leaves them out"]
    fair = answer("old", "leaky", "--intersection")
    assert (fair["images"], fair["test_sets"]["left_out"], fair["notes"]) == (54, 6, [])
    assert fair["scope"] == "54 test images that both have; left out: 6 of both that a run has learnt from"


def test_test_sets_without_a_common_image(project: Path) -> None:
    make_run(project, "far", [Photo(5000 + shot.number, shot.label, shot.split) for shot in photos()])
    says = refusal(3, "old", "far")
    assert says.endswith("they share no image that neither has learnt from, so nothing can be compared")
    assert "--intersection" not in says
    assert refusal(3, "old", "far", "--intersection") == (
        "old and far share 0 test images, too few to compare them on"
    )  # fmt: skip


def test_classes_that_only_one_run_knows(project: Path) -> None:
    more = [*photos(), Photo(3000, "violet"), Photo(3001, "violet", "train")]
    make_run(project, "violet", more)
    assert answer("old", "violet", "--intersection")["data"]["classes_only_b"] == ["violet"]
    fewer = [shot for shot in photos() if shot.label != "red"]
    make_run(project, "fewer", fewer)
    found = answer("old", "fewer", "--intersection")
    assert (found["images"], found["data"]["classes_only_a"]) == (40, ["red"])
    assert found["log_loss"] is not None


# Input that cannot be used.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["old", "newer"], "no run 'newer' in .*: did you mean 'new'\\?"),
        (["0" * 32, "new"], "no run in .* has the MLflow run id 0000"),
        (["old", "old"], "old and old are the same run; name another one"),
        (["old", "runs/old"], "old and runs/old are the same run"),
        (["old", "new", "-o", "both.jpg"], "-o both.jpg: pictures are written as PNG"),
        (["old", "new", "-o", "gone/both.png"], "-o gone/both.png: there is no folder gone"),
    ],
)
def test_what_cannot_be_used_is_one_line(words: list[str], message: str) -> None:
    assert re.match(message, refusal(1, *words))


@pytest.mark.parametrize("words", [[], ["old"], ["old", "new", "third"], ["old", "new", "--top", "3"]])
def test_wrong_usage_is_code_2(words: list[str]) -> None:
    result = call(*words)
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize("side", ["old", "new"])
def test_both_runs_must_have_been_evaluated(project: Path, side: str) -> None:
    run = RunDir(project / "runs" / side)
    run.update_state(stages={**run.load_state()["stages"], "evaluate": {"state": "stale"}})
    assert refusal(1, "old", "new") == (
        f"compare needs evaluate, which is stale in run '{side}'; run: pipeline run --name {side} evaluate"
    )


def test_a_task_with_another_score_is_refused(project: Path) -> None:
    write_json(RunDir(project / "runs" / "new").evaluation, {"headline_metric": "test/mean_iou"})
    assert refusal(1, "old", "new") == (
        "new is measured by test/mean_iou; compare is for runs that are measured by test/top_1"
    )  # fmt: skip


def cut_predictions(run: RunDir) -> None:
    run.predictions.write_bytes(run.predictions.read_bytes()[:200])


def fewer_predictions(run: RunDir) -> None:
    pq.write_table(pq.read_table(run.predictions).slice(1), run.predictions)


def other_labels(run: RunDir) -> None:
    table = pq.read_table(run.predictions)
    labels = pa.array([*table.column("label").to_pylist()[1:], "red"])
    pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), run.predictions)


def no_probabilities(run: RunDir) -> None:
    pq.write_table(pq.read_table(run.predictions).drop_columns(["p:red"]), run.predictions)


def no_config(run: RunDir) -> None:
    run.config.unlink()


def no_manifest(run: RunDir) -> None:
    run.manifest.write_bytes(b"PAR1")


def no_evaluation(run: RunDir) -> None:
    run.evaluation.write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_predictions, "predictions.parquet cannot be read; run the stage evaluate again"),
        (fewer_predictions, "predictions.parquet does not fit the run's manifest; run the stage evaluate again"),
        (other_labels, "predictions.parquet does not fit the run's manifest"),
        (no_probabilities, "predictions.parquet does not fit the run's manifest"),
        (no_config, "config.yaml cannot be read"),
        (no_manifest, "manifest.parquet is no manifest of this version"),
        (no_evaluation, "evaluation.json cannot be read as JSON"),
    ],
)
def test_a_damaged_run_is_one_line(project: Path, damage: Callable[[RunDir], None], message: str) -> None:
    damage(RunDir(project / "runs" / "new"))
    assert message in refusal(1, "old", "new")


def test_the_order_of_predictions_does_not_count(project: Path) -> None:
    wanted = answer("old", "new")
    path = RunDir(project / "runs" / "new").predictions
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(np.random.default_rng(0).permutation(len(table)))), path)
    assert answer("old", "new") == wanted


# MLflow.


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Returns the list that calls of `attach_to_run` are kept in, files with what is in them."""
    from pipeline import tracking

    calls: list[Any] = []

    def keep(root: Path, run_id: str, folder: str, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
        calls.append((root, run_id, folder, {path.name: path.read_bytes() for path in artifacts}, dict(tags)))

    monkeypatch.setattr(tracking, "attach_to_run", keep)
    return calls


def test_what_was_found_is_added_to_the_second_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    found = answer("old", "new", "-o", "both.png")
    assert calls == []  # new was never recorded
    for name, identifier in (("old", "a" * 32), ("new", "b" * 32)):
        RunDir(project / "runs" / name).update_state(mlflow_run_id=identifier)
    found = answer("old", "new", "-o", "both.png")
    answer("old", "new")
    (root, run_id, folder, files, tags), (*_, without_picture, _) = calls
    assert (root, run_id, folder) == (project, "b" * 32, "compare/old")
    assert files["comparison.png"] == Path("both.png").read_bytes()
    assert json.loads(files["comparison.json"]) == {**found, "picture": None}
    assert tags == {"compared_with": "old", "comparison": found["verdict"]}
    assert set(without_picture) == {"comparison.json"}


def test_a_store_that_is_gone_only_warns(project: Path) -> None:
    RunDir(project / "runs" / "new").update_state(mlflow_run_id="b" * 32)
    result = call("old", "new", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["outcome"] == "better"
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: there is no MLflow store ")
    assert not (project / "mlflow.db").exists()
