"""Which run a request means. The stages themselves do not run: their states are written by hand."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, load_config
from pipeline.errors import ConfigError, PipelineError, StageOrderError
from pipeline.files import write_json
from pipeline.plan import READERS, Plan, Request, plan_run
from pipeline.progress import Silent
from pipeline.run import execute
from pipeline.tracking import NullTracker
from pipeline.workdir import STAGES, RunDir, claim_run

PETS = Path("configs/pets.yaml")

#: A setting of each part of the recipe that differs from what PETS says.
CHANGES = {
    "task": "other", "experiment": "other", "ingest.split.seed": "5", "augment.views": "3", "model.image_size": "64",
    "seed": "9", "train.batch_size": "4", "evaluate.top_k": "3", "export.logged_model": "false",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Project:
    """A project's folder, which is the current one."""

    root: Path

    def plan(self, *stages: str, **options: Any) -> Plan:
        return plan_run(Request(stages=stages, **options), self.root / "runs")

    def begin(self, *done: str, config: Path = PETS, **options: Any) -> RunDir:
        """Returns a new run in which some stages count as done."""
        return self.go_on(self.plan(config=config, **options), *done)

    def go_on(self, plan: Plan, *done: str) -> RunDir:
        nothing = dataclasses.replace(plan, stages=())
        run = RunDir(execute(nothing, self.root, Silent(), NullTracker()).path)
        for stage in done:
            run.mark(stage, "running")
            run.mark(stage, "done", 1.0)
        return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    PETS.parent.mkdir()
    PETS.write_text("ingest: {data: photos}\ntrain: {batch_size: 8}\n")
    Path("configs/birds.yaml").write_text("ingest: {data: birds}\n")
    return Project(tmp_path)


# A new run.


def test_without_stages_all_of_them_begin_a_new_run(project: Project) -> None:
    plan = project.plan(config=PETS)
    assert (plan.kind, plan.run, plan.stages) == ("new", None, STAGES)
    assert (plan.stem, plan.experiment) == ("pets", "pets")
    assert plan.config == load_config(PETS)


@pytest.mark.parametrize("stages", [("ingest",), ("ingest", "build", "train"), ("build", "ingest", "ingest")])
def test_ingest_begins_a_new_run_with_its_stages_in_order(stages: tuple[str, ...], project: Project) -> None:
    project.begin(*STAGES)
    plan = project.plan(*stages, config=PETS)
    assert plan.kind == "new"
    assert plan.stages == tuple(stage for stage in STAGES if stage in stages)


def test_runs_are_called_by_their_recipe_or_as_told(project: Project) -> None:
    birds = Path("configs/birds.yaml")
    assert [project.begin(config=config).name for config in (PETS, PETS, birds)] == ["pets-1", "pets-2", "birds-1"]
    assert project.begin(name="best").name == "best"


def test_the_recipe_may_name_its_experiment(project: Project) -> None:
    assert project.plan(config=PETS, settings=("experiment=all",)).experiment == "all"


def test_without_a_recipe_data_means_photos_and_nothing_the_default(project: Project) -> None:
    assert (project.plan(data="mine").recipe, project.plan(data="mine").stem) == (None, "photos")
    with pytest.raises(ConfigError, match=r"no configs/default\.yaml here; name a folder of images with --data"):
        project.plan()
    for name in ("photos", "default"):
        Path(f"configs/{name}.yaml").write_text("ingest: {data: theirs}\n")
    assert project.plan(data="mine").recipe == Path("configs/photos.yaml")
    assert project.plan().recipe == Path("configs/default.yaml")


@pytest.mark.parametrize(
    "data", ["it's", 'it\'s "x"', "C:\\photos\\new", "tab\there", "ä", "1e3", "a: b", "#1", "null"]
)
def test_data_arrives_as_it_was_typed(data: str, project: Project) -> None:
    plan = project.plan(config=PETS, data=data)
    assert plan.config.ingest.data == data
    assert load_config(project.go_on(plan).config).ingest.data == data


