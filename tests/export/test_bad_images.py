"""One bad image in a batch, through both doors of an export: the signature and the Predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from subjects import CLASSES, original

from pipeline.errors import ExportError
from pipeline.export.predict import Predictor
from pipeline.export.probes import PROBES, bad_images
from pipeline.export.savedmodel import export_savedmodel

BAD = list(bad_images().values())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, of = tmp_path_factory.mktemp("run") / "export", original()
    export_savedmodel(of.model, of.task, CLASSES, folder, calibration=of.calibration)
    return folder


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return Predictor(exported)


@pytest.fixture(scope="module")
def good() -> list[bytes]:
    """Thirty-one images, eight kinds by turns."""
    kinds = list(PROBES.values())
    return [kinds[number % 8].build(number, (32, 32), "stretch").contents for number in range(31)]


@pytest.mark.parametrize("name", bad_images())
def test_the_other_31_get_the_answers_that_they_get_alone(name: str, predictor: Predictor, good: list[bytes]) -> None:
    answer = predictor.answer([*good[:13], bad_images()[name], *good[13:]])
    assert answer["error"][13]
    assert (answer["label"][13], answer["class_id"][13], answer["confident"][13]) == (b"", -1, False)
    assert not answer["probabilities"][13].any()
    others = {output: np.delete(values, 13, axis=0) for output, values in answer.items()}
    alone = predictor.answer(good)
    np.testing.assert_allclose(others["probabilities"], alone["probabilities"], rtol=0, atol=1e-6)
    for output in ("label", "class_id", "confident", "error"):
        assert others[output].tolist() == alone[output].tolist()
    assert set(alone["error"].tolist()) == {b""}
    assert set(alone["label"].tolist()) <= {label.encode() for label in CLASSES}


def test_an_image_beside_others_of_whatever_kind_is_answered_alike(predictor: Predictor, good: list[bytes]) -> None:
    company = [[image] * 7 for image in (good[1], BAD[0], BAD[3])]
    answers = [predictor.answer([*others[:3], good[0], *others[3:]])["probabilities"][3] for others in company]
    np.testing.assert_array_equal(answers[1], answers[0])
    np.testing.assert_array_equal(answers[2], answers[0])


@pytest.mark.parametrize("contents", [BAD, BAD[:1], []], ids=["all bad", "one bad", "none"])
def test_a_batch_without_a_good_image(contents: list[bytes], predictor: Predictor) -> None:
    answer = predictor.answer(contents)
    assert answer["probabilities"].shape == (len(contents), len(CLASSES))
    assert answer["class_id"].tolist() == [-1] * len(contents)
    assert all(answer["error"].tolist())


def test_the_predictor_says_what_the_graph_says(
    predictor: Predictor, good: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow refuses most of what is bad before; here nothing is refused."""
    monkeypatch.setattr("pipeline.export.predict._read", Path.read_bytes)
    contents = [good[0], *BAD, good[1]]
    paths = [tmp_path / f"{number}.jpg" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    first, *bad, last = predictor.predict(paths)
    assert (first.error, last.error) == (None, None)
    assert [prediction.error for prediction in bad] == [
        "the file is empty", "cannot be decoded: damaged, or cut short", "cannot be decoded: damaged, or cut short",
        "100000 x 100000 is over 100,000,000 pixels; scale the image down",
    ]  # fmt: skip
    assert bad[0].document() == {
        "path": str(paths[1]), "label": "", "probability": None, "probabilities": {}, "confident": None,
        "error": "the file is empty",
    }  # fmt: skip


def test_an_export_of_an_older_version_says_so(exported: Path, tmp_path: Path) -> None:
    class Older(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": tf.zeros((tf.size(image_bytes), 2))}

    older = Older()
    tf.saved_model.save(older, str(tmp_path / "older"), {"serving_default": older.serve})
    with pytest.raises(ExportError, match=r"cannot be loaded .*error.*; run the stage export again"):
        Predictor(tmp_path / "older")
