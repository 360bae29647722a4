"""Asks an exported model again what the trained network answered, and reports every difference.

    python golden/verify.py [EXPORT_DIR] [--json]

Exit code 0: the export answers as it did; 3: it does not, or a file is damaged; 1: there is no export to check.

This file is part of every export, as `golden/verify.py`. It needs Python with TensorFlow and nothing else: not the
program that made the export, which has the same file as `pipeline/export/verify.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# Before TensorFlow is loaded. oneDNN was on when the answers were recorded, and changes the last bits of others.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

#: The largest difference in any probability that is no difference. One processor and the next, or another version of
#: TensorFlow, are a hundred times closer; float16 weights are not.
TOLERANCE = 1e-4

SUMS = "sha256sums.txt"
GOLDEN = "golden/golden.json"
CONTRACT = "contract.json"

#: Images that are asked at a time, good and bad ones together.
BATCH_SIZE = 16

#: What else a report holds is counted.
MOST_PROBLEMS = 20


class NotAnExport(Exception):
    """There is nothing that could be checked."""


def verify(folder: Path) -> dict[str, Any]:
    """Returns a report on an export: `ok`, what was checked, the `largest_difference`, and `problems`.

    Raises:
        NotAnExport: The folder holds none, or one from before exports proved themselves.
    """
    require_export(folder)
    began = time.perf_counter()
    damage, files = check_sums(folder)
    asked: dict[str, Any] = {"images": 0, "largest_difference": None}
    problems = list(damage)
    if not damage:  # what is damaged is not loaded, and would only fail once more
        try:
            asked, wrong = check_answers(folder)
            problems += wrong
        except Exception as error:  # of TensorFlow, json or NumPy: whatever it is, the export cannot be used
            problems.append({"file": str(folder), "problem": f"cannot be asked: {_line(error)}"})
    return {
        "export": str(folder), "ok": not problems, "files": files, **asked, "tolerance": TOLERANCE,
        "problems": problems[:MOST_PROBLEMS], "more_problems": max(0, len(problems) - MOST_PROBLEMS),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def require_export(folder: Path) -> None:
    """Looks whether there is something to verify; an export of which most is gone is one, and damaged.

    Raises:
        NotAnExport: There is not.
    """
    if not any((folder / name).exists() for name in (SUMS, GOLDEN)):
        found = "an export without golden answers" if (folder / "saved_model.pb").is_file() else "no export"
        raise NotAnExport(f"{folder} holds {found}; name a folder that the stage export has written")


def check_sums(folder: Path) -> tuple[list[dict[str, str]], int]:
    """Returns what is wrong with the files that `sha256sums.txt` names, and how many it names.

    Files that it does not name are nobody's business: other formats of the model may stand beside it.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        return [{"file": SUMS, "problem": f"cannot be read: {_line(error)}"}], 0
    problems, named = [], set()
    for line in lines:
        wanted, _, name = line.partition("  ")
        named.add(name)
        problem = _check_file(folder, name, wanted)
        if problem:
            problems.append({"file": name, "problem": problem})
    for name in ("saved_model.pb", GOLDEN, CONTRACT, "labels.txt"):
        if name not in named:
            problems.append({"file": SUMS, "problem": f"does not name {name}"})
    return problems, len(lines)


def _check_file(folder: Path, name: str, wanted: str) -> str | None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return "lies outside the export"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if found == wanted else "is not what was exported: its SHA-256 is another"


