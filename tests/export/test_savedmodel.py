from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.config import build_config
from pipeline.errors import DataError, ExportError
from pipeline.export.predict import Predictor
from pipeline.export.savedmodel import export_savedmodel
from pipeline.export.tables import check_output, write_predictions
from pipeline.images.graph import decode_batch
from pipeline.models.network import build_network
from pipeline.tasks.table import load_task

CLASSES = ("ant", "bee", "zebra fish")

ALONE = """
import json, sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = model(image_bytes=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
print(json.dumps({
    "label": [label.decode() for label in answer["label"].numpy()],
    "class_id": answer["class_id"].numpy().tolist(),
    "probabilities": answer["probabilities"].numpy().tolist(),
    "foreign": [name for name in sys.modules if name.split(".")[0] in ("keras", "pipeline")],
}))
"""


@pytest.fixture(scope="module")
def model() -> keras.Model:
    config = build_config({"model": {"backbone": "efficientnet_lite0", "weights": "none", "image_size": 32}}).model
    network = build_network(config, load_task("classification"), len(CLASSES), seed=0, weights=None)
    # Random weights answer alike to all images; a stronger last layer tells them apart.
    kernel, bias = network.classifier.get_weights()
    network.classifier.set_weights([kernel * 50, bias])
    return network.full


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "export"
    export_savedmodel(model, load_task("classification"), CLASSES, folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs of several kinds and sizes."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    images = {
        "rgb.png": rng.integers(0, 256, (40, 50, 3)), "tall.jpg": rng.integers(0, 256, (90, 20, 3)),
        "gray.png": rng.integers(0, 256, (32, 32)), "transparent.png": rng.integers(0, 256, (64, 48, 4)),
    }  # fmt: skip
    for name, pixels in images.items():
        Image.fromarray(pixels.astype("uint8")).save(root / name)
    return sorted(root.iterdir())


def expected(model: keras.Model, photos: list[Path]) -> np.ndarray:
    pixels = decode_batch(tf.constant([path.read_bytes() for path in photos]), (32, 32), 3)
    return tf.nn.softmax(model(pixels, training=False)).numpy()


def test_a_process_with_tensorflow_alone_gives_the_keras_models_answers(
    model: keras.Model, exported: Path, photos: list[Path]
) -> None:
    command = [sys.executable, "-c", ALONE, str(exported), *map(str, photos)]
    clean = {"PATH": os.environ["PATH"], "TF_ENABLE_ONEDNN_OPTS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=exported.parent, env=clean)
    answer = json.loads(done.stdout)
    wanted = expected(model, photos)
    assert np.ptp(wanted, axis=0).max() > 0.05  # else any constant would pass
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-4)
    assert answer["class_id"] == wanted.argmax(axis=1).tolist()
    assert answer["label"] == [CLASSES[number] for number in wanted.argmax(axis=1)]
    assert "pipeline" not in {name.split(".")[0] for name in answer["foreign"]}


def test_the_second_signature_takes_pixels(model: keras.Model, exported: Path) -> None:
    pixels = np.random.default_rng(1).uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    answer = tf.saved_model.load(str(exported)).signatures["pixels"](pixels=tf.constant(pixels))
    wanted = tf.nn.softmax(model(pixels, training=False))
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5)


def test_transparent_is_white(exported: Path) -> None:
    clear = Image.new("RGBA", (40, 40), (200, 10, 10, 0))
    files = []
    for image in (clear, Image.new("RGB", (40, 40), "white")):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files.append(buffer.getvalue())
    on_clear, on_white = Predictor(exported).answer(files)["probabilities"]
    np.testing.assert_allclose(on_clear, on_white, atol=1e-6)


