"""Formats beside the SavedModel: what stands in the export, what is said of it, and what is not published."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
from subjects import CLASSES, ORIGIN, build_split, build_test_split, original, recorded

from pipeline.export.formats import listing, measure, stage
from pipeline.export.formats.source import prepare
from pipeline.export.formats.stage import CALIBRATION_IMAGES, Wanted
from pipeline.export.formats.table import FORMATS, Format
from pipeline.export.golden import Original
from pipeline.export.rows import spread_over_classes
from pipeline.export.stage import publish
from pipeline.ingest.manifest import Manifest
from pipeline.progress import Silent
from pipeline.tasks.base import Calibration
from pipeline.tasks.table import load_task

ALL = ("saved_model", "onnx", "litert")
FILES = {row.name: row.file for row in FORMATS}


@pytest.fixture(scope="module", autouse=True)
def rates_measured_briefly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def test_split(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build_test_split(tmp_path_factory.mktemp("split") / "test", 20)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build_split(tmp_path_factory.mktemp("split") / "train", 60, "train")


@pytest.fixture(scope="module")
def published(test_split: Manifest, train: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, of = tmp_path_factory.mktemp("run") / "export", original()
    publish(of, ORIGIN, test_split, recorded(of, test_split), 6, folder, Wanted(ALL, train))
    return folder


def rows_in(folder: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((folder / "formats.json").read_text())
    assert document["format"] == 1
    return {row["name"]: row for row in document["formats"]}


def pixels_of(of: Original, paths: list[str]) -> np.ndarray:
    return np.stack([of.decode(Path(path).read_bytes()).numpy() for path in paths])


def ask_onnx(path: Path, pixels: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["probabilities"], {"pixels": pixels})[0]
    return found


def test_each_format_has_its_file_its_digest_and_its_row(published: Path) -> None:
    rows = rows_in(published)
    assert list(rows) == ["saved_model", "onnx", "litert_float32", "litert_float16", "litert_int8"]
    sums = (published / "sha256sums.txt").read_text()
    for name, row in rows.items():
        assert (row["file"], row["published"], row["reason"]) == (FILES[name], True, None)
        assert f"  {row['file']}\n" in sums
        assert 0 <= row["largest_difference"] <= row["tolerance"]
        assert row["images_per_second"] > 0
    assert "  formats.json\n" in sums
    for name in ("onnx", "litert_int8"):
        assert rows[name]["bytes"] == (published / FILES[name]).stat().st_size
    assert rows["saved_model"]["bytes"] > (published / "saved_model.pb").stat().st_size
    assert rows["litert_int8"]["bytes"] < rows["litert_float16"]["bytes"] < rows["litert_float32"]["bytes"]
    assert rows["saved_model"]["top_1_change"] == 0


def test_what_the_row_of_a_format_says_is_so(published: Path, test_split: Manifest) -> None:
    of, rows = original(), rows_in(published)
    pixels = pixels_of(of, test_split.column("path"))
    keras_answers = of.task.probabilities(of.model.predict_on_batch(pixels), of.calibration)
    truth = np.array([CLASSES.index(label) for label in test_split.column("label")])
    onnx = ask_onnx(published / FILES["onnx"], pixels)
    np.testing.assert_allclose(onnx, keras_answers, atol=1e-5)
    int8 = FORMATS[-1].open(published / FILES["litert_int8"])(pixels)
    for name, answers in {"onnx": onnx, "litert_int8": int8}.items():
        row = rows[name]
        assert (row["metric"], row["images"]) == ("top_1", 20)
        assert row["top_1"] == pytest.approx((answers.argmax(axis=1) == truth).mean())
        change = (answers.argmax(axis=1) == truth).mean() - (keras_answers.argmax(axis=1) == truth).mean()
        assert row["top_1_change"] == pytest.approx(change)
        assert row["agreement"] == pytest.approx((answers.argmax(axis=1) == keras_answers.argmax(axis=1)).mean())
    golden = json.loads((published / "golden/golden.json").read_text())["answers"]
    good = [answer for answer in golden if not answer.get("bad")]
    asked = pixels_of(of, [str(published / "golden" / answer["file"]) for answer in good])
    found = FORMATS[-1].open(published / FILES["litert_int8"])(asked)
    largest = np.abs(found - [answer["probabilities"] for answer in good]).max()
    assert rows["litert_int8"]["largest_difference"] == pytest.approx(largest, abs=1e-6)
    assert largest > 1e-4  # that int8 costs something is seen


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_every_format_takes_any_number_of_images(row: Format, published: Path) -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (7, 32, 32, 3)).astype(np.float32)
    ask = row.open(published / row.file)
    whole = ask(pixels)
    assert (whole.shape, whole.dtype) == ((7, len(CLASSES)), np.float32)
    for count in (1, 3):
        np.testing.assert_allclose(ask(pixels[:count]), whole[:count], atol=1e-5)


def test_onnx_says_what_it_is(published: Path) -> None:
    import onnx

    model = onnx.load(published / FILES["onnx"])
    (taken,), (given,) = model.graph.input, model.graph.output
    shapes = [[one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim] for value in (taken, given)]
    assert (taken.name, given.name, shapes) == ("pixels", "probabilities", [["batch", 32, 32, 3], ["batch", 4]])
    inside = {entry.key: entry.value for entry in model.metadata_props}
    assert inside["labels.txt"] == (published / "labels.txt").read_text()
    contract = json.loads(inside["contract.json"])
    assert contract == json.loads((published / "contract.json").read_text())
    assert contract["mlflow_run_id"] == ORIGIN.run_id


@pytest.mark.parametrize("name", ["litert_float32", "litert_float16", "litert_int8"])
def test_litert_carries_its_labels_as_a_zip(name: str, published: Path) -> None:
    with zipfile.ZipFile(published / FILES[name]) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode() == (published / "labels.txt").read_text()
        assert json.loads(archive.read("contract.json")) == json.loads((published / "contract.json").read_text())


def test_int8_is_int8_inside_and_float32_outside(published: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(published / FILES["litert_int8"]))
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert [end["dtype"] for end in ends] == [np.float32, np.float32]
    inner = [tensor for tensor in interpreter.get_tensor_details() if tensor["index"] not in {e["index"] for e in ends}]
    # Biases, and shapes that are computed, are int32.
    assert {np.dtype(tensor["dtype"]).name for tensor in inner if tensor["name"]} == {"int8", "int32"}
    assert sum(tensor["dtype"] == np.int8 for tensor in inner) >= 6


def with_tolerance(name: str, tolerance: float) -> tuple[Format, ...]:
    return tuple(replace(row, tolerance=tolerance) if row.name == name else row for row in FORMATS)


def test_what_is_off_by_too_much_is_not_published(
    test_split: Manifest, train: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "FORMATS", with_tolerance("litert_int8", 1e-6))
    of = original()
    report = publish(of, ORIGIN, test_split, None, 3, tmp_path / "export", Wanted(("litert",), train))
    assert report["ok"]
    assert sorted(os.listdir(tmp_path / "export" / "litert")) == ["float16.tflite", "float32.tflite"]
    row = rows_in(tmp_path / "export")["litert_int8"]
    assert (row["published"], row["tolerance"]) == (False, 1e-6)
    assert row["reason"].startswith("a probability of a golden image is off by ")
    assert row["reason"].endswith("more than 1e-06")
    assert row["largest_difference"] > 1e-6
    assert row["bytes"] > 0  # it was measured all the same
    assert row["top_1_change"] is not None
    assert "int8" not in (tmp_path / "export" / "sha256sums.txt").read_text()
    lines = listing.format_lines(report["formats"])
    assert lines[-1] == f"litert_int8     not published: {row['reason']}"
    assert listing.format_metrics(report["formats"])["export/litert_int8/published"] == 0


def test_what_cannot_be_converted_is_no_reason_to_stop(
    test_split: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, path: Path) -> None:
        path.write_bytes(b"half a model")
        raise RuntimeError("no such operator:\n  Erfc")

    monkeypatch.setattr("pipeline.export.formats.onnx.convert", fail)
    report = publish(original(), ORIGIN, test_split, None, 2, tmp_path / "export", Wanted(("onnx", "litert")))
    rows = rows_in(tmp_path / "export")
    assert not (tmp_path / "export" / "onnx").exists()
    assert rows["onnx"]["reason"] == "cannot be converted: no such operator: Erfc"
    assert (rows["onnx"]["largest_difference"], rows["onnx"]["top_1"]) == (None, None)
    # Nobody said where training images are.
    assert rows["litert_int8"]["reason"].startswith("cannot be converted: no training image is there")
    assert rows["litert_float32"]["published"]
    assert listing.format_metrics(report["formats"]).keys() >= {"export/litert_float32/top_1_change"}
    assert not any(name.startswith("export/onnx/top_1") for name in listing.format_metrics(report["formats"]))


def test_an_interrupt_inside_a_converter_is_not_taken_for_its_failure(
    test_split: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Silent):
        def check(self) -> None:
            raise KeyboardInterrupt

    def fail(*_: object) -> None:
        raise RuntimeError("KeyboardInterrupt: <EMPTY MESSAGE>")

    monkeypatch.setattr("pipeline.export.formats.onnx.convert", fail)
    wanted = Wanted(("onnx",), progress=Stopped())
    with pytest.raises(KeyboardInterrupt):
        publish(original(), ORIGIN, test_split, None, 2, tmp_path / "export", wanted)
    assert os.listdir(tmp_path) == []


def test_with_nothing_but_the_saved_model_nothing_is_measured(test_split: Manifest, tmp_path: Path) -> None:
    publish(original(), ORIGIN, test_split, None, 2, tmp_path / "export", Wanted(("saved_model",)))
    (row,) = rows_in(tmp_path / "export").values()
    assert (row["name"], row["published"], row["largest_difference"], row["top_1"]) == ("saved_model", True, None, None)


def test_without_test_images_there_is_no_score(test_split: Manifest, tmp_path: Path) -> None:
    of = original()
    gone = Manifest(test_split.table.set_column(1, "path", pa.array(["gone.png"] * len(test_split))))
    rows = publish(of, ORIGIN, gone, None, 3, tmp_path / "export", Wanted(("onnx",)))["formats"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["onnx"]["published"]
    assert (by_name["onnx"]["top_1"], by_name["onnx"]["images"]) == (None, 0)
    assert "test images" not in listing.format_lines(rows)[1]


def test_scores_are_of_no_more_images_than_said(
    test_split: Manifest, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MOST_IMAGES", 5)
    found = measure.score({"onnx": FORMATS[1].open(published / FILES["onnx"])}, original(), test_split, Silent())
    assert found["onnx"]["images"] == 5


def test_a_number_that_is_none_is_found() -> None:
    expected = np.array([[0.4, 0.6]])
    assert measure.judge(expected, np.array([[np.nan, 0.6]]), 1.0) == (None, "a probability is not a number")
    assert "shape" in str(measure.judge(expected, np.array([[0.4, 0.3, 0.3]]), 1.0)[1])
    assert measure.judge(expected, np.array([[0.5, 0.5]]), 0.11) == (pytest.approx(0.1), None)


def test_calibration_images_are_as_many_of_one_class_as_of_another(train: Manifest) -> None:
    train = Manifest(train.table.filter([row < 20 or row % 4 == 0 for row in range(60)]))
    labels = train.column("label")
    assert labels.count(CLASSES[0]) > 2 * labels.count(CLASSES[1])
    chosen = [labels[row] for row in spread_over_classes(train, 4)]
    assert sorted(chosen) == sorted(CLASSES)
    assert sorted(spread_over_classes(train, 100)) == list(range(len(train)))
    # The same images, in whatever order the manifest has them.
    turned = Manifest(train.table.take(list(range(len(train)))[::-1]))
    ids, turned_ids = train.column("id"), turned.column("id")
    assert {ids[row] for row in spread_over_classes(train, 6)} == {
        turned_ids[row] for row in spread_over_classes(turned, 6)
    }


def test_int8_is_calibrated_with_train_images_as_they_are(
    test_split: Manifest, train: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr("pipeline.export.formats.litert.to_int8", lambda source, _: seen.append(source.calibration()))
    publish(original(), ORIGIN, test_split, None, 2, tmp_path / "export", Wanted(("litert",), train))
    (images,) = seen
    wanted = pixels_of(original(), train.column("path"))
    assert len(images) == len(train) <= CALIBRATION_IMAGES
    for image in images:
        assert np.abs(wanted - image).max(axis=(1, 2, 3)).min() == 0


def test_grouped_convolutions_and_gelu_are_converted(tmp_path: Path) -> None:
    """What ConvNeXt is made of: XLA in a function of its own, erfc, and means over channels."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)), layers.Normalization(mean=(100.0, 110.0, 120.0), variance=(900.0, 800.0, 700.0)),
            layers.Conv2D(8, 3), layers.LayerNormalization(), layers.Conv2D(8, 3, groups=4), layers.Activation("gelu"),
            layers.Flatten(), layers.Dense(len(CLASSES)),
        ]
    )  # fmt: skip
    of = Original(network, load_task("classification"), CLASSES, Calibration(temperature=0.5), "stretch")
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    expected = of.task.probabilities(network.predict_on_batch(pixels), of.calibration)
    with prepare(of, {}, lambda: pixels) as source:
        for row in FORMATS[1:3]:
            row.write(source, tmp_path / row.file)
            np.testing.assert_allclose(row.open(tmp_path / row.file)(pixels), expected, atol=1e-5)
