"""Names that trip programs up, of class folders and of files: they come through every stage, or ingest refuses them."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipeline
from pipeline.config import IngestConfig
from pipeline.errors import DataError
from pipeline.export.predict import Predictor
from pipeline.ingest import IngestResult, ingest
from pipeline.models.backbones import find_backbone
from pipeline.plan import Request
from pipeline.progress import Silent
from pipeline.run import RunResult, run_pipeline
from pipeline.tracking import MlflowTracker

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))

#: Ten kinds; `None` where there is no class folder of that name because it is refused.
NAMES: dict[str, tuple[str, str | None]] = {
    "spaces": (" two  words ", " two  words "),
    "newline": ("line\nbreak", None),
    "quotes": ('it\'s "quoted" `here`', 'it\'s "quoted" `here`'),
    "percent": ("100%s %(x)s %20", "100%s %(x)s %20"),
    "hash": ("#1 $2 {3} [4]", "#1 $2 {3} [4]"),
    "leading dash": ("-rf", "--help"),
    "emoji": ("\N{DOG FACE}\N{ZERO WIDTH JOINER}", "\N{DOG FACE} dog"),
    "twins": (NFC, NFD),  # with a twin file beside the file; a twin folder is refused
    "not UTF-8": (os.fsdecode(b"caf\xe9"), None),
    "255 bytes": ("x" * 251, "y" * 255),
}
CLASSES = [label for _, label in NAMES.values() if label]


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path, "PNG")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(migrated_store, folder)
    for number, label in enumerate(CLASSES):
        for image in range(4):
            save(folder / "photos" / label / f"{image}.png", 100 * number + image)
    for number, (name, _) in enumerate(NAMES.values()):
        save(folder / "photos" / CLASSES[0] / f"{name}.png", 10_000 + number)
    save(folder / "photos" / CLASSES[0] / f"{NFD}.png", 20_000)
    return folder


@pytest.fixture(scope="module")
def whole(root: Path) -> RunResult:
    weights = root / "convnet.weights.h5"  # some chapters look at what a pretrained network sees
    find_backbone("convnet").build((12, 12)).save_weights(weights)
    settings = (
        "model.backbone=convnet", f"model.weights={weights}", "model.image_size=12", "model.head.hidden=[8]",
        "train.head.epochs=1", "train.fine_tune.epochs=0", "evaluate.explain=1", "evaluate.robustness=true",
        "experiment='#1 \N{DOG FACE} it''s'",
    )  # fmt: skip
    return run_pipeline(Request(data=str(root / "photos"), settings=settings), root, tracker=MlflowTracker(root))


def file_of(kind: str) -> str:
    return f"{CLASSES[0]}/{NAMES[kind][0]}.png"


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_comes_through_or_is_refused(kind: str, whole: RunResult, root: Path) -> None:
    manifest = pq.read_table(whole.path / "manifest.parquet").to_pydict()
    if kind == "not UTF-8":
        quarantine = (whole.path / "quarantine.csv").read_text()
        assert r"caf\xe9.png" in quarantine
        assert "its name is not UTF-8; rename it" in quarantine
        return
    row = manifest["id"].index(file_of(kind))
    assert Path(manifest["path"][row]).read_bytes() == (root / "photos" / file_of(kind)).read_bytes()
    (prediction,) = Predictor(whole.export or root).predict([Path(manifest["path"][row])])
    assert prediction.error is None
    assert json.loads(json.dumps(prediction.document()))["path"] == manifest["path"][row]


def test_twin_files_are_two_files(whole: RunResult) -> None:
    names = pq.read_table(whole.path / "manifest.parquet").column("id").to_pylist()
    assert {f"{CLASSES[0]}/{NFC}.png", f"{CLASSES[0]}/{NFD}.png"} <= set(names)


@pytest.mark.parametrize("kind", [kind for kind, (_, label) in NAMES.items() if label])
def test_a_class_comes_through(kind: str, whole: RunResult, root: Path) -> None:
    label = NAMES[kind][1]
    assert whole.export
    assert label in Predictor(whole.export).labels
    assert label in json.loads((whole.path / "evaluation.json").read_text())["labels"]
    predictions = pq.read_table(whole.path / "predictions.parquet")
    assert f"p:{label}" in predictions.column_names
    assert label in predictions.column("label").to_pylist()
    assert label in json.loads(table_of(whole, root, "per_class"))["data"][CLASSES_SORTED.index(str(label))]


CLASSES_SORTED = sorted(CLASSES)


def table_of(whole: RunResult, root: Path, name: str) -> str:
    from mlflow import MlflowClient

    run_id = json.loads((whole.path / "run.json").read_text())["mlflow_run_id"]
    client: Any = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return Path(client.download_artifacts(run_id, f"tables/{name}.json")).read_text()


def test_mlflow_has_every_file_of_the_run(whole: RunResult, root: Path) -> None:
    from mlflow import MlflowClient

    run_id = json.loads((whole.path / "run.json").read_text())["mlflow_run_id"]
    client: Any = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    logged = {entry.path for entry in client.list_artifacts(run_id)}
    assert {"manifest.parquet", "quarantine.csv", "predictions.parquet", "export", "data.png"} <= logged
    assert [entry.path for entry in client.list_artifacts(run_id, "explain")] == ["explain/1.png"]
    stored = pq.read_table(client.download_artifacts(run_id, "manifest.parquet"))
    assert set(stored.column("label").to_pylist()) == set(CLASSES)


def written_chapters() -> dict[str, str]:
    """Returns the name and title of every chapter that the package can write, as its source has them."""
    calls = [
        {keyword.arg: keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)}
        for path in Path(pipeline.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Chapter"
    ]
    return {str(call["name"]): str(call["title"]) for call in calls}


@pytest.mark.parametrize("name", written_chapters())
def test_every_chapter_is_among_what_mlflow_took(name: str, whole: RunResult) -> None:
    """MLflow refuses a batch of metrics for one bad name, so a chapter of a finished run has none."""
    assert f"<h2>{written_chapters()[name]}</h2>" in (whole.path / "report.html").read_text()


def test_mlflow_has_every_metric_and_table_by_the_name_of_the_evaluation(whole: RunResult, root: Path) -> None:
    from mlflow import MlflowClient

    run_id = json.loads((whole.path / "run.json").read_text())["mlflow_run_id"]
    client: Any = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    run = client.get_run(run_id)
    assert whole.metrics.items() <= run.data.metrics.items()
    assert {"test/top_1", "test/ece", "test/probe_baseline", "data/suspect_labels"} <= set(whole.metrics)
    assert all(name.removesuffix(end) in whole.metrics for name in whole.metrics for end in ("_low", "_high"))
    stored = {entry.path for entry in client.list_artifacts(run_id, "tables")}
    listed = {entry["path"] for entry in json.loads(run.data.tags["mlflow.loggedArtifacts"])}  # else shown as JSON
    tables = {"per_class", "mistakes", "doubtful_labels", "learning_curve", "robustness_scores"}
    assert listed == stored >= {f"tables/{name}.json" for name in tables}


def examined(folder: Path) -> IngestResult:
    return ingest(IngestConfig(data=str(folder)), folder / "data", folder / ".cache", Silent())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["line\nbreak", "b"], r"class folder 'line\\nbreak' has a line break or another control character"),
        ([os.fsdecode(b"caf\xe9"), "b"], r"class folder caf\\xe9 has a name that is not UTF-8; rename it"),
        ([NFC, NFD], r"class folders .* look alike but are coded differently"),
    ],
)
def test_a_class_that_cannot_be_kept_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    for number, name in enumerate(names):
        for image in range(4):
            save(tmp_path / name / f"{image}.png", 10 * number + image)
    with pytest.raises(DataError, match=message) as caught:
        examined(tmp_path)
    str(caught.value).encode()  # it can be printed
    assert "\n" not in str(caught.value)


def test_the_card_names_them_all_and_its_call_through_mlflow_answers(
    whole: RunResult, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow
    from mlflow.pyfunc.scoring_server import invocations

    assert whole.export
    card = (whole.export / "card.md").read_text(encoding="utf-8")
    assert str(root) not in card
    address = re.search(r"mlflow models serve -m (\S+) ", card)
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "/invocations" in code]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    assert address is not None
    model = mlflow.pyfunc.load_model(address.group(1))

    def serve(request: Any) -> io.BytesIO:
        """Answers as `mlflow models serve` does."""
        assert request.full_url == "http://localhost:5001/invocations"
        kind = request.get_header("Content-type")
        answer = invocations(request.data.decode(), kind, model, model.metadata.get_input_schema())
        assert answer.status == 200, answer.response
        return io.BytesIO(answer.response.encode())

    monkeypatch.setattr("urllib.request.urlopen", serve)
    monkeypatch.chdir(whole.export)
    exec(code, {})
    (wanted,) = Predictor(whole.export).predict([Path("golden/probe-coloured.png")])
    label, _, probability = capsys.readouterr().out.rstrip("\n").rpartition(" ")
    assert (label, float(probability)) == (wanted.label, pytest.approx(wanted.probability, abs=1e-6))
