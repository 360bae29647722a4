from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from limits import file_size_limit

from pipeline.errors import ConfigError, PipelineError, SpaceError, StageOrderError
from pipeline.workdir import (
    NEEDS,
    STAGES,
    RunDir,
    check_done,
    check_known,
    check_order,
    claim_run,
    find_run,
    list_runs,
)


def claim(runs: Path, name: str | None = None, stem: str = "pets") -> RunDir:
    return claim_run(runs, name, stem, {"recipe": None, "mlflow_run_id": None})


def finish(run: RunDir, *stages: str) -> RunDir:
    for stage in stages:
        run.mark(stage, "running")
        run.mark(stage, "done", 1.234)
    return run


def test_every_stage_reads_earlier_ones() -> None:
    assert tuple(NEEDS) == STAGES
    for place, stage in enumerate(STAGES):
        assert set(NEEDS[stage]) <= set(STAGES[:place])


def test_runs_are_numbered_by_their_recipe(tmp_path: Path) -> None:
    names = [claim(tmp_path / "runs", stem=stem).name for stem in ("pets", "pets", "photos", "pets")]
    assert names == ["pets-1", "pets-2", "photos-1", "pets-3"]


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["pets-7"], "pets-8"),
        (["pets-9", "pets-10"], "pets-11"),
        (["pets-x", "pets-2-best", "pets", "other-5"], "pets-1"),
        (["pets-²"], "pets-1"),
    ],
)
def test_the_next_number_is_above_all_others(present: list[str], expected: str, tmp_path: Path) -> None:
    for name in present:
        (tmp_path / name).mkdir()
    assert claim(tmp_path).name == expected


def test_a_number_is_not_used_again(tmp_path: Path) -> None:
    first, _ = claim(tmp_path), claim(tmp_path)
    shutil.rmtree(first.path)
    assert claim(tmp_path).name == "pets-3"


@pytest.mark.parametrize("stem", ["pets", "pets[1]", "*"])
def test_eight_claims_at_once_are_eight_runs(stem: str, tmp_path: Path) -> None:
    together = Barrier(8)

    def claim_together(_: int) -> str:
        together.wait()
        return claim(tmp_path / "runs", stem=stem).name

    with ThreadPoolExecutor(8) as workers:
        names = set(workers.map(claim_together, range(8)))
    assert names == {f"{stem}-{number}" for number in range(1, 9)}


def test_eight_claims_of_one_name_have_one_winner(tmp_path: Path) -> None:
    together = Barrier(8)

    def claim_together() -> None:
        together.wait()
        claim(tmp_path / "runs", name="best")

    with ThreadPoolExecutor(8) as workers:
        errors = [future.exception() for future in [workers.submit(claim_together) for _ in range(8)]]
    messages = [str(error) for error in errors if isinstance(error, ConfigError)]
    assert errors.count(None) == 1
    assert len(messages) == 7
    assert all(message.startswith("run 'best' exists in") for message in messages)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(ConfigError, match=r"runs cannot be written"):
        claim(tmp_path / "runs")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ConfigError, match=r"cannot be written: No space left on device; check permissions and space"):
        claim(tmp_path / "other")


def test_states_are_kept_in_the_folder(tmp_path: Path) -> None:
    run = finish(claim(tmp_path), "ingest")
    run.mark("augment", "running")
    run.mark("augment", "failed")
    run.update_state(mlflow_run_id="abc")
    again = RunDir(run.path)
    assert again.load_state()["stages"] == {
        "ingest": {"state": "done", "seconds": 1.23},
        "augment": {"state": "failed"},
    }
    assert again.load_state()["mlflow_run_id"] == "abc"
    assert again.stage_state("build") is None
    assert again.unfinished() == ["augment", "build", "train", "evaluate", "export"]


@pytest.mark.parametrize("stage", STAGES)
def test_starting_a_stage_makes_later_ones_stale_and_no_earlier(stage: str, tmp_path: Path) -> None:
    run = finish(claim(tmp_path), *STAGES)
    assert run.unfinished() == []
    run.mark(stage, "running")
    place = STAGES.index(stage)
    states = [run.stage_state(each) for each in STAGES]
    assert states == ["done"] * place + ["running"] + ["stale"] * (len(STAGES) - place - 1)
    run.mark(stage, "done")
    assert run.unfinished() == list(STAGES[place + 1 :])


def test_runs_are_listed_newest_first_whatever_they_are_called(tmp_path: Path) -> None:
    for name in ("m", "z", "a"):
        claim(tmp_path, name=name)
    (tmp_path / "not a run").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["a", "z", "m"]
    assert list(list_runs(tmp_path / "gone")) == []


