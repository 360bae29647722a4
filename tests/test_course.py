"""The course map: every topic has its row, what a row names exists, the Python in it gives what it says."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from pipeline.augment.policy import load_policy
from pipeline.augment.table import AUGMENTATIONS
from pipeline.cli import cli
from pipeline.config import Config, Section, load_config, parse_yaml
from pipeline.models.backbones import BACKBONES

ROOT = Path(__file__).parents[1]
COURSE = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", COURSE, flags=re.DOTALL)
CODE = sorted(set(re.findall(r"`([^`]+)`", PROSE)))
COMMANDS = [span for span in CODE if span.startswith("pipeline ")]
SNIPPETS = re.findall(r"```python\n(.*?)```", COURSE, re.DOTALL)

#: What each part of the course is about, in the course's order.
TOPICS = {
    "I": (
        "what is a cnn", "convolutions", "feature of an image", "receptive field", "output matrix", "stride",
        "non-linear activation", "more than one filter", "numpy: convolution", "downsampling", "max pooling",
        "numpy: max pooling", "fully-connected layer", "numpy: fully-connected layer", "output layer",
        "calculating the loss", "numpy: categorical cross-entropy", "pytorch", "cnn architecture",
        "loading the dataset", "transforms.compose", "dataloader", "creating the model", "nn.module", "conv2d",
        "maxpool2d", "nn.dropout", "nn.linear", "forward function", "training the model", "testing the model", "result",
    ),
    "II": (
        "quick overview", "convnet architectures", "lenet-5", "alexnet", "overlapping pooling", "imagenet",
        "alexnet: the results", "vggnet", "resnet", "inception-v3", "darknet", "transfer learning", "u-net",
        "summary accuracy table", "summary table", "computer vision in practice", "image segmentation",
        "object detection", "facial recognition", "edge detection", "pattern detection", "feature matching",
        "classification", "localization", "instance segmentation",
    ),
    "III": (
        "pixel", "importing", "basic properties", "channels", "splitting", "opening and writing", "displaying",
        "contrast", "contour", "manipulations", "slicing", "masks", "fancy indexing", "why augmentation",
        "what is image augmentation", "techniques", "rotation", "shifting", "flipping", "noise", "blurring",
        "guidelines", "normalizing",
    ),
}  # fmt: skip


def table_rows(heading: str) -> list[list[str]]:
    """Returns the cells of the table below a heading, its first two lines left out."""
    section = re.split(r"^## ", COURSE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("part", TOPICS)
def test_every_topic_has_a_row_in_the_order_of_the_course(part: str) -> None:
    shown = " | ".join(row[0].lower() for row in table_rows(f"{part}. "))
    place = 0
    for topic in TOPICS[part]:
        place = shown.find(topic, place)
        assert place >= 0, f"{topic!r} has no row, or stands before its predecessor"


@pytest.mark.parametrize("heading", [*(f"{part}. " for part in TOPICS), "Where the slides slip"])
def test_no_cell_is_empty(heading: str) -> None:
    rows = table_rows(heading)
    assert len(rows) > 15
    assert [row for row in rows if len(row) != 3 or not all(row)] == []


def test_lines_are_short() -> None:
    assert [line for line in PROSE.splitlines() if len(line) > 130 and not line.startswith("|")] == []


def test_files_and_folders_exist() -> None:
    named = set(re.findall(r"\b(?:configs|pipeline|tests|benchmarks|docs)/[\w./-]*\w", COURSE))
    assert len(named) >= 30
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", COURSE)
    assert len(links) > 5
    for target, anchor in links:
        page = ROOT / "docs" / (target or "course.md")
        headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{target}#{anchor}"


def test_every_recipe_is_mentioned() -> None:
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs" / "classic").glob("*.yaml")}
    assert recipes - set(CODE) == set()


@pytest.mark.parametrize("line", COMMANDS)
def test_command_exists(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    command = cli.commands[name]
    if words:  # without any it is only spoken of
        context = command.make_context(name, list(words), **cli.context_settings)  # a usage error says what is wrong
        if isinstance(command, click.Group):
            stages = {*getattr(context, "_protected_args", ()), *context.args}  # the first before Click 9
            assert stages <= set(command.commands)
    if name in ("models", "weights"):
        assert {word for word in words if re.fullmatch(r"[a-z]+\w*", word)} <= set(BACKBONES)


def test_the_commands_of_the_course_are_all_there() -> None:
    assert {line.split()[1] for line in COMMANDS} >= {"explain", "inspect", "models", "predict", "run", "similar"}


def set_settings(text: str) -> list[str]:
    """Returns the settings KEY=VALUE of `--set` options, quoted or not."""
    return [quoted or plain for quoted, plain in re.findall(r"--set (?:'([^']+)'|(\S+))", text)]


def test_settings_of_commands_are_allowed() -> None:
    settings = set_settings(re.sub("`", " ", COURSE))
    assert len(settings) >= 2
    for setting in settings:
        load_policy(load_config(None, [setting]).augment.transforms)


def is_named(span: str) -> bool:
    """Returns whether there is what a piece of code names."""
    if span.startswith("make "):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        return span.split()[1] in re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    if re.fullmatch(r"[\w-]+/[\w./-]*", span):
        return (ROOT / span).exists()
    if re.fullmatch(r"(reference|pipeline)(\.\w+)+", span):
        return is_importable(span.replace("reference.", "pipeline.models.reference.", 1))
    key, _, value = span.partition(": ")
    if is_setting(key):
        return not value or bool(load_config(None, [f"{key}={value}"]))
    if re.fullmatch(r"\w+(: \{.*\})?", span) and key in AUGMENTATIONS:
        return bool(load_policy([parse_yaml(span, span)]))
    sources = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    whole = re.compile(rf"(?<![\w.]){re.escape(span)}(?!\w)")
    return any(whole.search(path.read_text(encoding="utf-8")) for path in sources)


def is_importable(name: str) -> bool:
    """Returns whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


def is_setting(key: str) -> bool:
    """Returns whether a recipe has a setting of this dotted name."""
    section: type[Section] = Config
    for name in key.split("."):
        fields = {field.alias or own: field.annotation for own, field in section.model_fields.items()}
        if not isinstance(section, type) or name not in fields:
            return False
        annotation = fields[name]
        section = annotation if isinstance(annotation, type) and issubclass(annotation, Section) else Section
    return True


@pytest.mark.parametrize("span", [span for span in CODE if span not in COMMANDS and span != "reference.NAME"])
def test_what_is_named_exists(span: str) -> None:
    assert is_named(span)


@pytest.mark.parametrize(
    "span",
    [
        "make coffee", "configs/none.yaml", "reference.deconvolve", "pipeline.models.heads.build_tail", "model.colour",
        "model.resize.crop", "train.epoch", "no such words as these",
    ],
)  # fmt: skip
def test_what_does_not_exist_is_found_out(span: str) -> None:
    assert not is_named(span)


def test_parameters_are_those_of_the_zoo() -> None:
    written = {int(number.replace(",", "")) for number in re.findall(r"\b\d{1,3}(?:,\d{3})+\b", PROSE)}
    counted = {row.parameters for row in BACKBONES.values()} | {60_000}  # the paper's LeNet-5
    assert BACKBONES["googlenet"].parameters in written
    assert written <= counted


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.split("\n")[2][4:])
def test_snippet(snippet: str) -> None:
    test = doctest.DocTestParser().get_doctest(snippet, {}, "course.md", "docs/course.md", 0)
    assert 0 < len(test.examples) < 8
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)


def test_snippets_are_there() -> None:
    assert len(SNIPPETS) >= 3
