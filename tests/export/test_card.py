"""The model card: its numbers are the run's, its snippets run, and no name can break it."""

from __future__ import annotations

import base64
import copy
import html
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from markdown_it import MarkdownIt
from PIL import Image
from subjects import CALIBRATION, CLASSES, ORIGIN, SIDE, build_test_split, original, small_network

from pipeline.cli import cli
from pipeline.config import build_config
from pipeline.export import clean
from pipeline.export.card import Card, Weights, render_card
from pipeline.export.stage import contract_document, publish
from pipeline.export.verify import verify

HOSTILE = (
    "a|b", "`code`", "two\nlines", "<script>alert(1)</script>", "<img src=x onerror=y>", "*bold* _it_ ~~gone~~",
    "[link](http://example.org)", "\\| \\", "&amp; &#124;", "![](x.png)", "www.example.org", ":dog: $x$ @name #1",
    "mirrored \u202e", "| --- |", "- item", "# head", "line\u2028break", "a_b__c",
)  # fmt: skip

METRICS = {
    "test/top_1": 0.8125, "test/top_1_low": 0.5699, "test/top_1_high": 0.9341, "test/images": 16, "test/ece": 0.1234,
    "test/effective_images": 16.0, "test/majority_baseline": 0.25, "test/log_loss": 0.61803, "test/log_loss_low": 0.2,
    "test/log_loss_high": 1.25, "test/confident_share": 0.75, "test/confident_accuracy": 0.9166,
    "data/suspect_labels": 3,
}  # fmt: skip