@pytest.mark.parametrize("name", ["a/b", "../a", "/a", "a/", ".", "..", ".hidden", ""])
def test_a_name_that_is_a_path_is_refused(name: str, project: Project) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--name {name!r} must be a plain folder name")):
        project.plan(config=PETS, name=name)


def test_a_name_that_is_taken_is_refused(project: Project) -> None:
    project.begin(name="best")
    with pytest.raises(ConfigError, match=r"run 'best' exists in .*; choose another --name"):
        project.plan(config=PETS, name="best")


def test_a_name_too_long_for_the_disk_is_refused(project: Project) -> None:
    project.begin()
    with pytest.raises(PipelineError):
        project.begin(name="x" * 300)


def test_planning_writes_nothing(project: Project) -> None:
    project.begin("ingest", "build")
    before = {path: path.stat().st_mtime_ns for path in project.root.rglob("*")}
    project.plan(config=PETS)
    project.plan("train", config=PETS, settings=("train.batch_size=2",))
    project.plan(resume=True)
    assert {path: path.stat().st_mtime_ns for path in project.root.rglob("*")} == before


def test_an_unknown_stage_gets_its_nearest(project: Project) -> None:
    with pytest.raises(PipelineError, match=r"unknown stage 'evalute': did you mean 'evaluate'\?"):
        project.plan("ingest", "evalute", config=PETS)


# A joined run.


def test_stages_join_the_newest_run_of_the_recipe(project: Project) -> None:
    project.begin("ingest", "build")
    newest = project.begin("ingest", "build")
    other = project.begin("ingest", "build", config=Path("configs/birds.yaml"))
    plan = project.plan("train", config=PETS)
    assert (plan.kind, plan.run, plan.stages) == ("joined", newest, ("train",))
    assert project.plan("train").run == other
    assert project.plan("train", name="pets-1").run == RunDir(project.root / "runs" / "pets-1")


def test_a_recipe_is_the_same_by_any_path(project: Project) -> None:
    run = project.begin("ingest", "build")
    for path in (PETS.resolve(), Path("configs/../configs/pets.yaml")):
        assert project.plan("train", config=path).run == run


def test_nothing_to_join_is_said(project: Project) -> None:
    with pytest.raises(StageOrderError, match=r"train joins a run, and there is none in .*; run: pipeline run ingest"):
        project.plan("train")
    project.begin("ingest", config=Path("configs/birds.yaml"))
    with pytest.raises(StageOrderError, match=r"there is none of configs/pets\.yaml in "):
        project.plan("build", config=PETS)
    with pytest.raises(ConfigError, match=r"no run 'bird-1' in .*: did you mean 'birds-1'\?"):
        project.plan("build", name="bird-1")


@pytest.mark.parametrize(
    ("done", "asked", "message"),
    [
        (
            ["ingest"],
            ["train"],
            "train needs build, which is missing in run 'pets-1'; run: pipeline run --name pets-1 build",
        ),
        (["ingest", "build"], ["evaluate"], "evaluate needs train, which is missing in run 'pets-1'"),
        ([], ["augment"], "augment needs ingest, which is missing in run 'pets-1'"),
        (["ingest", "build", "train", "build"], ["export"], "export needs train, which is stale in run 'pets-1'"),
    ],
)
def test_a_missing_input_is_named(done: list[str], asked: list[str], message: str, project: Project) -> None:
    project.begin(*done)
    with pytest.raises(StageOrderError) as caught:
        project.plan(*asked)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


CHAINS = [chain for size in (1, 2, 3) for chain in itertools.combinations(STAGES[1:], size)]


@pytest.mark.parametrize("done", range(len(STAGES)))
def test_the_advice_of_a_refusal_can_be_followed(done: int, project: Project) -> None:
    project.begin(*STAGES[:done])
    for chain in CHAINS:
        try:
            project.plan(*chain)
        except StageOrderError as error:
            words = shlex.split(str(error).partition("run: pipeline run ")[2])
            name = words[words.index("--name") + 1]
            stages = [word for word in words if word in STAGES]
            advised = project.plan(*stages, name=name, resume="--resume" in words)
            assert set(chain) <= set(advised.stages)


