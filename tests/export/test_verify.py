"""`pipeline verify` and the script in the export: exit codes, what is printed, and what counts as a difference."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from subjects import ORIGIN, build_test_split, original, recorded

from pipeline.cli import cli
from pipeline.export.stage import publish
from pipeline.export.verify import TOLERANCE, compare, verify


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, of = tmp_path_factory.mktemp("run"), original()
    test = build_test_split(root / "test")
    publish(of, ORIGIN, test, recorded(of, test), 4, root / "export")
    return root / "export"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export"))


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, words)], catch_exceptions=False)


def test_a_sound_export_is_ok(exported: Path) -> None:
    result = call(exported)
    assert result.exit_code == 0
    assert result.stdout.startswith("18 answers are off by at most ")
    assert "files are as they were exported" in result.stdout


def test_json_is_one_document(exported: Path) -> None:
    result = call(exported, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["ok"], report["images"], report["problems"], report["tolerance"]) == (True, 18, [], TOLERANCE)
    assert 0 <= report["largest_difference"] < TOLERANCE
    assert report["files"] == len((exported / "sha256sums.txt").read_text().splitlines())


@pytest.mark.parametrize("as_json", [False, True])
def test_a_tampered_file_is_exit_code_3(as_json: bool, copied: Path) -> None:
    (copied / "labels.txt").write_text("bee\nant\ncat\nzebra fish\n")
    result = call(copied, *(["--json"] if as_json else []))
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1] == f"error: {copied} is not what was exported: 1 problem"
    if as_json:
        report = json.loads(result.stdout)
        assert (report["ok"], report["problems"][0]["file"]) == (False, "labels.txt")
    else:
        assert result.stdout == "labels.txt: is not what was exported: its SHA-256 is another\n"


def test_without_its_list_of_digests_an_export_is_damaged(copied: Path) -> None:
    (copied / "sha256sums.txt").unlink()
    result = call(copied)
    assert result.exit_code == 3
    assert result.stdout.startswith("sha256sums.txt: cannot be read: [Errno 2] No such file or directory")


@pytest.mark.parametrize("line", ["0  ../outside", "0  /etc/hostname"])
def test_a_list_that_leads_out_of_the_export_is_not_followed(line: str, copied: Path) -> None:
    with (copied / "sha256sums.txt").open("a") as file:
        file.write(f"{line}\n")
    assert "lies outside the export" in call(copied).stdout


def test_files_that_stand_beside_it_are_nobodys_business(copied: Path) -> None:
    (copied / "model.onnx").touch()
    assert verify(copied)["ok"]


def test_no_export_is_exit_code_1(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        result = call(folder)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "holds no export; name a folder that the stage export has written" in result.stderr
    (tmp_path / "saved_model.pb").touch()
    assert "holds an export without golden answers" in call(tmp_path).stderr


@pytest.mark.slow
def test_the_script_has_the_same_exit_codes(copied: Path, tmp_path: Path) -> None:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(copied / "golden" / "verify.py"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    assert json.loads(run("--json").stdout)["ok"]
    assert run(tmp_path / "absent").returncode == 1
    (copied / "labels.txt").write_text("x\n")
    done = run(copied)
    assert (done.returncode, done.stdout) == (3, "labels.txt: is not what was exported: its SHA-256 is another\n")


EXPECTED = {"file": "a.png", "label": "ant", "confident": True, "probabilities": [0.6, 0.3, 0.1]}
ANSWER = {"error": b"", "label": b"ant", "class_id": 0, "confident": True, "probabilities": [0.6, 0.3, 0.1]}
LABELS = ["ant", "bee", "cat"]


def judged(
    expected: dict[str, Any] | None = None, answer: dict[str, Any] | None = None, threshold: float = 0.5
) -> str | None:
    return compare(EXPECTED | (expected or {}), ANSWER | (answer or {}), LABELS, threshold)[0]


def test_what_counts_as_a_difference() -> None:
    assert judged() is None
    assert judged(answer={"probabilities": [0.60009, 0.29991, 0.1]}) is None
    assert "off by 0.0002" in str(judged(answer={"probabilities": [0.6002, 0.2998, 0.1]}))
    assert "not a number" in str(judged(answer={"probabilities": [float("nan")] * 3}))
    assert "2 probabilities instead of 3" in str(judged(answer={"probabilities": [0.6, 0.4]}))
    assert "refused: cannot" in str(judged(answer={"error": b"cannot be decoded"}))
    assert "class id 1 is not that of 'ant'" in str(judged(answer={"class_id": 1}))
    assert "labelled 'bee' instead of 'ant'" in str(judged(answer={"class_id": 1, "label": b"bee"}))
    assert "confident is False instead of True" in str(judged(answer={"confident": False}))


def test_what_is_too_close_to_tell_may_go_either_way() -> None:
    assert judged(answer={"confident": False}, threshold=0.60005) is None
    assert judged(answer={"confident": False}, threshold=0.6002) is not None
    close = {"probabilities": [0.45, 0.4499, 0.1001]}
    assert judged(close, close | {"class_id": 1, "label": b"bee"}, 0.4) is None
    apart = {"probabilities": [0.45, 0.4497, 0.1003]}
    assert judged(apart, apart | {"class_id": 1, "label": b"bee"}, 0.4) is not None


@pytest.mark.parametrize(
    "answer",
    [{}, {"error": b"bad"}, {"error": b"bad", "label": b"", "class_id": -1, "confident": False},
     {"error": b"", "label": b"", "class_id": -1, "confident": False, "probabilities": [0.0, 0.0, 0.0]}],
)  # fmt: skip
def test_a_bad_image_must_be_called_bad(answer: dict[str, Any]) -> None:
    assert "cannot be read, but was answered" in str(judged({"bad": True}, answer))
    refused = {"error": b"bad", "label": b"", "class_id": -1, "confident": False, "probabilities": [0.0] * 3}
    assert judged({"bad": True}, refused) is None
