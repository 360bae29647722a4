"""What the command line answers before any image is read: help, misspelt words, missing files, plans."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import STAGE_HELP, cli
from pipeline.config import Config, load_config
from pipeline.workdir import STAGES


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


def call(*words: object) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def refusal(*words: object, code: int) -> str:
    """Returns the one line of an error; usage errors have Click's lines above it."""
    result = call(*words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines[-1].lower().startswith("error: ")
    assert code == 2 or len(lines) == 1
    return lines[-1]


def commands(group: click.Group = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))


COMMANDS = dict(commands())


# Help.


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_what_a_command_does(words: tuple[str, ...]) -> None:
    first = (COMMANDS[words].help or "").strip().partition("\n")[0]
    assert first.endswith(".")
    for flag in ("-h", "--help"):
        result = call(*words, flag)
        assert result.exit_code == 0
        assert " ".join(first.split()) in " ".join(result.stdout.split())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_is_explained(words: tuple[str, ...]) -> None:
    options = [option for option in COMMANDS[words].params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("words", [words for words in COMMANDS if len(words) == 1], ids=" ".join)
def test_a_command_with_arguments_carries_an_example(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    if isinstance(command, click.Group) or any(isinstance(argument, click.Argument) for argument in command.params):
        assert f"  pipeline {words[0]} " in call(*words, "--help").stdout


def test_the_commands_are_listed_with_an_example_to_start_from() -> None:
    shown = call("--help").stdout
    assert "pipeline run --data photos/" in shown
    for name in cli.commands:
        assert f"\n  {name} " in shown


def test_stages_are_those_of_the_pipeline() -> None:
    assert tuple(STAGE_HELP) == STAGES
    shown = call("run", "--help").stdout
    places = [shown.index(f"\n  {stage} ") for stage in sorted(STAGES)]
    assert all(places)


# Words that are not known.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "ingest", "augment", "build", "trian"], "no stage 'trian': did you mean 'train'?"),
        (["run", "--data", "photos", "evalute"], "no stage 'evalute': did you mean 'evaluate'?"),
        (["run", "zzz"], "no stage 'zzz': allowed: augment, build, evaluate, export, ingest, train"),
        (["pedict"], "no command 'pedict': did you mean 'predict'?"),
        (["bank", "lst"], "no command 'lst': did you mean 'list'?"),
    ],
)
def test_a_misspelt_word_is_a_usage_error_with_the_nearest(words: list[str], message: str) -> None:
    assert refusal(*words, code=2).endswith(message)
    assert os.listdir() == []


@pytest.mark.parametrize(
    "words",
    [
        ["--nonsense"], ["run", "--nonsense"], ["run", "--set"], ["run", "ingest", "--data", "x"], ["predict"],
        ["predict", "export"], ["predict", "--top", "0", "export", "a.jpg"], ["init"], ["weights"],
        ["ui", "--port", "0"], ["similar", "photos-1"], ["similar", "--top", "0", "photos-1", "a.jpg"],
        ["serve"], ["serve", "export", "--port", "0"], ["bank", "clear", "--json"], ["bank", "--nonsense"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_option_is_a_usage_error(words: list[str]) -> None:
    refusal(*words, code=2)
    assert os.listdir() == []


# Input that cannot be used: one line, exit code 1, nothing written.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-c", "gone.yaml"], "config gone.yaml cannot be read: No such file or directory; `pipeline init gone.yaml`"),
        ([], "no configs/default.yaml here; name a folder of images with --data"),
        (["--data", "gone"], "no folder gone; --data takes a folder"),
        (["--data", "sample:digit"], "unknown sample 'digit': did you mean 'digits'?"),
        (["--data", "photos", "--set", "sed=1"], "unknown key 'sed': did you mean 'seed'?"),
        (["--data", "photos", "--set", "seed"], "--set 'seed' has no '='"),
        (["--data", "photos", "--set", "task=clasification"], "did you mean 'classification'?"),
        (["--data", "photos", "--set", "model.backbone=inceptionv3"], "did you mean 'inception_v3'?"),
        (["--data", "photos", "--set", "model.image_size=4"], "efficientnet_lite0"),
        (["--data", "photos", "--set", "augment.transforms=[rotat]"], "did you mean 'rotate'?"),
        (["--data", "photos", "--name", "a/b"], "--name 'a/b' must be a plain folder name"),
        (["--data", "photos", "train"], "train joins a run, and there is none in"),
        (["--resume"], "nothing to resume: no unfinished run in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_run_that_cannot_begin_leaves_nothing(words: list[str], message: str) -> None:
    assert message in refusal("run", "--dry-run", *words, code=1)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "gone", "photo.jpg"], "photo.jpg"),
        (["serve", "gone"], "gone holds no contract.json"),
        (["weights", "inceptionv3"], "did you mean 'inception_v3'?"),
        (["similar", "photos-1", "photo.jpg"], "no run 'photos-1' in"),
    ],
)
def test_other_commands_say_what_is_missing(words: list[str], message: str) -> None:
    assert message in refusal(*words, code=1)


# Commands that need no training.


def test_init_writes_the_defaults_and_never_over_a_file() -> None:
    path = Path("configs/mine.yaml")
    result = call("init", path)
    assert result.exit_code == 0
    assert f"pipeline run -c {path} --data FOLDER" in result.stdout
    assert load_config(path) == Config()
    path.write_text("seed: 1\n")
    assert "configs/mine.yaml exists; name a new file" in refusal("init", path, code=1)
    assert path.read_text() == "seed: 1\n"


def test_init_where_nothing_can_be_written_is_refused() -> None:
    Path("file").touch()
    assert "file/mine.yaml cannot be written" in refusal("init", "file/mine.yaml", code=1)


def test_an_empty_project_has_no_runs() -> None:
    result = call("runs")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no runs yet; start one with: pipeline run --data FOLDER" in result.stderr
    result = call("runs", "--json")
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (0, [], "")
    assert os.listdir() == []


def test_models_as_json_is_one_document() -> None:
    rows = json.loads(call("models", "--json").stdout)
    assert "efficientnet_lite0" in {row["name"] for row in rows}


@pytest.mark.parametrize("data", ["photos", "sample:digits"])
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(data: str, photo_folder: Path) -> None:
    source = photo_folder if data == "photos" else data
    before = sorted(photo_folder.parent.rglob("*"))
    result = call("run", "--data", source, "--name", "best", "--set", "train.head.epochs=7", "--dry-run")
    assert result.exit_code == 0
    for word in ("new run best", str(source), "efficientnet_lite0", "head 7 epochs", " -> ".join(STAGES)):
        assert word in result.stdout
    places = result.stdout.partition("writes:")[2].split("; ")
    assert {"runs", ".cache/features", "mlruns", "mlflow.db"} <= {place.strip() for place in places[0].split(",")}
    assert ("data" in {place.strip() for place in places[0].split(",")}) == (data == "sample:digits")
    assert places[1].rstrip().endswith("iB free")
    assert sorted(photo_folder.parent.rglob("*")) == before