def test_a_run_keeps_what_was_set_when_it_began(project: Project) -> None:
    project.begin("ingest", "build", settings=("train.batch_size=2", "seed=5"))
    for options in ({}, {"config": PETS}):
        config = project.plan("train", **options).config
        assert (config.train.batch_size, config.seed) == (2, 5)


@pytest.mark.parametrize("key", CHANGES)
def test_a_part_is_fixed_once_its_stage_has_run(key: str, project: Project) -> None:
    part = key.split(".")[0]
    owner = READERS[part][0]
    run = project.begin(*STAGES[: STAGES.index(owner)])
    setting = (f"{key}={CHANGES[key]}",)
    if owner != "ingest":
        changed = project.plan(owner, settings=setting).config
        assert getattr(changed, part) != getattr(project.plan(owner).config, part)
    run.mark(owner, "failed")
    with pytest.raises(
        ConfigError, match=f"{part}: stage {owner} has run in 'pets-1' with other values; start a new run"
    ):
        project.plan(resume=True, settings=setting)


def test_every_part_of_a_recipe_belongs_to_a_stage() -> None:
    assert set(READERS) == set(Config.model_fields)
    assert set(READERS) == {key.split(".")[0] for key in CHANGES}
    assert {stage for stages in READERS.values() for stage in stages} == set(STAGES)


def test_an_edited_recipe_counts_where_its_stage_has_not_run(project: Project) -> None:
    project.begin("ingest", settings=("train.head.epochs=3",))
    PETS.write_text("ingest: {data: photos}\ntrain: {batch_size: 8}\nmodel: {image_size: 96}\n")
    config = project.plan("build", config=PETS).config
    assert (config.model.image_size, config.train.head.epochs) == (96, 3)
    assert project.plan("build").config.model.image_size is None  # not named, not looked at
    PETS.write_text("ingest: {data: elsewhere}\ntrain: {batch_size: 8}\n")
    with pytest.raises(ConfigError, match="ingest: stage ingest has run in 'pets-1' with other values"):
        project.plan("build", config=PETS)


def test_an_edit_is_taken_up_once(project: Project) -> None:
    project.begin("ingest")
    PETS.write_text("ingest: {data: photos}\ntrain: {batch_size: 16}\n")
    project.go_on(project.plan("build", config=PETS), "build")
    plan = project.plan("train", config=PETS, settings=("train.batch_size=32",))
    project.go_on(plan)
    assert project.plan("train", config=PETS).config.train.batch_size == 32