def test_a_kind_that_ingest_transcodes_is_predicted_as_its_png(exported: Path, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    image.save(tmp_path / "same.png")
    image.save(tmp_path / "scan.tiff")
    image.save(tmp_path / "wrongly named.jpg", "TIFF")
    found = list(Predictor(exported).predict(sorted(tmp_path.iterdir())))
    assert [prediction.error for prediction in found] == [None] * 3
    for other in found[1:]:
        assert other.probabilities == pytest.approx(dict(found[0].probabilities), abs=1e-5)


def test_crop_and_pad_are_part_of_the_export(
    model: keras.Model, exported: Path, photos: list[Path], tmp_path: Path
) -> None:
    contents = [path.read_bytes() for path in photos]
    stretched = Predictor(exported).answer(contents)["probabilities"]
    for resize in ("crop", "pad"):
        export_savedmodel(model, load_task("classification"), CLASSES, tmp_path / resize, resize=resize)
        answer = Predictor(tmp_path / resize).answer(contents)["probabilities"]
        pixels = decode_batch(tf.constant(contents), (32, 32), 3, resize)
        np.testing.assert_allclose(answer, tf.nn.softmax(model(pixels, training=False)), atol=1e-4)
        assert np.abs(answer - stretched).max() > 1e-3


def test_labels_stand_in_class_order(exported: Path) -> None:
    assert (exported / "labels.txt").read_text().splitlines() == list(CLASSES)


def test_a_bad_file_does_not_fail_its_neighbours(exported: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "garbage.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (tmp_path / "empty.png").touch()
    mixed = [photos[0], tmp_path / "garbage.jpg", tmp_path / "empty.png", tmp_path / "absent.png", photos[1]]
    good, garbage, empty, absent, last = Predictor(exported).predict(mixed)
    assert (good.error, last.error) == (None, None)
    assert "no image" in (garbage.error or "")
    assert empty.error == "the file is empty"
    assert "cannot be read: No such file" in (absent.error or "")
    assert (garbage.label, garbage.probability, dict(garbage.probabilities)) == ("", None, {})
    alone = next(Predictor(exported).predict([photos[0]]))
    assert alone.probabilities == pytest.approx(dict(good.probabilities), abs=1e-5)


def test_top_is_sorted(exported: Path, photos: list[Path]) -> None:
    prediction = next(Predictor(exported).predict(photos))
    top = prediction.top(2)
    assert top[0] == (prediction.label, prediction.probability)
    assert top[0][1] >= top[1][1]
    assert len(top) == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_written_predictions_read_back(exported: Path, photos: list[Path], tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    predictor = Predictor(exported)
    found = list(predictor.predict([*photos, tmp_path / "absent.png"]))
    path = tmp_path / f"out{suffix}"
    write_predictions(found, predictor.labels, path)
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda p: pd.read_json(p, lines=True)}
    table = read[suffix](path)
    assert table["path"].tolist() == [prediction.path for prediction in found]
    assert table["probability"][0] == pytest.approx(found[0].probability)
    assert table["error"].notna().tolist() == [False] * len(photos) + [True]
    if suffix != ".jsonl":
        assert table["p:zebra fish"][0] == pytest.approx(found[0].probabilities["zebra fish"])


def test_no_export_no_prediction(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"holds no saved_model.pb; name an export folder such as runs/NAME/export"):
        Predictor(tmp_path)


def test_a_damaged_export_says_so(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes((exported / "saved_model.pb").read_bytes()[:1000])
    with pytest.raises(ExportError, match=r"cannot be loaded .*; run the stage export again"):
        Predictor(tmp_path)


def test_a_failed_export_leaves_the_earlier_one(
    exported: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (exported / "saved_model.pb").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="Input/output error"):
        export_savedmodel(model, load_task("classification"), CLASSES, exported)
    assert (exported / "saved_model.pb").read_bytes() == before
    assert [path.name for path in exported.parent.iterdir()] == ["export"]


def test_the_ending_of_the_output_says_its_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"allowed: \.csv, \.jsonl, \.parquet"):
        check_output(tmp_path / "out.xlsx")
    with pytest.raises(DataError, match="there is no folder"):
        check_output(tmp_path / "absent" / "out.csv")