def evaluation(classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """Returns a document in the form of `evaluation.json`."""
    recall = [1 - place / 10 for place in range(len(classes))]
    of_classes = {name: recall for name in ("precision", "recall", "f1")}
    ends = {f"{name}_{end}": recall for name in ("precision", "recall") for end in ("low", "high")}
    return {
        "headline": "top-1 0.812 on 16 test images", "headline_metric": "test/top_1", "metrics": dict(METRICS),
        "labels": list(classes),
        "per_class": {"label": list(classes), **of_classes, **ends, "support": [4] * len(classes)},
        "confused_pairs": {"label": [classes[0]], "predicted": [classes[-1]], "images": [2]},
        "slices": {"slice": ["dark", "bright"], "images": [8, 8], "score": [0.5, 0.9], "differs": [True, False]},
        "label_noise": {"images": 80, "suspect": 3, "suspect_by_split": {"test": 1}},
    }  # fmt: skip


def card(classes: tuple[str, ...] = CLASSES, found: dict[str, Any] | None = None) -> Card:
    sizes = {"train": 12, "validation": 4, "test": 4}
    counts = {split: dict.fromkeys(classes, size) for split, size in sizes.items()}
    ingest = {
        "source": "/home/somebody/private/flowers", "images": 20 * len(classes), "classes": list(classes),
        "counts": counts, "leaks": 0, "relabel": None,
    }  # fmt: skip
    config = build_config({"augment": {"transforms": [{"rotate": {"degrees": 10}}, "flip_left_right"]}})
    return Card(
        created="2026-01-02", config=config, paper="Nobody 2026", ingest=ingest, left_out={"the file is empty": 7},
        model={"parameters": 1234567, "multiply_adds": 89}, weights=Weights("none", None, None), epochs={"head": 6},
        evaluation=found,
    )  # fmt: skip


def contract(classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    return contract_document(original(), ORIGIN) | {"labels": list(classes)}


def rows(text: str, heading: str) -> list[list[str]]:
    """Returns the cells of the first table behind a heading or a sentence."""
    lines = iter(text[text.index(heading) :].splitlines())
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def snippets(text: str, kind: str = "python") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def snippet(text: str, word: str) -> str:
    """Returns the one Python snippet that has the word in it."""
    (found,) = [code for code in snippets(text) if word in code]
    return found


# What it says.


def test_scores_are_those_of_the_evaluation() -> None:
    text = render_card(card(found=evaluation()), contract())
    assert {row[0]: row[1:] for row in rows(text, "## Scores")} == {
        "test/top_1": ["0.812", "0.570 to 0.934"], "test/images": ["16", "-"], "test/ece": ["0.123", "-"],
        "test/effective_images": ["16", "-"], "test/log_loss": ["0.618", "0.200 to 1.250"],
        "test/confident_share": ["0.750", "-"], "test/confident_accuracy": ["0.917", "-"],
    }  # fmt: skip
    assert rows(text, "To be compared with") == [["test/majority_baseline", "0.250"]]
    assert [row[0] for row in rows(text, "Class by class")] == list(reversed(CLASSES))
    assert rows(text, "Class by class")[0] == [
        "zebra fish",
        "4",
        "0.700",
        "0.700 to 0.700",
        "0.700",
        "0.700 to 0.700",
        "0.700",
    ]
    assert "stands by 75.0 % of its answers (`confident`), and 91.7 % of those are right" in text
    assert "leaves 25.0 % of the images" in text


def test_data_and_training_are_those_of_the_run() -> None:
    text = render_card(card(), contract())
    assert rows(text, "| class | train |") == [[label, "12", "4", "4"] for label in CLASSES]
    assert rows(text, "| left out, because |") == [["the file is empty", "7"]]
    assert "80 images in 4 classes from flowers;" in text
    assert "/home/somebody" not in text
    assert "d" * 64 in text
    assert "From random weights. 6 epochs of the head alone, in batches of 32;" in text
    assert "Augmentation: rotate, flip_left_right." in text
    without = card().config.model_copy(update={"augment": card().config.augment.model_copy(update={"views": 0})})
    assert "Augmentation: none." in render_card(replace(card(), config=without), contract())
    assert f"Temperature {CALIBRATION.temperature:.3f}, threshold 0.500" in text


def test_limits_are_told() -> None:
    found = evaluation()
    text = render_card(card(found=found), contract())
    assert "**The test set is small**: with 16 images the score is known to about 18 points either way." in text
    assert "4 of the classes have fewer than 20 test images, one as few as 4" in text
    assert "Classes that are found least (recall): zebra fish (0.700), cat (0.800), bee (0.900)." in text
    assert "ant for zebra fish (2)" in text
    assert "differs from the rest: dark: 0.500 on 8 images" in text
    assert "bright: " not in text
    assert "3 of 80 labels of the data look wrong, 1 of them in the test split" in text
    assert "was not measured" in text
    found["metrics"] |= {"test/robust_blur": 0.4, "test/top_1_low": 0.81, "test/top_1_high": 0.82}
    found["robustness"] = {"clean": 0.8}
    text = render_card(card(found=found), contract())
    assert "Mean score under five strengths of a change, 0.800 without one: blur 0.400." in text
    assert "The test set is small" not in text


def test_without_an_evaluation_it_says_so_and_has_no_scores() -> None:
    text = render_card(card(), contract())
    assert "**Not evaluated: the stage evaluate was not run" in text
    assert "test/" not in text
    assert "Nothing was measured." in text
    assert "stands by" not in text
    assert rows(text, "| class | train |")


@pytest.mark.parametrize("mlflow_run_id", [None, "0" * 32])
def test_mlflow_is_told_of_where_the_run_is_there(mlflow_run_id: str | None) -> None:
    text = render_card(card(), contract() | {"mlflow_run_id": mlflow_run_id})
    assert ("mlflow models serve -m runs:/" in text) is (mlflow_run_id is not None)
    assert "None" not in text


def test_front_matter_only_for_a_task_that_has_a_name_elsewhere() -> None:
    assert render_card(card(), contract()).startswith("---\npipeline_tag: image-classification\n")
    assert render_card(card(), contract() | {"task": "counting"}).startswith("# Model card: photos-1\n")


def test_other_formats_are_shown() -> None:
    formats = [
        {"name": "onnx", "file": "onnx/model.onnx", "published": True, "reason": None, "largest_difference": 3.2e-7,
         "bytes": 1234567, "images_per_second": 88.25},
        {"name": "litert int8", "file": "litert/int8.tflite", "published": False, "reason": "off | by 0.2",
         "largest_difference": 0.2, "bytes": 99, "images_per_second": None},
    ]  # fmt: skip
    text = render_card(card(), contract(), formats, litert=True)
    assert rows(text, "## Other formats") == [
        ["onnx", "onnx/model.onnx", "yes", "3.2e-07", "1,234,567", "88.250"],
        ["litert int8", "litert/int8.tflite", "no: off &#124; by 0.2", "0.200", "99", "unknown"],
    ]
    assert "litert" not in render_card(card(), contract()).lower()


def test_many_classes_are_cut_and_counted() -> None:
    many = tuple(f"class {number:03}" for number in range(250))
    text = render_card(card(many, evaluation(many)), contract(many))
    assert len(rows(text, "| class | train |")) == len(rows(text, "Class by class")) == 100
    assert text.count("and 150 more classes") == 2


# Names.


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def test_no_name_breaks_it() -> None:
    harmless = tuple(f"class {number:02}" for number in range(len(HOSTILE)))
    tags = []
    for classes in (harmless, HOSTILE):
        text = render_card(card(classes, evaluation(classes)), contract(classes) | {"run": classes[3]})
        page = rendered(text)
        tags.append([tag for tag in re.findall(r"<(/?\w+)", page)])
    assert tags[0] == tags[1]
    cells = [html.unescape(cell) for cell in re.findall(r"<tr>\n<td>(.*?)</td>", page, re.DOTALL)]
    told = [name.replace("\n", "\\n").replace("\u2028", "\\u2028").replace("\u202e", "").strip() for name in HOSTILE]
    assert {cell.strip() for cell in cells} >= set(told)
    assert "&lt;script&gt;" in page.split("</h1>")[0]


# Its snippets.


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with a card and with the small network as `litert/float32.tflite`, as the stage export leaves it."""
    root = tmp_path_factory.mktemp("run")
    folder = root / "export"
    publish(original(), ORIGIN, build_test_split(root / "test"), None, 2, folder, card=card(found=evaluation()))
    return folder


def answer_to(export: Path, file: str) -> tuple[str, float]:
    """Returns label and probability that the trained network gives an image."""
    probabilities = original().probabilities([(export / file).read_bytes()])[0]
    return CLASSES[int(probabilities.argmax())], float(probabilities.max())


def test_it_is_part_of_the_proof(export: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(export, tmp_path / "export")
    (damaged / "card.md").write_text((export / "card.md").read_text().replace("0.812", "0.912"))
    report = verify(damaged)
    assert [problem["file"] for problem in report["problems"]] == ["card.md"]


def run_alone(code: str, folder: Path, *, tensorflow: bool = True) -> str:
    """Returns what a snippet prints in a process that cannot import this package."""
    script = folder.parent / "snippet.py"
    script.write_text(code, encoding="utf-8")
    home = str(Path(tf.__file__).parents[1]) if tensorflow else ""
    command = [sys.executable, "-I", "-c", clean._ALONE, home, str(script), str(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_python_alone(export: Path) -> None:
    code = snippet((export / "card.md").read_text(), "tf.saved_model.load")
    label, probability = answer_to(export, "golden/probe-coloured.png")
    found, _, number = run_alone(code, export).rpartition(" ")
    assert (found, float(number)) == (label, pytest.approx(probability, abs=1e-4))


@contextmanager
def serving(export: Path) -> Iterator[int]:
    """Yields the port of a server that answers as TensorFlow Serving's REST interface does, in rows."""
    signature = (model := tf.saved_model.load(str(export))).signatures["serving_default"]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/models/model:predict"
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            # {"b64": ...} is how it takes bytes; names are those of the signature's inputs.
            inputs = {
                name: tf.constant([base64.b64decode(row[name]["b64"]) for row in request["instances"]])
                for name in request["instances"][0]
            }
            outputs = {name: values.numpy() for name, values in signature(**inputs).items()}
            plain = {name: [v.decode() for v in a] if a.dtype == object else a.tolist() for name, a in outputs.items()}
            rows = [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"predictions": rows}).encode())

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
    del model