@pytest.mark.parametrize("text", [None, "- a list", "train: [", "sed: 1"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_recipe_that_cannot_be_used_is_refused_when_joining(text: str | None, resume: bool, project: Project) -> None:
    project.begin("ingest", name="best")
    other = Path("configs/other.yaml")
    if text is not None:
        other.write_text(text)
    with pytest.raises(ConfigError):
        project.plan("build", config=other, name="best", resume=resume)


# A resumed run.


@pytest.mark.parametrize("state", ["failed", "killed", "running", "stale"])
def test_resume_goes_on_with_what_is_not_done(state: str, project: Project) -> None:
    run = project.begin("ingest", "augment", "build")
    run.mark("train", state)  # type: ignore[arg-type]
    plan = project.plan(resume=True)
    assert (plan.kind, plan.run, plan.stages) == ("resumed", run, ("train", "evaluate", "export"))
    assert project.plan("train", resume=True).stages == ("train",)


def test_resume_takes_the_newest_unfinished_run_or_the_named_one(project: Project) -> None:
    oldest, newer = project.begin("ingest"), project.begin("ingest", "augment")
    project.begin(*STAGES)
    other = project.begin(config=Path("configs/birds.yaml"))
    assert project.plan(resume=True).run == other
    assert project.plan(resume=True, config=PETS).run == newer
    assert project.plan(resume=True, name=oldest.name).run == oldest


def test_resume_has_nothing_to_do(project: Project) -> None:
    with pytest.raises(ConfigError, match="nothing to resume: no unfinished run in"):
        project.plan(resume=True)
    project.begin(*STAGES)
    with pytest.raises(ConfigError, match="nothing to resume: no unfinished run in"):
        project.plan(resume=True)
    with pytest.raises(ConfigError, match="nothing to resume: run 'pets-1' has finished its stages"):
        project.plan(resume=True, name="pets-1")


def test_resume_of_a_stage_whose_input_is_missing_is_refused(project: Project) -> None:
    project.begin("ingest")
    with pytest.raises(StageOrderError, match="train needs build, which is missing in run 'pets-1'"):
        project.plan("train", resume=True)


def test_a_run_killed_before_its_recipe_was_written_is_no_traceback(project: Project) -> None:
    state: dict[str, Any] = {"recipe": None, "experiment": "pets", "fingerprints": {}, "mlflow_run_id": None}
    claim_run(project.root / "runs", None, "pets", state)
    with pytest.raises(PipelineError):
        project.plan(resume=True)


# What --dry-run shows.


def test_the_plan_in_words_names_what_matters(project: Project) -> None:
    new = "\n".join(project.plan(config=PETS, settings=("train.fine_tune.epochs=4",)).lines())
    for word in (
        "new run pets-<n>",
        "configs/pets.yaml",
        "photos",
        "efficientnet_lite0",
        "4 epochs",
        "ingest -> augment",
    ):
        assert word in new
    project.begin("ingest", "build")
    assert "joined: run pets-1" in project.plan("train").lines()[0]


# What a new manifest is compared with.


def ingested(project: Project, data: str, **options: Any) -> RunDir:
    """Returns a run whose ingest has ended, with the file it leaves."""
    run = project.begin("ingest", data=data, **options)
    write_json(run.file("ingest.json"), {"source": str((project.root / data).resolve())})
    return run


@pytest.mark.parametrize("spelling", ["photos", "photos/", "./photos", "pets/../photos"])
def test_the_same_source_is_preferred_however_it_is_spelt(spelling: str, project: Project) -> None:
    (project.root / "pets").mkdir()
    same = ingested(project, "photos")
    ingested(project, "others")
    before = project.plan(config=PETS, data=spelling).previous
    assert before is not None
    assert (before.run.name, before.same_splits) == (same.name, True)


def test_without_the_same_source_the_newest_of_the_experiment_counts(project: Project) -> None:
    ingested(project, "photos")
    newest = ingested(project, "others")
    ingested(project, "birds", config=Path("configs/birds.yaml"))
    before = project.plan(config=PETS, data="third").previous
    assert before is not None
    assert before.run.name == newest.name
    assert project.plan(config=PETS, settings=("experiment=alone",)).previous is None


@pytest.mark.parametrize("setting", ["ingest.split.seed=4", "ingest.duplicates=exact"])
def test_other_settings_of_the_split_settle_nothing(setting: str, project: Project) -> None:
    ingested(project, "photos")
    before = project.plan(config=PETS, data="photos", settings=(setting,)).previous
    assert before is not None
    assert not before.same_splits


def test_a_run_that_was_not_ingested_is_passed_over(project: Project) -> None:
    done = ingested(project, "photos")
    project.begin(data="photos")
    before = project.plan(config=PETS, data="photos").previous
    assert before is not None
    assert before.run.name == done.name


@pytest.mark.parametrize("text", ["", "{}", "ingest: 3", "a: [", "ingest: {}"])
def test_a_damaged_old_run_blocks_no_new_one(text: str, project: Project) -> None:
    good = ingested(project, "photos")
    ingested(project, "photos").config.write_text(text)
    before = project.plan(config=PETS, data="photos").previous
    assert before is not None
    assert before.run.name == good.name