def check_answers(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Returns how many images were asked and the largest difference, and what is wrong with the answers."""
    import tensorflow as tf

    golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
    model = tf.saved_model.load(str(folder))
    problems, largest = _check_contract(folder, golden, model), 0.0
    short_cut = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # a GPU's, of ten bits: too few
    try:
        answers = _ask(model, folder, golden["answers"])
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(short_cut)
    for row, answer in zip(golden["answers"], answers, strict=True):
        problem, difference = compare(row, answer, golden["labels"], golden["threshold"])
        largest = max(largest, difference)
        if problem:
            problems.append({"file": f"golden/{row['file']}", "problem": problem})
    return {"images": len(answers), "largest_difference": largest}, problems


def _ask(model: Any, folder: Path, expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the model's answer to each golden image."""
    import tensorflow as tf

    serve, answers = model.signatures["serving_default"], []
    for start in range(0, len(expected), BATCH_SIZE):
        batch = expected[start : start + BATCH_SIZE]
        contents = [(folder / "golden" / Path(row["file"]).name).read_bytes() for row in batch]
        found = {name: values.numpy() for name, values in serve(image_bytes=tf.constant(contents)).items()}
        answers += [{name: values[place] for name, values in found.items()} for place in range(len(batch))]
    return answers


def _check_contract(folder: Path, golden: dict[str, Any], model: Any) -> list[dict[str, str]]:
    """Looks whether all places that say what the model is say the same."""
    contract = json.loads((folder / CONTRACT).read_text(encoding="utf-8"))
    inside = json.loads(model.signatures["contract"]()["contract"].numpy().decode())
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    claims = [
        (CONTRACT, contract == inside, "is not the contract inside the model"),
        ("labels.txt", labels == contract["labels"], f"does not hold the labels of {CONTRACT}"),
        (GOLDEN, golden["labels"] == contract["labels"], f"does not have the labels of {CONTRACT}"),
        (GOLDEN, golden["threshold"] == contract["threshold"], f"does not have the threshold of {CONTRACT}"),
    ]
    return [{"file": name, "problem": problem} for name, holds, problem in claims if not holds]


def compare(
    expected: dict[str, Any], answer: dict[str, Any], labels: list[str], threshold: float
) -> tuple[str | None, float]:
    """Returns what is wrong with the answer to one image, and the largest difference in a probability.

    Every probability may be off by `TOLERANCE`. So the label may be another where the two likeliest are as close as
    that allows, and `confident` where the likeliest is that close to the threshold.
    """
    error, probabilities = answer["error"].decode(), [float(value) for value in answer["probabilities"]]
    label, class_id = answer["label"].decode(), int(answer["class_id"])
    if expected.get("bad"):
        blank = not any(probabilities) and label == "" and class_id == -1 and not answer["confident"]
        if error and blank:
            return None, 0.0
        return f"cannot be read, but was answered {label!r} with the error {error!r}", 0.0
    if error:
        return f"refused: {error}", 1.0
    wanted = expected["probabilities"]
    if len(wanted) != len(probabilities):
        return f"{len(probabilities)} probabilities instead of {len(wanted)}", 1.0
    difference = max(abs(a - b) for a, b in zip(wanted, probabilities, strict=True))
    if difference != difference:
        return "a probability is not a number", 1.0  # NaN is none in JSON either
    if difference > TOLERANCE:
        return f"a probability is off by {difference:.3g}, more than {TOLERANCE:g}", difference
    if not 0 <= class_id < len(labels) or labels[class_id] != label:
        return f"class id {class_id} is not that of {label!r}", difference
    if label != expected["label"] and wanted[class_id] < max(wanted) - 2 * TOLERANCE:
        return f"labelled {label!r} instead of {expected['label']!r}", difference
    if bool(answer["confident"]) != expected["confident"] and abs(max(wanted) - threshold) > TOLERANCE:
        return f"confident is {bool(answer['confident'])} instead of {expected['confident']}", difference
    return None, difference


def lines(report: dict[str, Any]) -> list[str]:
    """Returns a report as text."""
    if report["ok"]:
        return [
            f"{report['images']} answers are off by at most {report['largest_difference']:.1g} "
            f"({report['tolerance']:g} is allowed), {report['files']} files are as they were exported"
        ]
    shown = [f"{found['file']}: {found['problem']}" for found in report["problems"]]
    return shown + ([f"and {report['more_problems']} more"] if report["more_problems"] else [])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def main() -> int:
    """Runs the check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Ask an exported model again what the trained network answered.")
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("export_dir", metavar="EXPORT_DIR", type=Path, nargs="?", default=here)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    try:
        report = verify(options.export_dir)
    except NotAnExport as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, ensure_ascii=False, indent=2) if options.json else "\n".join(lines(report)))
    return 0 if report["ok"] else 3


if __name__ == "__main__":
    sys.exit(main())