def test_rest_with_nothing_but_the_standard_library(export: Path) -> None:
    code = snippet((export / "card.md").read_text(), "v1/models/model:predict")
    with serving(export) as port:
        found, _, number = run_alone(code.replace("localhost:8501", f"127.0.0.1:{port}"), export).rpartition(" ")
    label, probability = answer_to(export, "golden/probe-coloured.png")
    assert (found, float(number)) == (label, pytest.approx(probability, abs=1e-4))


def test_the_command(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = snippets((export / "card.md").read_text(), "sh")
    program, *words = line.split()
    monkeypatch.chdir(export)
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    label, probability = answer_to(export, "golden/probe-coloured.png")
    assert (program, done.exit_code) == ("pipeline", 0)
    assert done.stdout.startswith(f"golden/probe-coloured.png: {label} {probability:.3f}")


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_litert(resize: Any, export: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "export")
    scaled = keras.layers.Rescaling(1 / CALIBRATION.temperature)
    answers = keras.Sequential([*small_network().layers, scaled, keras.layers.Softmax()])
    answers.build((None, SIDE, SIDE, 3))
    (folder / "litert").mkdir()
    (folder / "litert" / "float32.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(answers).convert())
    wide = np.random.default_rng(0).integers(0, 256, (SIDE // 4, SIDE // 2, 3), np.uint8)
    Image.fromarray(np.kron(wide, np.ones((8, 8, 1), np.uint8))).save(folder / "golden" / "probe-coloured.png")
    said = copy.deepcopy(contract())
    said["input"]["resize"] = resize
    code = snippet(render_card(card(), said, litert=True), "ai_edge_litert")
    found, _, number = run_alone(code, folder).rpartition(" ")
    contents = (folder / "golden" / "probe-coloured.png").read_bytes()
    wanted = replace(original(), resize=resize).probabilities([contents])[0]
    assert found == CLASSES[int(wanted.argmax())]
    assert float(number) == pytest.approx(wanted.max(), abs=0.02)  # Pillow rounds pixels to whole numbers
