from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import pipeline
from pipeline.config import Config, Section, build_config, commented_yaml, dump_yaml, load_config, override
from pipeline.errors import ConfigError

PACKAGE = Path(pipeline.__file__).parent
RECIPES = sorted((PACKAGE.parent / "configs").glob("*.yaml"))

#: Texts that YAML would take for something else without quotes.
TRICKY = ["1e-3", "2e5", "0o7", "1_0", "5", "null", "~", "true", "2024-01-01", "1:30", "=", "a: b", "#x", "it's", '"q"']


def fields(section: type[BaseModel] = Config, above: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yields (path, attribute, field) of every field of every section."""
    for name, field in section.model_fields.items():
        path = f"{above}{field.alias or name}"
        yield path, name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{path}.")


FIELDS = {path: (name, field) for path, name, field in fields()}
VALUES = [path for path, (_, field) in FIELDS.items() if not isinstance(field.default, Section)]
SECTIONS = [path for path in FIELDS if path not in VALUES]


def load(tmp_path: Path, text: str, *settings: str) -> Config:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, settings)


def refusal(tmp_path: Path, text: str, *settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Every field, whatever it is called.


@pytest.mark.parametrize("path", FIELDS)
def test_field_is_described_in_one_line(path: str) -> None:
    description = FIELDS[path][1].description
    assert description
    assert "\n" not in description


def read_outside_config() -> set[str]:
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "config.py"]
    nodes = (node for path in modules for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_every_field_is_read() -> None:
    read = read_outside_config()
    assert [path for path, (name, _) in FIELDS.items() if name not in read] == []


@pytest.mark.parametrize("path", [path for path in VALUES if path != "model.options"])
def test_a_mapping_is_no_value_and_the_message_names_the_key(path: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "", f"{path}={{nonsense: 1}}").startswith(f"{path}: ")


@pytest.mark.parametrize("path", SECTIONS)
@pytest.mark.parametrize("value", ["5", "null", "[1]", "text"])
def test_only_a_mapping_is_a_section(path: str, value: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "", f"{path}={value}").startswith(f"{path}: ")


@pytest.mark.parametrize("path", FIELDS)
def test_a_misspelt_key_gets_its_nearest(path: str, tmp_path: Path) -> None:
    misspelt = path[:-1] + ("y" if path[-1] == "x" else "x")
    assert refusal(tmp_path, "", f"{misspelt}=1").startswith(
        f"unknown key {misspelt!r}: did you mean {path.split('.')[-1]!r}?"
    )


def test_a_key_like_no_other_gets_the_list(tmp_path: Path) -> None:
    message = refusal(tmp_path, "train: {head: {zzz: 1}}")
    assert message == "unknown key 'train.head.zzz': allowed: epochs, learning_rate, warmup_epochs, weight_decay"


def numbers(kind: type) -> list[str]:
    return [path for path in VALUES if FIELDS[path][1].annotation is kind]


@pytest.mark.parametrize("path", [*numbers(int), *numbers(float)])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "true", "'1'", "null", "1e400"])
def test_a_number_is_finite_and_not_negative_and_no_other_type(path: str, value: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "", f"{path}={value}").startswith(f"{path}: ")


RATE = "train.head.learning_rate"


@pytest.mark.parametrize("value", [".nan", ".inf", "-1", "0", "101", "true", "null", "[0.1]"])
def test_a_learning_rate_is_a_number_above_0(value: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, "", f"{RATE}={value}")
    assert message.startswith(f"{RATE}: ")
    assert "(and" not in message


@pytest.mark.parametrize("value", ["atuo", "'0.1'"])
def test_or_it_is_auto_and_no_other_word(value: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "", f"{RATE}={value}").startswith(f"{RATE}: must be a number above 0, or auto, found ")


@pytest.mark.parametrize(
    ("settings", "searched"),
    [
        ((), ()),
        ((f"{RATE}=auto",), ("learning_rate",)),
        (("train.search=true",), ("learning_rate", "weight_decay", "dropout", "label_smoothing")),
        (("train.search=true", f"{RATE}=auto"), ("learning_rate", "weight_decay", "dropout", "label_smoothing")),
    ],
)
def test_what_is_searched(settings: tuple[str, ...], searched: tuple[str, ...], tmp_path: Path) -> None:
    config = load(tmp_path, "", *settings)
    assert config.train.searched == searched
    for write in (dump_yaml, commented_yaml):
        assert load(tmp_path, write(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("train.search=true", "train.features=live"),
            "train: search is true and features live, where each trial would cost as much as a training; "
            "set features=bank or search=false",
        ),
        (
            (f"{RATE}=auto", "train.features=live"),
            "train: head.learning_rate is auto and features live, where each trial would cost as much as a training; "
            "set features=bank or a number as head.learning_rate",
        ),
        (
            ("train.search=true", "train.head.epochs=0", "train.fine_tune.epochs=1"),
            "train: search is true and head.epochs 0, so there is nothing to try; set head.epochs or search=false",
        ),
        (
            (f"{RATE}=auto", "train.head.epochs=0", "train.fine_tune.epochs=1"),
            "train: head.learning_rate is auto and head.epochs 0, so there is nothing to try; set head.epochs or a "
            "number as head.learning_rate",
        ),
    ],
)
def test_a_search_needs_a_bank_and_a_head_to_train(settings: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "", *settings) == message


@pytest.mark.parametrize("path", numbers(int))
def test_a_count_takes_no_fraction(path: str, tmp_path: Path) -> None:
    assert path in refusal(tmp_path, "", f"{path}=1.5")


def test_a_config_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.train.head.epochs = 1  # type: ignore[misc]


# Files.


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load(tmp_path, "# nothing\n") == load_config(None) == Config()


@pytest.mark.parametrize("write", [dump_yaml, commented_yaml])
def test_what_is_written_is_read_back(write: Any, tmp_path: Path) -> None:
    changed = {
        "seed": 7,
        "ingest": {"data": "photos/Käfer"},
        "augment": {"transforms": ["rotate", {"shift": {"pixels": 5}}, {"blur": None}]},
        "model": {"image_size": [64, 96], "head": {"hidden": [256, 32]}},
        "train": {"fine_tune": {"from": "block3"}, "head": {"learning_rate": 1e-05}},
    }
    for config in (Config(), build_config(changed)):
        assert load(tmp_path, write(config)) == config


@pytest.mark.parametrize("write", [dump_yaml, commented_yaml])
@pytest.mark.parametrize("text", TRICKY)
def test_text_that_looks_like_something_else_stays_text(text: str, write: Any, tmp_path: Path) -> None:
    config = build_config({"ingest": {"data": text}})
    assert load(tmp_path, write(config)) == config


def test_comments_say_what_each_field_does() -> None:
    lines = commented_yaml(Config()).splitlines()
    for path, (_, field) in FIELDS.items():
        assert any(line.strip().startswith(f"{path.split('.')[-1]}:") and field.description in line for line in lines)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_of_the_project_loads_and_says_how_to_run_it(recipe: Path) -> None:
    assert isinstance(load_config(recipe), Config)
    first = recipe.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# make train")
    assert f"configs/{recipe.name}" in first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- seed\n", "must be a mapping of sections, found list"),
        ("[]", "must be a mapping of sections, found list"),
        ("seed", "must be a mapping of sections, found str"),
        ("train: {head: [1", "is not valid YAML"),
        ("train:\n  head:\n epochs: 1", "is not valid YAML"),
        ("model: !!python/object:os.system {}", "is not valid YAML"),
        ("model: !!python/name:os.system", "is not valid YAML"),
        ("? [1, 2]\n: 3", "is not valid YAML"),
        ("seed: 0\nseed: 1", "seed"),
        ("model: &loop [*loop]", "config"),
        ("a: " + "[" * 5000, "is not valid YAML"),
    ],
)
def test_what_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, text)


def test_a_recipe_cut_short_is_refused_or_still_whole(tmp_path: Path) -> None:
    text = commented_yaml(Config())
    for length in range(0, len(text), 50):
        with contextlib.suppress(ConfigError):
            load(tmp_path, text[:length])


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "not text"])
def test_a_recipe_that_cannot_be_read_says_how_to_get_one(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"`pipeline init {path}` writes one")):
        load_config(path)


# Values.


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1E-3", 0.001), ("5e-05", 5e-05), ("1", 1.0), ("0.1", 0.1)]
)
def test_numbers_are_written_as_people_write_them(text: str, value: float, tmp_path: Path) -> None:
    assert load(tmp_path, f"train: {{head: {{learning_rate: {text}}}}}").train.head.learning_rate == value


def test_a_date_is_text(tmp_path: Path) -> None:
    assert load(tmp_path, "experiment: 2024-01-01").experiment == "2024-01-01"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("ingest: {split: {validation: 0.5, test: 0.5}}", "ingest.split: "),
        ("ingest: {split: {validation: 0}}", "ingest.split.validation: "),
        ("ingest: {split: {test: 1}}", "ingest.split.test: "),
        ("ingest: {on_bad: skip}", "ingest.on_bad: "),
        ("model: {image_size: [64]}", "model.image_size: "),
        ("model: {image_size: [64, 64, 64]}", "model.image_size: "),
        ("model: {image_size: 0}", "model.image_size: "),
        ("model: {head: {hidden: [0]}}", "model.head.hidden.0: "),
        ("augment: {transforms: rotate}", "augment.transforms: "),
        ("augment: {transforms: [5]}", "augment.transforms.0: "),
        ("experiment: ''", "experiment: "),
        ("seed: 4294967296", "seed: "),  # NumPy takes 32 bits
        ("seed: |\n  a\n  b\n", "seed: "),
    ],
)
def test_a_value_that_cannot_be_names_its_key(text: str, key: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text).startswith(key)


def test_several_problems_are_counted(tmp_path: Path) -> None:
    assert refusal(tmp_path, "seed: -1\ntrain: {batch_size: 0}").endswith("(and 1 more)")


# --set.


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("seed=3", "seed", 3),
        ("train.head.epochs=7", "train.head.epochs", 7),
        ("train.head.learning_rate=1e-3", "train.head.learning_rate", 0.001),
        ("train.fine_tune.from=block3", "train.fine_tune.from_", "block3"),
        ("model.image_size=[64, 96]", "model.image_size", (64, 96)),
        (
            "augment.transforms=[{rotate: {degrees: 5}}, blur]",
            "augment.transforms",
            ({"rotate": {"degrees": 5}}, "blur"),
        ),
        ("experiment=a=b", "experiment", "a=b"),
        ("experiment=null", "experiment", None),
    ],
)
def test_a_setting_is_laid_over_the_recipe(setting: str, path: str, value: object, tmp_path: Path) -> None:
    found: Any = load(tmp_path, "experiment: mine\ntrain: {batch_size: 8, head: {weight_decay: 0.5}}", setting)
    assert (found.train.batch_size, found.train.head.weight_decay) == (8, 0.5)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_the_last_setting_wins(tmp_path: Path) -> None:
    assert load(tmp_path, "seed: 1", "seed=2", "seed=3").seed == 3


def test_settings_leave_the_given_tree_alone() -> None:
    tree: dict[str, Any] = {"train": {"head": {"epochs": 1}}}
    assert override(tree, ["train.head.epochs=2"]) == {"train": {"head": {"epochs": 2}}}
    assert tree == {"train": {"head": {"epochs": 1}}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "--set 'seed' has no '='; write KEY=VALUE, for example train.head.epochs=20"),
        ("=1", "--set '=1' has no '='"),
        ("seed=[", "--set seed is not valid YAML"),
        ("seed=!!python/name:os.system", "--set seed is not valid YAML"),
        ("sed=1", "unknown key 'sed': did you mean 'seed'?"),
        ("seed.x.y=1", "--set seed.x.y: 'seed' is not a section, so it has no 'y'"),
        ("seed=", "seed: "),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "seed: 5", setting).startswith(message)
