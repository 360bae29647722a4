"""The README and the recipes: what they name exists, and the Python in them runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.augment.policy import load_policy
from pipeline.augment.table import AUGMENTATIONS
from pipeline.cli import cli
from pipeline.config import load_config, parse_yaml
from pipeline.models.backbones import BACKBONES, find_backbone
from pipeline.tasks.table import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "configs").rglob("*.yaml"))


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_exist() -> None:
    named = set(re.findall(r"(?:/bin/|^ *|`)pipeline (\w+)", README, re.MULTILINE))
    assert {"run", "predict", "runs", "init", "weights", "models"} <= named
    assert named <= set(cli.commands)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^ *|`|\$ )make ([a-z]+)\b", README, re.MULTILINE)) <= targets


def test_every_augmentation_stands_in_the_table_with_its_defaults() -> None:
    rows = dict(re.findall(r"^\| (`[^|]+`) \| ([^|]*)\|$", README, re.MULTILINE))
    written = {name: text for names, text in rows.items() for name in re.findall(r"`(\w+)`", names)}
    assert set(AUGMENTATIONS) <= set(written)
    for name, row in AUGMENTATIONS.items():
        given = ", ".join(re.findall(r"`(\w+: [^`]+)`", written[name]))
        (resolved,) = load_policy([{name: parse_yaml("{" + given + "}", name)}]).describe()
        assert resolved == load_policy([name]).describe()[0]
        assert given.count(": ") == len(row.model_fields) - 1  # all but the probability


def test_numbers_of_the_zoo() -> None:
    assert f"the {len(BACKBONES)} backbones" in README


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_can_be_run(path: Path) -> None:
    config = load_config(path)
    head = path.read_text().split("\n\n")[0]
    assert head.startswith("# make train")
    assert "# Expected:" in head
    assert f"configs/{path.name}" in README or path.parent.name == "classic"
    assert config.task in TASKS
    row = find_backbone(config.model.backbone)
    assert config.model.weights != "imagenet" or row.weights
    policy = load_policy(config.augment.transforms)
    assert policy.ignored_for(config.task) == []


def test_digits_are_never_flipped() -> None:
    on_digits = [config for path in RECIPES if (config := load_config(path)).ingest.data == "sample:digits"]
    assert len(on_digits) >= 2
    for config in on_digits:
        assert not [name for name in load_policy(config.augment.transforms).names if "flip" in name]


@pytest.mark.slow
def test_the_python_runs(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    make_photos(tmp_path / "photos", classes=["cat", "dog"], count=8, size=(40, 50))
    (tmp_path / "photos" / "cat" / "0.jpg").rename(tmp_path / "photos" / "cat" / "1.jpg")
    api, alone = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for snippet in (api, alone):
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert re.search(r"^(cat|dog) ", done.stdout, re.MULTILINE)
