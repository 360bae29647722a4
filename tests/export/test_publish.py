"""The stage export as a whole: what stands in an export, and that nothing unproven is published."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image
from subjects import CALIBRATION, CLASSES, ORIGIN, build_test_split, original, recorded, small_network

from pipeline.errors import ExportError
from pipeline.export import golden, stage
from pipeline.export.probes import PROBES, bad_images
from pipeline.export.savedmodel import export_savedmodel
from pipeline.export.stage import publish
from pipeline.ingest.manifest import Manifest


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build_test_split(tmp_path_factory.mktemp("split") / "test")


@pytest.fixture(scope="module")
def published(split: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, of = tmp_path_factory.mktemp("run") / "export", original()
    publish(of, ORIGIN, split, recorded(of, split), 6, folder)
    return folder


def answers_in(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "golden" / "golden.json").read_text())["answers"]
    return found


def test_the_contract_says_all_and_stands_in_the_model_too(published: Path) -> None:
    contract = json.loads((published / "contract.json").read_text())
    assert contract["labels"] == list(CLASSES)
    assert (contract["temperature"], contract["threshold"]) == (CALIBRATION.temperature, CALIBRATION.threshold)
    assert (contract["dataset"], contract["run"], contract["mlflow_run_id"]) == ("d" * 64, "photos-1", "0" * 32)
    assert contract["input"]["image_size"] == [32, 32]
    assert set(contract["outputs"]) == {"label", "class_id", "probabilities", "confident", "error"}
    model = tf.saved_model.load(str(published))
    assert json.loads(model.signatures["contract"]()["contract"].numpy()) == contract
    assert set(model.signatures["serving_default"].structured_outputs) == set(contract["outputs"])


def test_test_images_have_the_answers_that_evaluation_recorded(published: Path, split: Manifest) -> None:
    of = original()
    table = recorded(of, split)
    images = [answer for answer in answers_in(published) if answer.get("answered_by") == "evaluation"]
    assert len(images) == 6
    paths = dict(zip(split.column("id"), split.column("path"), strict=True))
    for image in images:
        row = table["id"].index(image["id"])
        assert image["probabilities"] == [table[f"p:{label}"][row] for label in CLASSES]
        assert image["label"] == table["predicted"][row]
        assert image["confident"] == (table["probability"][row] >= CALIBRATION.threshold)  # type: ignore[operator]
        assert (published / "golden" / image["file"]).read_bytes() == Path(paths[image["id"]]).read_bytes()
    assert {image["why"].split(":")[0] for image in images} >= {
        "the least confident answer",
        "the most confident mistake",
    }


def test_probes_are_of_the_kinds_that_they_claim(published: Path) -> None:
    kinds = {}
    for name, kind in PROBES.items():
        with Image.open(published / "golden" / f"probe-{name}{kind.suffix}") as image:
            kinds[name] = (image.format, image.mode, image.getexif().get(0x0112), image.width > 3 * image.height / 2)
    assert kinds == {
        "coloured": ("PNG", "RGB", None, False), "large": ("JPEG", "RGB", None, False),
        "wide": ("JPEG", "RGB", None, True), "orientation-6": ("JPEG", "RGB", 6, kinds["orientation-6"][3]),
        "rgba": ("PNG", "RGBA", None, kinds["rgba"][3]), "cmyk": ("JPEG", "CMYK", None, False),
        "16-bit": ("PNG", "I;16", None, False), "gray": ("PNG", "L", None, False),
    }  # fmt: skip
    assert {path.name for path in (published / "golden").glob("bad-*")} == set(bad_images())


def test_every_file_has_its_digest(published: Path) -> None:
    rows = [line.split("  ") for line in (published / "sha256sums.txt").read_text().splitlines()]
    files = {path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()}
    assert {name for _, name in rows} == files - {"sha256sums.txt"}
    assert "variables/variables.data-00000-of-00001" in files
    for digest, name in rows:
        assert hashlib.sha256((published / name).read_bytes()).hexdigest() == digest


@pytest.mark.usefixtures("clean_process")
def test_a_clean_process_agrees_and_the_script_alone_does_too(split: Manifest, tmp_path: Path) -> None:
    of = original()
    report = publish(of, ORIGIN, split, recorded(of, split), 4, tmp_path / "run 1" / "export")
    assert (report["ok"], report["images"]) == (True, 18)
    assert report["largest_difference"] < 1e-5
    assert report["seconds"] < 60
    # As a stranger would: another folder, nothing of ours on the path, no bytecode left behind.
    moved = (tmp_path / "run 1" / "export").rename(tmp_path / "export")
    probe = "import sys; sys.modules['pipeline'] = None; import runpy; sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-I", "-c", probe + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    done = subprocess.run([*command, "export/golden/verify.py"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.startswith("18 answers are off by at most")) == (0, True), done.stderr
    assert not list(moved.rglob("*.pyc"))


@pytest.mark.usefixtures("clean_process")
def test_what_a_clean_process_does_not_confirm_is_not_published(
    split: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, of = tmp_path / "export", original()
    folder.mkdir()
    (folder / "saved_model.pb").write_text("earlier")

    def export_another(*arguments: Any, **options: Any) -> None:
        export_savedmodel(small_network(seed=9), *arguments[1:], **options)

    monkeypatch.setattr(stage, "export_savedmodel", export_another)
    said = r"trained network did: golden/test-01\.\w+: a probability is off by .*and \d+ more\); nothing was published"
    with pytest.raises(ExportError, match=said):
        publish(of, ORIGIN, split, recorded(of, split), 2, folder)
    assert (folder / "saved_model.pb").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["export"]


@pytest.mark.usefixtures("clean_process")
def test_a_clean_process_that_dies_is_an_export_error(
    split: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_nonsense(draft: Path, *_: Any) -> None:
        (draft / "golden").mkdir()
        (draft / "golden" / "verify.py").write_text("import pipeline")

    monkeypatch.setattr(stage, "write_golden", write_nonsense)
    of = original()
    with pytest.raises(ExportError, match=r"could not be asked .*exit code 1: .*import of pipeline halted"):
        publish(of, ORIGIN, split, recorded(of, split), 0, tmp_path / "export")
    assert os.listdir(tmp_path) == []


def test_without_an_evaluation_the_keras_model_answers(split: Manifest, tmp_path: Path) -> None:
    of = original()
    publish(of, ORIGIN, split, None, 3, tmp_path / "export")
    document = json.loads((tmp_path / "export" / "golden" / "golden.json").read_text())
    assert document["answers_from"]["test images"] == "the Keras model at export; no stage evaluate"
    images = [answer for answer in document["answers"] if "id" in answer]
    assert [image["id"] for image in images] == ["ant/0.jpg", "ant/4.jpg", "zebra fish/7.png"]
    assert {image["answered_by"] for image in images} == {"export"}
    table = recorded(of, split)
    rows = [table["id"].index(image["id"]) for image in images]
    for image, row in zip(images, rows, strict=True):
        np.testing.assert_allclose(image["probabilities"], [table[f"p:{label}"][row] for label in CLASSES], atol=1e-6)


@pytest.mark.parametrize("evaluated", [True, False])
def test_no_test_image_leaves_if_none_is_wanted(evaluated: bool, split: Manifest) -> None:
    of = original()
    images = golden.build_golden(of, split, recorded(of, split) if evaluated else None, 0)
    assert {image.file.split("-")[0] for image in images} == {"probe", "bad"}


def test_more_than_there_are_is_all(split: Manifest) -> None:
    of = original()
    for table in (recorded(of, split), None):
        images = golden.build_golden(of, split, table, 100)
        assert len({image.document["id"] for image in images if "id" in image.document}) == len(split)


def test_large_test_images_are_left_out_beyond_a_budget(split: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    of = original()
    sizes = [
        len(image.contents)
        for image in golden.build_golden(of, split, recorded(of, split), 8)
        if "id" in image.document
    ]
    monkeypatch.setattr(golden, "BYTE_BUDGET", sum(sizes[:3]))
    images = golden.build_golden(of, split, recorded(of, split), 8)
    assert sum("id" in image.document for image in images) == 3


def test_a_test_image_that_changed_or_is_gone_is_no_proof(split: Manifest) -> None:
    of, digests, paths = original(), split.column("sha256"), split.column("path")
    columns = {"sha256": ["0" * 64, *digests[1:]], "path": [paths[0], "gone.jpg", *paths[2:]]}
    table = split.table
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    images = golden.build_golden(of, Manifest(table), recorded(of, split), 8)
    assert {image.document["id"] for image in images if "id" in image.document} == set(split.column("id")[2:])


def test_a_network_that_is_sure_of_everything_gets_variants(split: Manifest) -> None:
    """A hundred times the logits: most pictures are answered with a probability of 1, whatever is done to them."""
    of = replace(original(), calibration=replace(CALIBRATION, temperature=0.02))
    probes = {image.file: image.document for image in golden.build_golden(of, split, None, 0)}
    moved = [probes[f"probe-{name}{kind.suffix}"]["a_mistake_moves_it_by"] for name, kind in PROBES.items()]
    assert min(moved) > 1e-3
