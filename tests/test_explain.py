"""`pipeline explain` on a tiny run, as it is called from the command line, and what every run draws of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import cli
from pipeline.ingest.manifest import load_manifest
from pipeline.plan import Request
from pipeline.run import run_pipeline
from pipeline.tracking import MemoryTracker
from pipeline.workdir import RunDir

SMALL = (
    "model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[8]",
    "train.head.epochs=1", "train.batch_size=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Path:
    """A project with the run photos-1, trained and not evaluated."""
    root = tmp_path_factory.mktemp("project")
    data = make_photos(root / "photos")
    request = Request(data=str(data), settings=SMALL, stages=("ingest", "build", "train"))
    run_pipeline(request, root, tracker=MemoryTracker())
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, to work in; its images are those of the first."""
    shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("photos", ".cache"))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def image(project: Path) -> str:
    """One of its test images."""
    return load_manifest(project / "runs/photos-1/manifest.parquet").split("test").column("path")[0]


def call(*words: object) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def answer(*words: object) -> dict[str, Any]:
    result = call("explain", *words, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def is_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        return (picture.format, picture.width > 1000) == ("PNG", True)


def test_one_json_document_and_nothing_else(project: Path, image: str) -> None:
    import keras
    import tensorflow as tf

    from pipeline.images.graph import decode_image

    document = answer("photos-1", image)
    assert set(document) == {"image", "run", "classes", "receptive_fields", "picture"}
    assert (document["image"], document["run"], document["picture"]) == (image, "photos-1", None)
    model = keras.models.load_model(project / "runs/photos-1/model.keras", compile=False)
    logits = model(decode_image(tf.io.read_file(image), (12, 12), 1)[tf.newaxis], training=False)
    wanted = dict(zip(["blue", "green", "red"], tf.nn.softmax(logits)[0].numpy().tolist(), strict=True))
    assert [one["label"] for one in document["classes"]] == sorted(wanted, key=lambda label: -wanted[label])
    assert {one["label"]: one["probability"] for one in document["classes"]} == pytest.approx(wanted, abs=1e-5)
    assert document["receptive_fields"] == [
        {"layer": layer, "shape": shape, "size": [size, size], "stride": [stride, stride], "whole_image": False}
        for layer, shape, size, stride in [
            ("block1_conv", [12, 12, 32], 5, 1),
            ("block1_pool", [6, 6, 32], 6, 2),
            ("block2_conv", [6, 6, 64], 14, 2),
            ("block2_pool", [3, 3, 64], 16, 4),
        ]
    ]
    assert not list(project.glob("*.png"))


def test_without_json_classes_and_a_picture(project: Path, image: str) -> None:
    result = call("explain", "photos-1", image)
    assert result.exit_code == 0
    *classes, last = result.stdout.splitlines()
    name = f"explain-{Path(image).stem}.png"
    assert last == f"picture: {name}"
    probabilities = [float(line.split()[0]) for line in classes]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {line.split()[1] for line in classes} == {"blue", "green", "red"}
    assert is_picture(project / name)


def test_the_picture_is_written_where_it_was_asked_for(project: Path, image: str) -> None:
    assert call("explain", "photos-1", image, "-o", "inside.png").stdout.endswith("picture: inside.png\n")
    first = (project / "inside.png").read_bytes()
    assert answer("photos-1", image, "-o", "again.png")["picture"] == "again.png"
    assert (project / "again.png").read_bytes() == first
    assert sorted(path.name for path in project.glob("*.png")) == ["again.png", "inside.png"]


def test_a_run_is_named_by_its_folder_or_its_mlflow_run(
    project: Path, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = "0123456789abcdef0123456789abcdef"
    RunDir(project / "runs" / "photos-1").update_state(mlflow_run_id=identifier)
    wanted = answer("photos-1", image)
    assert answer("runs/photos-1", image) == answer(identifier, image) == wanted
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert answer("../runs/photos-1", image) == wanted
    assert list(Path.cwd().iterdir()) == []


def test_an_image_is_brought_to_its_size_as_in_training(project: Path) -> None:
    """What the network would not see of a picture that is cropped does not change the answer."""
    config = project / "runs" / "photos-1" / "config.yaml"
    config.write_text(config.read_text().replace("resize: stretch", "resize: crop"))
    pixels = np.random.default_rng(5).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("wide.png")
    pixels[:, :20] = 0
    Image.fromarray(pixels).save("other.png")
    assert answer("photos-1", "wide.png")["classes"] == answer("photos-1", "other.png")["classes"]


def test_an_image_of_a_format_that_tensorflow_cannot_read(project: Path, image: str) -> None:
    with Image.open(image) as opened:
        opened.save("image.tiff")
        opened.save("image.png")
    assert answer("photos-1", "image.tiff")["classes"] == answer("photos-1", "image.png")["classes"]


def test_odd_names_are_a_line_each(project: Path, image: str) -> None:
    name = "two\nlines \udce9 $x^2$" + "猫" * 60 + ".png"
    shutil.copy(image, name)
    result = call("explain", "photos-1", name)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 4
    assert len(list(project.glob("explain-two*.png"))) == 1
    assert answer("photos-1", name)["image"].startswith("two\nlines \\xe9")


def refusal(*words: object) -> str:
    result = call("explain", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert not list(Path.cwd().glob("explain-*"))
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos-2", "image.png"], "error: no run 'photos-2' in .*: did you mean 'photos-1'?"),
        (["photos-1", "gone.png"], "error: no file gone.png; name an image"),
        (["photos-1", "runs"], "error: runs is a folder; name one image"),
        (["photos-1", "page.jpg"], "error: page.jpg: is an HTML page, not an image"),
        (["photos-1", "image.png", "-o", "in.jpg"], "error: -o in.jpg: pictures are written as PNG"),
        (["photos-1", "image.png", "-o", "gone/in.png"], "error: -o gone/in.png: there is no folder gone"),
    ],
)
def test_what_cannot_be_used_is_one_line(project: Path, image: str, words: list[str], message: str) -> None:
    shutil.copy(image, "image.png")
    Path("page.jpg").write_text("<html>404</html>")
    assert re.match(message.replace("?", r"\?"), refusal(*words))


def test_a_run_must_have_been_trained(project: Path, image: str) -> None:
    run = RunDir(project / "runs" / "photos-1")
    run.update_state(stages={**run.load_state()["stages"], "train": {"state": "failed"}})
    assert refusal("photos-1", image) == (
        "error: explain needs train, which is failed in run 'photos-1'; run: pipeline run --name photos-1 train"
    )


def test_a_damaged_run_is_one_line(project: Path, image: str) -> None:
    import keras

    run = RunDir(project / "runs" / "photos-1")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(run.model)
    assert "model.keras cannot be loaded (sequential" in refusal("photos-1", image)
    run.model.write_bytes(run.model.read_bytes()[:1000])
    assert "model.keras cannot be loaded" in refusal("photos-1", image)
    run.config.unlink()
    assert "config.yaml cannot be read" in refusal("photos-1", image)


def test_it_says_what_it_is(project: Path, image: str) -> None:
    assert "RUN is a run's name" in call("explain", "--help").stdout
    assert call("explain", "photos-1").exit_code == 2


# What the stage evaluate draws.


def evaluate(project: Path, *settings: str) -> tuple[RunDir, MemoryTracker]:
    tracker = MemoryTracker()
    request = Request(name="photos-1", settings=settings, stages=("evaluate",))
    result = run_pipeline(request, project, tracker=tracker)
    run = RunDir(result.path)
    drawn = {path for path in result.pictures if path.parent == run.explanations}
    assert drawn == set(run.explanations.glob("*"))
    return run, tracker


@pytest.mark.parametrize(("settings", "count"), [((), 3), (("evaluate.explain=1",), 1), (("evaluate.explain=9",), 3)])
def test_a_run_explains_a_few_test_images(project: Path, settings: tuple[str, ...], count: int) -> None:
    run, tracker = evaluate(project, *settings)
    names = sorted(path.name for path in run.explanations.iterdir())
    assert names == [f"{number}.png" for number in range(1, count + 1)]
    assert all(map(is_picture, run.explanations.iterdir()))
    assert (run.explanations, None) in tracker.artifacts


def test_none_is_a_number_too(project: Path) -> None:
    run, tracker = evaluate(project, "evaluate.explain=0")
    assert not run.explanations.exists()
    assert "explain" not in {path.name for path, _ in tracker.artifacts}


def test_an_earlier_evaluation_leaves_no_pictures(project: Path) -> None:
    run, _ = evaluate(project, "evaluate.explain=1")
    (run.explanations / "2.png").touch()
    evaluate(project)
    assert [path.name for path in run.explanations.iterdir()] == ["1.png"]


def test_a_task_may_have_none(project: Path, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tasks.classification import Classification

    monkeypatch.setattr(Classification, "choose_examples", lambda self, evaluation, count: [])
    monkeypatch.setattr(Classification, "class_scores", lambda self, logits: None)
    run, _ = evaluate(project)
    assert not run.explanations.exists()
    assert answer("photos-1", image)["classes"] == []
    assert call("explain", "photos-1", image).stdout == f"picture: explain-{Path(image).stem}.png\n"


def test_the_images_are_those_that_the_task_chose(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from pipeline.images.graph import decode_image
    from pipeline.pictures import explain
    from pipeline.tasks.base import Example
    from pipeline.tasks.classification import Classification

    seen: list[tuple[Any, str, str]] = []
    draw = explain.explain_figure

    def watch(found: Any, title: str, note: str) -> Any:
        seen.append((found, title, note))
        return draw(found, title, note)

    monkeypatch.setattr(explain, "explain_figure", watch)
    chosen = [Example(2, "the third"), Example(0, "the first")]
    monkeypatch.setattr(Classification, "choose_examples", lambda self, evaluation, count: chosen)
    evaluate(project)
    test = load_manifest(project / "runs/photos-1/manifest.parquet").split("test")
    paths, ids, labels = (test.column(name) for name in ("path", "id", "label"))
    for example, (found, title, note) in zip(chosen, seen, strict=True):
        assert (title, note) == (f"what run photos-1 sees in {ids[example.row]}", example.reason)
        wanted = decode_image(tf.io.read_file(paths[example.row]), (12, 12), 1)
        np.testing.assert_array_equal(found.pixels, wanted)
        assert [score.label for score in found.classes if score.truth] == [labels[example.row]]
