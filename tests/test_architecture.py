"""Imports run downwards only, and what must load fast loads nothing heavy."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline

PACKAGE = Path(pipeline.__file__).parent

#: From the bottom to the top. A unit is a module or a folder; it imports from lower layers and from itself, so
#: units that share a layer do not know each other.
LAYERS = [
    {"errors", "progress"},
    {"space"},
    {"files", "config", "reach", "cli_group", "loopback"},
    {"figures"},
    {"tasks.base"},
    {"tasks.table"},
    {"images"},
    {"images.headers"},
    {"images.pixels"},
    {"images.graph"},
    {"images.guard"},
    {"ingest", "augment", "models"},
    {"pictures", "train"},
    {"evaluate", "export"},
    {"tasks", "serve"},
    {"workdir", "tracking"},
    {"plan", "trained", "run_report", "run_card", "registration", "estimate"},
    {"conductor", "places"},
    {"run", "runs", "similar", "explain", "compare", "terminal", "zoo"},
    {"relabel", "promote"},
    {"cli_looking", "cli_judging", "cli_predict", "cli_serving"},
    {"cli"},
    {"", "__main__"},  # "" is the package itself: the small Python API
]
LAYER_OF = {unit: layer for layer, units in enumerate(LAYERS) for unit in units}

#: Loading these is part of `--help` or of a check that answers at once.
LIGHT = [
    "pipeline", "pipeline.cli", "pipeline.errors", "pipeline.files", "pipeline.config", "pipeline.tasks.base",
    "pipeline.tasks.table", "pipeline.images.pixels", "pipeline.ingest", "pipeline.evaluate.metrics",
    "pipeline.models.backbones", "pipeline.workdir", "pipeline.plan", "pipeline.evaluate.neighbours",
    "pipeline.train.bank.listing", "pipeline.similar", "pipeline.trained", "pipeline.explain", "pipeline.zoo",
    "pipeline.models.listing", "pipeline.models.reference", "pipeline.evaluate.report", "pipeline.evaluate.errors",
    "pipeline.relabel", "pipeline.evaluate.probe", "pipeline.evaluate.label_noise", "pipeline.compare",
    "pipeline.evaluate.compare", "pipeline.evaluate.compare_table", "pipeline.pictures.compare", "pipeline.promote",
    "pipeline.serve.server",
    "pipeline.export.cluster", "pipeline.export.cluster_model", "pipeline.export.urls",
    "pipeline.export.formats.table",
]  # fmt: skip
HEAVY = {"tensorflow", "keras", "mlflow", "albumentations", "ray", "fsspec"}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(module: str) -> Iterator[str]:
    """Yields the full names that a module imports anywhere in it, except for type checking."""
    waiting: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def unit_of(module: str) -> str:
    """Returns the longest unit that a module belongs to."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)] or [""]
    return next((name for name in names if name in LAYER_OF), names[0])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_downwards(module: str) -> None:
    own = unit_of(module)
    assert own in LAYER_OF, f"{module} has no place in LAYERS"
    targets = {name: unit_of(name) for name in imported(module) if name.split(".")[0] == "pipeline"}
    upwards = [name for name, unit in targets.items() if unit != own and LAYER_OF[unit] >= LAYER_OF[own]]
    assert upwards == []


def test_the_rule_sees_what_it_forbids() -> None:
    """The check is only worth something if these imports, which are there, are found."""
    assert "pipeline.run" in imported("pipeline.cli")  # inside a function
    assert "pipeline.files" in imported("pipeline.models.weights")
    assert "pipeline.models.backbones" not in imported("pipeline.tasks.base")  # for type checking only
    assert unit_of("pipeline.tasks.base") == "tasks.base"
    assert unit_of("pipeline.tasks.classification") == "tasks"


def test_only_tracking_imports_mlflow() -> None:
    users = {unit_of(module) for module in MODULES if any(name.split(".")[0] == "mlflow" for name in imported(module))}
    assert users == {"tracking"}


def test_light_modules_load_nothing_heavy() -> None:
    script = (
        "import importlib, json, sys\n"
        "loaded = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        "    loaded[name] = sorted({module.partition('.')[0] for module in set(sys.modules) - before})\n"
        "print(json.dumps(loaded))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    printed = subprocess.check_output([sys.executable, "-c", script, json.dumps(LIGHT)], env=environment)
    loaded = {name: set(modules) for name, modules in json.loads(printed).items()}
    assert {name: modules & HEAVY for name, modules in loaded.items() if modules & HEAVY} == {}
    assert "click" in loaded["pipeline.cli"]
    assert loaded["pipeline.cli"] & {"pydantic", "numpy", "rich", "yaml", "PIL"} == set()