def test_a_run_is_found_by_name_and_by_folder(tmp_path: Path) -> None:
    run = claim(tmp_path / "runs")
    for name in ("pets-1", str(run.path), f"{run.path}/"):
        assert find_run(tmp_path / "runs", name) == run
        assert find_run(tmp_path / "runs", name).name == "pets-1"


def test_a_run_is_found_by_its_folder_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = claim(tmp_path / "runs")
    (run.path / "export").mkdir()
    for place, name in ((run.path, "."), (run.path / "export", "..")):
        monkeypatch.chdir(place)
        assert find_run(tmp_path / "elsewhere", name) == run


def test_a_run_is_found_by_its_mlflow_run_id(tmp_path: Path) -> None:
    first, second, _ = claim(tmp_path), claim(tmp_path), claim(tmp_path)
    for run, identifier in ((first, "a" * 32), (second, "b" * 32)):
        run.update_state(mlflow_run_id=identifier)
    assert find_run(tmp_path, "b" * 32) == second
    assert find_run(tmp_path, "a" * 32) == first
    with pytest.raises(
        ConfigError, match=f"no run in .* has the MLflow run id {'c' * 32}; `pipeline runs --json` lists"
    ):
        find_run(tmp_path, "c" * 32)
    with pytest.raises(ConfigError, match="no run 'None' in"):  # the third has none yet
        find_run(tmp_path, "None")


def test_a_run_that_is_not_there_gets_its_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run 'pets-1' in .*: there are no runs yet"):
        find_run(tmp_path, "pets-1")
    claim(tmp_path)
    with pytest.raises(ConfigError, match=r"no run 'pet-1' in .*: did you mean 'pets-1'\?"):
        find_run(tmp_path, "pet-1")


def test_a_damaged_state_names_its_file(tmp_path: Path) -> None:
    run = claim(tmp_path)
    (run.path / "run.json").write_text('{"stages": {')
    with pytest.raises(PipelineError, match=re.escape(f"{run.path / 'run.json'} cannot be read")):
        list(list_runs(tmp_path))


@pytest.mark.parametrize("stage", STAGES)
def test_a_new_run_has_every_stage_in_order(stage: str) -> None:
    check_order(STAGES[: STAGES.index(stage) + 1], None)
    if NEEDS[stage]:
        with pytest.raises(StageOrderError, match=f"{stage} needs {NEEDS[stage][-1]}, which is missing in a new run"):
            check_order((stage,), None)


@pytest.mark.parametrize("state", ["running", "failed", "killed", "stale"])
def test_an_input_that_is_not_done_is_no_input(state: str, tmp_path: Path) -> None:
    run = finish(claim(tmp_path), "ingest", "build", "train")
    run.mark("train", state)  # type: ignore[arg-type]
    with pytest.raises(StageOrderError, match=f"evaluate needs train, which is {state} in run 'pets-1'; run: "):
        check_order(("evaluate",), run)
    check_order(("train", "evaluate"), run)


def test_a_command_needs_a_stage_that_is_done(tmp_path: Path) -> None:
    run = finish(claim(tmp_path), "ingest", "build", "train")
    check_done("similar", "train", run)
    run.mark("build", "running")
    says = "similar needs train, which is stale in run 'pets-1'; run: pipeline run --name pets-1 build train"
    with pytest.raises(StageOrderError, match=f"^{says}$"):
        check_done("similar", "train", run)
    says = (
        "similar needs train, which is missing in run 'pets-2'; run: pipeline run --name pets-2 --resume ingest build"
    )
    with pytest.raises(StageOrderError, match=f"^{says} train$"):
        check_done("similar", "train", claim(tmp_path))


def test_an_unknown_stage_gets_its_nearest() -> None:
    check_known(STAGES)
    with pytest.raises(PipelineError, match=r"unknown stage 'trian': did you mean 'train'\?"):
        check_known(("ingest", "trian"))


def test_a_run_that_a_full_disk_keeps_from_being_claimed_leaves_its_name_free(tmp_path: Path) -> None:
    with file_size_limit(10), pytest.raises(SpaceError, match=r"run\.json: it takes \d+ bytes"):
        claim_run(tmp_path, "best", "photos", {"note": "x" * 100})
    assert list(tmp_path.iterdir()) == []
    assert claim_run(tmp_path, "best", "photos", {}).load_state()["name"] == "best"
