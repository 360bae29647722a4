"""`pipeline similar` on a tiny run, as it is called from the command line."""

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
from sklearn.metrics.pairwise import cosine_similarity

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
FIELDS = {"path", "id", "label", "similarity", "same_image"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Path:
    """A project with the run photos-1, of which only the head was trained."""
    root = tmp_path_factory.mktemp("project")
    data = make_photos(root / "photos")
    Image.open(data / "red" / "1.png").save(data / "red" / "1.tiff")
    (data / "red" / "1.png").unlink()
    request = Request(data=str(data), settings=SMALL, stages=("ingest", "build", "train"))
    run_pipeline(request, root, tracker=MemoryTracker())
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, to work in; its images are those of the first."""
    shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("photos"))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def call(*words: object) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def answer(*words: object) -> dict[str, Any]:
    result = call("similar", *words, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def train_rows(project: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        load_manifest(project / "runs/photos-1/manifest.parquet").split("train").table.to_pylist()
    )
    return rows


def test_the_nearest_are_those_that_keras_alone_finds(project: Path) -> None:
    import keras
    import tensorflow as tf

    from pipeline.images.graph import decode_image

    rows = train_rows(project)
    image = load_manifest(project / "runs/photos-1/manifest.parquet").split("test").column("path")[0]
    model = keras.models.load_model(project / "runs/photos-1/model.keras", compile=False)
    random = np.random.default_rng(0)  # as if all of it had been trained: the bank holds the features of other weights
    model.set_weights([weight + random.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    model.save(project / "runs/photos-1/model.keras")
    # As the model is built: scaling, backbone, pooling, classifier.
    trunk = keras.Sequential(model.layers[:-1])
    pixels = np.stack(
        [decode_image(tf.io.read_file(path), (12, 12), 1) for path in [image, *(r["path"] for r in rows)]]
    )
    features = trunk.predict(pixels, verbose=0)
    wanted = cosine_similarity(features[:1], features[1:])[0]
    found = answer("photos-1", image, "--top", len(rows))["neighbours"]
    similarity = {row["id"]: value for row, value in zip(rows, wanted, strict=True)}
    assert [one["similarity"] for one in found] == pytest.approx(sorted(wanted, reverse=True), abs=1e-5)
    assert {one["id"]: one["similarity"] for one in found} == pytest.approx(similarity, abs=1e-5)


def test_one_json_document_and_nothing_else(project: Path) -> None:
    image = train_rows(project)[0]["path"]
    document = answer("photos-1", image, "--top", 3)
    assert set(document) == {"image", "run", "neighbours", "picture"}
    assert (document["image"], document["run"], document["picture"]) == (image, "photos-1", None)
    assert [set(one) for one in document["neighbours"]] == [FIELDS] * 3
    first, *others = document["neighbours"]
    assert (first["path"], first["similarity"], first["same_image"]) == (image, 1, True)
    assert not any(one["same_image"] for one in others)
    similarities = [one["similarity"] for one in document["neighbours"]]
    assert similarities == sorted(similarities, reverse=True)
    labels = {row["path"]: row["label"] for row in train_rows(project)}
    assert all(one["label"] == labels[one["path"]] for one in document["neighbours"])
    assert not list(project.glob("*.png"))


def test_without_json_a_table_and_a_picture(project: Path) -> None:
    image = train_rows(project)[0]["path"]
    result = call("similar", "photos-1", image)
    assert result.exit_code == 0
    *table, last = result.stdout.splitlines()
    name = f"similar-{Path(image).stem}.png"
    assert last == f"picture: {name}"
    assert len(table) == 8
    label = train_rows(project)[0]["label"]
    assert table[0].split() == ["1.000", label, image, "(the", "image", "itself)"]
    with Image.open(project / name) as picture:
        assert (picture.format, picture.width > 1000) == ("PNG", True)


def test_with_json_a_picture_only_where_it_was_asked_for(project: Path) -> None:
    document = answer("photos-1", train_rows(project)[0]["path"], "-o", "near.png", "--top", "1")
    assert document["picture"] == "near.png"
    with Image.open(project / "near.png") as picture:
        assert picture.format == "PNG"


def test_a_run_is_named_by_its_folder_or_its_mlflow_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = train_rows(project)[0]["path"]
    identifier = "0123456789abcdef0123456789abcdef"
    RunDir(project / "runs" / "photos-1").update_state(mlflow_run_id=identifier)
    wanted = answer("photos-1", image)
    assert answer("runs/photos-1", image) == answer(identifier, image) == wanted
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    result = call("similar", "../runs/photos-1", image, "--json")
    assert json.loads(result.stdout) == wanted
    assert "0 forward passes" in result.stderr  # the bank is that of the run's project
    assert list(Path.cwd().iterdir()) == []


def test_after_a_head_phase_nothing_is_computed_and_else_once(project: Path) -> None:
    rows = train_rows(project)
    line = f"features of photos-1: {len(rows)} images, {len(rows)} views"
    assert f"{line}; 0 forward passes" in call("similar", "photos-1", rows[0]["path"]).stderr
    before = answer("photos-1", rows[0]["path"])
    shutil.rmtree(project / ".cache" / "features")
    assert f"{line}; {len(rows)} forward passes" in call("similar", "photos-1", rows[0]["path"]).stderr
    assert f"{line}; 0 forward passes" in call("similar", "photos-1", rows[0]["path"]).stderr
    assert answer("photos-1", rows[0]["path"]) == before


def test_a_bank_without_room_changes_nothing_but_the_time(project: Path) -> None:
    image = train_rows(project)[0]["path"]
    before = answer("photos-1", image)
    config = project / "runs" / "photos-1" / "config.yaml"
    config.write_text(config.read_text().replace("budget_gb: 20.0", "budget_gb: 0"))
    assert "; 0 forward passes" in call("similar", "photos-1", image).stderr  # what is there needs no room
    shutil.rmtree(project / ".cache" / "features")
    result = call("similar", "photos-1", image, "--json")
    assert "; live, since " in result.stderr
    assert json.loads(result.stdout)["neighbours"] == before["neighbours"]


def test_an_image_of_a_format_that_tensorflow_cannot_read(project: Path, made: Path) -> None:
    """The TIFF was stored anew at ingest; as a query it is read in the same way."""
    (row,) = [row for row in train_rows(project) if row["id"] == "red/1.tiff"]
    assert row["path"] != row["original"]
    first = answer("photos-1", made / "photos" / "red" / "1.tiff")["neighbours"][0]
    assert (first["id"], first["similarity"], first["same_image"]) == ("red/1.tiff", 1, True)
    assert first["path"] == str(made / "photos" / "red" / "1.tiff")


def test_an_image_is_turned_upright_and_laid_over_white(project: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    upright, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    upright.save("upright.png")
    upright.rotate(90, expand=True).save("lying.png", exif=exif)
    see_through = np.dstack([pixels, np.full((30, 40), 255, np.uint8)])
    see_through[:20, :20] = (7, 8, 9, 0)
    Image.fromarray(see_through).save("see-through.png")
    white = pixels.copy()
    white[:20, :20] = 255
    Image.fromarray(white).save("white.png")
    near = {
        name: {one["id"]: one["similarity"] for one in answer("photos-1", f"{name}.png", "--top", 50)["neighbours"]}
        for name in ("upright", "lying", "see-through", "white")
    }
    assert near["upright"] == pytest.approx(near["lying"], abs=1e-6)
    assert near["see-through"] == pytest.approx(near["white"], abs=1e-6)
    assert near["white"] != pytest.approx(near["upright"], abs=1e-6)


def test_odd_names_are_a_line_each(project: Path) -> None:
    name = "two\nlines \udce9 $x^2$" + "猫" * 60 + ".png"
    shutil.copy(train_rows(project)[0]["path"], name)
    result = call("similar", "photos-1", name)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 9
    assert len(list(project.glob("similar-two*.png"))) == 1
    assert answer("photos-1", name)["image"].startswith("two\nlines \\xe9")


def refusal(*words: object) -> str:
    result = call("similar", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert not list(Path.cwd().glob("similar-*"))
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos-2", "image.png"], "error: no run 'photos-2' in .*: did you mean 'photos-1'?"),
        (["0" * 32, "image.png"], "error: no run in .* has the MLflow run id 0000"),
        (["photos-1", "gone.png"], "error: no file gone.png; name an image"),
        (["photos-1", "runs"], "error: runs is a folder; name one image"),
        (["photos-1", "page.jpg"], "error: page.jpg: is an HTML page, not an image"),
        (["photos-1", "cut.png"], "error: cut.png: "),
        (["photos-1", "image.png", "-o", "near.jpg"], "error: -o near.jpg: pictures are written as PNG"),
        (["photos-1", "image.png", "-o", "gone/near.png"], "error: -o gone/near.png: there is no folder gone"),
    ],
)
def test_what_cannot_be_used_is_one_line(project: Path, words: list[str], message: str) -> None:
    shutil.copy(train_rows(project)[0]["path"], "image.png")
    Path("page.jpg").write_text("<html>404</html>")
    Path("cut.png").write_bytes(Path("image.png").read_bytes()[:100])
    assert re.match(message.replace("?", r"\?"), refusal(*words))


@pytest.mark.parametrize("state", [None, "stale", "failed"])
def test_a_run_must_have_been_trained(project: Path, state: str | None) -> None:
    run = RunDir(project / "runs" / "photos-1")
    stages = run.load_state()["stages"]
    run.update_state(stages={**stages, "train": {"state": state}} if state else {"ingest": stages["ingest"]})
    says = refusal("photos-1", train_rows(project)[0]["path"])
    todo = "train" if state else "build train"
    assert says == (
        f"error: similar needs train, which is {state or 'missing'} in run 'photos-1'; "
        f"run: pipeline run --name photos-1 {todo}"
    )


def damage_model(run: RunDir) -> None:
    run.model.write_bytes(run.model.read_bytes()[:1000])


def exchange_model(run: RunDir) -> None:
    import keras

    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(run.model)


def damage_config(run: RunDir) -> None:
    run.config.write_text("model: [")


def delete_config(run: RunDir) -> None:
    run.config.unlink()


def damage_manifest(run: RunDir) -> None:
    run.manifest.write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_model, "model.keras cannot be loaded"),
        (exchange_model, "model.keras cannot be loaded"),
        (damage_config, "config.yaml is not valid YAML"),
        (delete_config, "config.yaml cannot be read"),
        (damage_manifest, "manifest.parquet is no manifest of this version; run the stage ingest again"),
    ],
)
def test_a_damaged_run_is_one_line(project: Path, damage: Callable[[RunDir], None], message: str) -> None:
    image = train_rows(project)[0]["path"]
    damage(RunDir(project / "runs" / "photos-1"))
    assert message in refusal("photos-1", image)


def test_a_training_image_that_changed_is_named_when_it_is_needed(project: Path, made: Path) -> None:
    image, other = (row["path"] for row in train_rows(project)[:2])
    shutil.rmtree(project / ".cache" / "features")
    before = Path(other).read_bytes()
    try:
        Path(other).unlink()
        shown = call("similar", "photos-1", image)
    finally:
        Path(other).write_bytes(before)
    assert shown.exit_code == 1
    assert shown.stderr.splitlines()[-1].startswith(f"error: {other} was there at ingest and is not now")
