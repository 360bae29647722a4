"""Exports that are wrong in one thing, each with its list of digests made anew: `verify` must find every one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from subjects import CLASSES, ORIGIN, build_test_split, original, recorded, rounded, small_network

from pipeline.export import savedmodel
from pipeline.export.golden import Original, build_golden, golden_document
from pipeline.export.savedmodel import export_savedmodel
from pipeline.export.stage import contract_document, write_golden, write_sums
from pipeline.export.verify import TOLERANCE, verify
from pipeline.images import graph
from pipeline.ingest.manifest import Manifest

Patch = pytest.MonkeyPatch

#: The decoder, scaling and resize as they are, before a mutation replaces them.
decode_apart, scale, onto_white = savedmodel.decode_apart, tf.raw_ops.ScaleAndTranslate, graph._onto_white


@pytest.fixture(scope="module")
def test_split(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build_test_split(tmp_path_factory.mktemp("split") / "test")


Goldens = Callable[[Original], list[Any]]


@pytest.fixture(scope="module")
def golden_of(test_split: Manifest) -> Goldens:
    """Returns a function that builds a golden set, once for each way of resizing."""
    built: dict[str, list[Any]] = {}

    def build(of: Original) -> list[Any]:
        if of.resize not in built:
            built[of.resize] = build_golden(of, test_split, recorded(of, test_split), 8)
        return built[of.resize]

    return build


def write(folder: Path, served: Original, golden: list[Any], contract_of: Original) -> None:
    """Writes an export of `served` that claims to be one of `contract_of`."""
    contract = contract_document(contract_of, ORIGIN)
    export_savedmodel(
        served.model, served.task, served.classes, folder, resize=served.resize, calibration=served.calibration,
        contract=contract,
    )  # fmt: skip
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in CLASSES))
    (folder / "contract.json").write_text(json.dumps(contract))
    write_golden(folder, golden, golden_document(contract_of, golden, evaluated=True))
    write_sums(folder)


def decoding(change: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    def decode(*arguments: Any) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, error = decode_apart(*arguments)
        return change(pixels), error

    return decode


def swap_channels(patch: Patch, of: Original) -> Original:
    patch.setattr(savedmodel, "decode_apart", decoding(lambda pixels: tf.reverse(pixels, [-1])))
    return of


def resize_otherwise(patch: Patch, of: Original) -> Original:
    patch.setattr(tf.raw_ops, "ScaleAndTranslate", lambda **how: scale(**how | {"kernel_type": "keyscubic"}))
    return of


def resize_without_antialiasing(patch: Patch, of: Original) -> Original:
    patch.setattr(tf.raw_ops, "ScaleAndTranslate", lambda **how: scale(**how | {"antialias": False}))
    return of


def scale_off_by_one(patch: Patch, of: Original) -> Original:
    patch.setattr(savedmodel, "decode_apart", decoding(lambda pixels: pixels + 1))
    return of


def permute_labels(_: Patch, of: Original) -> Original:
    return replace(of, classes=(*of.classes[1:], of.classes[0]))


def drop_temperature(_: Patch, of: Original) -> Original:
    return replace(of, calibration=replace(of.calibration, temperature=1.0))


def ignore_orientation(patch: Patch, of: Original) -> Original:
    patch.setattr(graph, "read_orientation", lambda _: tf.constant(1))
    return of


def put_on_black(patch: Patch, of: Original) -> Original:
    patch.setattr(graph, "_onto_white", lambda colour, alpha: tf.cast(colour, tf.uint16) * tf.cast(alpha, tf.uint16))
    return of


def crop_instead_of_pad(_: Patch, of: Original) -> Original:
    return replace(of, resize="crop")


def round_weights(_: Patch, of: Original) -> Original:
    return replace(of, model=rounded(of.model))


def take_another_backbone(_: Patch, of: Original) -> Original:
    return replace(of, model=small_network(filters=8))


@dataclass(frozen=True)
class Mutation:
    """What is done to the export, and how the network is resized to."""

    change: Callable[[Patch, Original], Original]
    resize: Any = "stretch"
    found: str = "a probability is off by"


MUTATIONS = {
    "channels swapped": Mutation(swap_channels),
    "resize method": Mutation(resize_otherwise),
    "antialias off": Mutation(resize_without_antialiasing),
    "scaling off by one": Mutation(scale_off_by_one),
    "labels permuted": Mutation(permute_labels, found="class id"),
    "temperature dropped": Mutation(drop_temperature),
    "EXIF ignored": Mutation(ignore_orientation),
    "alpha on black": Mutation(put_on_black),
    "crop instead of pad": Mutation(crop_instead_of_pad, "pad"),
    "float16 weights": Mutation(round_weights),
    "another backbone": Mutation(take_another_backbone),
}


#: Of the others `make battery` takes care: each is an export of its own.
QUICK = ("labels permuted", "EXIF ignored", "alpha on black", "float16 weights")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MUTATIONS]
)
def test_a_mutation_is_found_by_its_answers(name: str, golden_of: Goldens, tmp_path: Path, monkeypatch: Patch) -> None:
    mutation = MUTATIONS[name]
    of = original(mutation.resize)
    golden = golden_of(of)
    with monkeypatch.context() as patch:
        served = mutation.change(patch, of)
        write(tmp_path / "export", served, golden, of)
    report = verify(tmp_path / "export")
    found = [problem for problem in report["problems"] if problem["problem"].startswith(mutation.found)]
    files = ", ".join(problem["file"].removeprefix("golden/") for problem in found)
    print(f"\nMUTANT {name}: {report['largest_difference']:.2g}; {len(found)} of {len(golden)}: {files}")
    assert not report["ok"]
    assert found
    assert not any("SHA-256" in problem["problem"] for problem in report["problems"])


@pytest.fixture(scope="module")
def sound(golden_of: Goldens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, of = tmp_path_factory.mktemp("sound") / "export", original()
    write(folder, of, golden_of(of), of)
    return folder


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "export"))


@pytest.mark.parametrize(
    "resize", ["stretch", pytest.param("crop", marks=pytest.mark.slow), pytest.param("pad", marks=pytest.mark.slow)]
)
def test_without_a_mutation_nothing_is_found(resize: Any, golden_of: Goldens, tmp_path: Path) -> None:
    of = original(resize)
    golden = golden_of(of)
    write(tmp_path / "export", of, golden, of)
    report = verify(tmp_path / "export")
    assert (report["ok"], report["problems"]) == (True, [])
    assert report["images"] == len(golden) == 22
    assert report["largest_difference"] < TOLERANCE / 10


def test_a_golden_set_of_an_earlier_model_is_found(copied: Path, test_split: Manifest) -> None:
    earlier = original(seed=1)
    golden = build_golden(earlier, test_split, recorded(earlier, test_split), 8)
    shutil.rmtree(copied / "golden")
    write_golden(copied, golden, golden_document(earlier, golden, evaluated=True))
    write_sums(copied)
    report = verify(copied)
    print(f"\nMUTANT stale golden set: {report['largest_difference']:.2g}")
    assert "a probability is off by" in report["problems"][0]["problem"]


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_flipped_byte_of_the_variables_is_found(at: float, copied: Path) -> None:
    path = copied / "variables" / "variables.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(bytes(content))
    (problem,) = verify(copied)["problems"]
    assert problem == {
        "file": "variables/variables.data-00000-of-00001",
        "problem": "is not what was exported: its SHA-256 is another",
    }


@pytest.mark.parametrize(
    "name",
    ["labels.txt", "contract.json", "saved_model.pb", "golden/golden.json", "golden/probe-cmyk.jpg", "fingerprint.pb"],
)
def test_a_truncated_file_is_found(name: str, copied: Path) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    report = verify(copied)
    assert [problem["file"] for problem in report["problems"]] == [name]
    (copied / name).unlink()
    assert "No such file" in verify(copied)["problems"][0]["problem"]


@pytest.mark.parametrize("name", ["labels.txt", "contract.json", "saved_model.pb", "golden/golden.json"])
def test_a_truncated_file_is_found_without_its_digest(name: str, copied: Path) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    write_sums(copied)
    assert not verify(copied)["ok"]


def test_every_probe_is_moved_by_its_mistake(sound: Path) -> None:
    answers = json.loads((sound / "golden" / "golden.json").read_text())["answers"]
    moved = {answer["file"]: answer["a_mistake_moves_it_by"] for answer in answers if "a_mistake_moves_it_by" in answer}
    assert len(moved) == 10
    rounded_weights = {file: moved.pop(file) for file in ("probe-precise-1.png", "probe-precise-2.png")}
    assert min(moved.values()) > 10 * TOLERANCE
    assert min(rounded_weights.values()) > TOLERANCE
    assert np.mean([answer.get("bad", False) for answer in answers]) < 0.5
