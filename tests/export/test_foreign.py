"""An export from elsewhere that would do more than compute is refused before any of it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from click.testing import CliRunner
from subjects import CALIBRATION, original

from pipeline.cli import cli
from pipeline.config import build_config
from pipeline.errors import ExportError
from pipeline.export.foreign import require_harmless
from pipeline.export.predict import Predictor
from pipeline.export.savedmodel import export_savedmodel
from pipeline.export.stage import write_sums
from pipeline.models.backbones import BACKBONES, find_backbone
from pipeline.models.network import build_network
from pipeline.tasks.table import load_task

RAN: list[str] = []


def _ran() -> bytes:
    RAN.append("it ran")
    return b""


def read_file(names: tf.Tensor) -> tf.Tensor:
    return tf.strings.length(tf.io.read_file("/etc/hostname"))


def write_file(names: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.io.write_file("planted.txt", "planted")]):
        return tf.strings.length(names)


def list_files(names: tf.Tensor) -> tf.Tensor:
    return tf.size(tf.io.matching_files("/etc/*"))


def print_to_a_file(names: tf.Tensor) -> tf.Tensor:
    tf.print(names, output_stream="file://planted.txt")
    return tf.strings.length(names)


def call_python(names: tf.Tensor) -> tf.Tensor:
    return tf.strings.length(tf.numpy_function(_ran, [], tf.string))


def save_a_checkpoint(names: tf.Tensor) -> tf.Tensor:
    tf.raw_ops.SaveV2(prefix="planted", tensor_names=["a"], shape_and_slices=[""], tensors=[names])
    return tf.strings.length(names)


def load_a_checkpoint(names: tf.Tensor) -> tf.Tensor:
    (found,) = tf.raw_ops.RestoreV2(prefix="other", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.string])
    return tf.strings.length(found)


def cache_in_a_file(names: tf.Tensor) -> tf.Tensor:
    (first,) = tf.data.Dataset.from_tensor_slices(names).cache("planted").batch(1).take(1)
    return tf.strings.length(first)


def read_records(names: tf.Tensor) -> tf.Tensor:
    return tf.data.TextLineDataset("/etc/hostname").map(tf.strings.length).batch(99).get_single_element()


def inside_a_branch(names: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.size(names) > 10**6, lambda: read_file(names), lambda: tf.constant(0))


ATTACKS = [
    (read_file, "ReadFile"),
    (write_file, "WriteFile"),
    (list_files, "MatchingFiles"),
    (print_to_a_file, "PrintV2"),
    (call_python, "PyFunc"),
    (save_a_checkpoint, "SaveV2"),
    (load_a_checkpoint, "RestoreV2"),
    (read_records, "TextLineDataset"),
    (inside_a_branch, "ReadFile"),
]


def save_attack(attack: Callable[[tf.Tensor], tf.Tensor], folder: Path) -> Path:
    module = tf.Module()
    module.weight = tf.Variable([1.0])

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def serve(image_bytes: tf.Tensor) -> dict[str, Any]:
        return {"error": tf.as_string(attack(image_bytes)), "weight": module.weight.read_value()}

    tf.saved_model.save(module, str(folder), {"serving_default": serve})
    (folder / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    RAN.clear()
    monkeypatch.chdir(tmp_path)
    yield
    assert RAN == []
    assert not list(tmp_path.glob("planted*"))


@pytest.mark.parametrize(("attack", "operation"), ATTACKS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_reaches_out_of_the_graph_is_refused(attack: Any, operation: str, tmp_path: Path) -> None:
    folder = save_attack(attack, tmp_path / "export")
    with pytest.raises(ExportError, match=f"is refused: its graph holds .*{operation}") as error:
        Predictor(folder)
    assert "\n" not in str(error.value)


def test_a_graph_without_it_is_taken(tmp_path: Path) -> None:
    """Else the attacks above would be refused for what is around them."""
    require_harmless(save_attack(tf.strings.length, tmp_path / "export"))


def test_a_function_that_saves_may_not_be_called_by_another(tmp_path: Path) -> None:
    """TensorFlow's own `saver_def` names the functions that save. What if the served one is named there?"""
    from tensorflow.core.protobuf import saved_model_pb2

    folder = save_attack(save_a_checkpoint, tmp_path / "export")
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = model.meta_graphs[0]
    served = next(iter(graph.signature_def["serving_default"].outputs.values())).name
    graph.saver_def.save_tensor_name = served
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="SaveV2"):
        require_harmless(folder)


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"\x08"])
def test_garbage_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ExportError, match="run the stage export again") as error:
        Predictor(tmp_path)
    assert "\n" not in str(error.value)


def test_verify_refuses_it_too(tmp_path: Path) -> None:
    folder = save_attack(write_file, tmp_path / "export")
    (folder / "golden").mkdir()
    (folder / "golden" / "golden.json").write_text("{}", encoding="utf-8")
    (folder / "contract.json").write_text("{}", encoding="utf-8")
    write_sums(folder)
    done = CliRunner().invoke(cli, ["verify", str(folder)])
    assert done.exit_code == 3
    assert "WriteFile" in done.output


def test_an_export_is_taken(tmp_path: Path) -> None:
    first = original()
    export_savedmodel(first.model, first.task, first.classes, tmp_path / "export", calibration=CALIBRATION)
    require_harmless(tmp_path / "export")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_an_export_of_every_backbone_is_taken(name: str, tmp_path: Path) -> None:
    row = find_backbone(name)
    config = build_config({"model": {"backbone": name, "weights": "none", "image_size": row.smallest_size}}).model
    task = load_task("classification")
    network = build_network(config, task, 2, seed=0, weights=None)
    export_savedmodel(network.full, task, ["a", "b"], tmp_path / "export")
    require_harmless(tmp_path / "export")
