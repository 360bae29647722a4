"""What is said before the first epoch, held against what the run then really did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from limits import file_size_limit

from pipeline import estimate
from pipeline.config import Config
from pipeline.errors import SpaceError
from pipeline.plan import Request
from pipeline.progress import Silent
from pipeline.run import run_pipeline
from pipeline.space import Need, size_on_disk
from pipeline.tracking import MemoryTracker, MlflowTracker
from pipeline.train.checkpoint import LATEST, Checkpoint, Checkpoints
from pipeline.workdir import STAGES, RunDir

SMALL = (
    "model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[8]",
    "train.head.epochs=2", "train.fine_tune.epochs=2", "train.fine_tune.from=block1", "train.batch_size=8",
    "train.checkpoint_every_steps=1", "augment.transforms=[{shift: {pixels: 2}}]", "train.patience=0",
)  # fmt: skip

MIB = 2**20


class Told(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Copying(MemoryTracker):
    """Counts the bytes that MLflow would copy."""

    copied = 0

    def places(self) -> tuple[Path, ...]:
        return (Path.cwd(),)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.copied += size_on_disk(path)

    def log_model(self, export_dir: Path, **_: object) -> str | None:
        self.copied += size_on_disk(export_dir)
        return None


@dataclass
class Seen:
    """What was estimated, and what a run wrote."""

    needs: dict[str, int] = field(default_factory=dict)
    checkpoint: int = 0
    facts: estimate.Facts | None = None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Watches estimates and checkpoints as they are made."""
    found, count, save = Seen(), estimate.disk_needs, Checkpoints.save

    def watched_count(facts: estimate.Facts, *rest: object) -> list[Need]:
        needs = count(facts, *rest)  # type: ignore[arg-type]
        found.needs, found.facts = {need.what: need.size for need in needs}, facts
        return needs

    def watched_save(self: Checkpoints, checkpoint: Checkpoint) -> None:
        save(self, checkpoint)
        assert self.folder
        found.checkpoint = max(found.checkpoint, (self.folder / LATEST).stat().st_size)

    monkeypatch.setattr(estimate, "disk_needs", watched_count)
    monkeypatch.setattr(Checkpoints, "save", watched_save)
    return found


def written(root: Path, run: RunDir, copied: int, seen: Seen) -> dict[str, int]:
    """Returns the bytes that a run wrote, by what they are estimated as."""
    export, model = size_on_disk(run.export), size_on_disk(run.model)
    return {
        "features": sum(size_on_disk(path) for path in (root / ".cache" / "features").iterdir()),
        "checkpoints": 3 * seen.checkpoint,
        "the model": model,
        "records and pictures": size_on_disk(run.path) - export - model,
        "the export": export,
        "MLflow's copies": copied,
        "a passing copy": export,
    }


def check_bounds(seen: Seen, real: dict[str, int]) -> None:
    """No part is larger than it was said to be, and none much smaller."""
    assert seen.needs.keys() == real.keys()
    outside = {
        what: (size, seen.needs[what])
        for what, size in real.items()
        if not size <= seen.needs[what] <= 1.5 * size + MIB
    }
    assert outside == {}


def test_a_tiny_run_takes_what_was_said(tmp_path: Path, photo_folder: Path, seen: Seen) -> None:
    tracker, told = Copying(), Told()
    request = Request(data=str(photo_folder), settings=SMALL)
    result = run_pipeline(request, tmp_path, tracker=tracker, progress=told)
    check_bounds(seen, written(tmp_path, RunDir(result.path), tracker.copied, seen))
    assert seen.facts
    assert tracker.metrics["train/forward_passes"] == [(None, seen.facts.demand.passes)]
    first = next(place for place, line in enumerate(told.lines) if line.startswith("images:"))
    assert first < next(place for place, line in enumerate(told.lines) if line.startswith("features of"))
    screen = "\n".join(told.lines[first : first + 12])
    for words in ("18 train, 3 validation, 3 test, in 3 classes", "passes:", "memory:", "disk:", "checkpoints: runs/"):
        assert words in screen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # MLflow's own
def test_a_medium_run_takes_what_was_said(
    tmp_path: Path, make_photos: Callable[..., Path], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = make_photos(tmp_path / "photos", count=20, size=(80, 80))
    settings = (
        "model.backbone=resnet18", "model.weights=none", "model.image_size=64", "train.head.epochs=1",
        "train.fine_tune.epochs=1", "train.fine_tune.from=0.5", "train.checkpoint_every_steps=1",
    )  # fmt: skip
    result = run_pipeline(Request(data=str(folder), settings=settings), tmp_path, tracker=MlflowTracker(tmp_path))
    check_bounds(seen, written(tmp_path, RunDir(result.path), size_on_disk(tmp_path / "mlruns"), seen))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ((), 18 * 5 + 3),
        (("train.head.epochs=0",), 18 * 5 + 3),
        (("train.fine_tune.epochs=0",), 18 * 5 + 3),
        (("train.features=live",), 4 * 21),
        (("train.bank.budget_gb=0.0",), 4 * 21 + 3),
        (("train.fine_tune.from=input",), 18 * 5 + 3 + 2 * 21),
    ],
)
def test_the_forward_passes_are_those_that_are_made(
    tmp_path: Path, photo_folder: Path, seen: Seen, settings: tuple[str, ...], passes: int
) -> None:
    tracker = MemoryTracker()
    request = Request(data=str(photo_folder), settings=(*SMALL, *settings), stages=STAGES[:4])
    run_pipeline(request, tmp_path, tracker=tracker)
    assert seen.facts
    assert seen.facts.demand.passes == passes
    assert tracker.metrics["train/forward_passes"] == [(None, passes)]
    again = MemoryTracker()
    run_pipeline(request, tmp_path, tracker=again)
    assert again.metrics["train/forward_passes"] == [(None, seen.facts.demand.passes)]


def test_too_little_space_ends_a_run_before_its_first_epoch(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(data=str(photo_folder), settings=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.space.free_bytes", lambda path: 2 * MIB)
        with pytest.raises(SpaceError, match=r"too little space: .*checkpoints.*--resume --name photos-1") as error:
            run_pipeline(request, tmp_path, tracker=MemoryTracker())
    assert "\n" not in str(error.value)
    run = RunDir(tmp_path / "runs" / "photos-1")
    assert [run.stage_state(stage) for stage in STAGES[:4]] == ["done", "done", "done", "failed"]
    assert not (tmp_path / ".cache" / "features").exists()
    assert not run.checkpoints.exists()


def test_a_full_disk_in_mid_run_says_how_to_go_on(tmp_path: Path, photo_folder: Path) -> None:
    request = Request(data=str(photo_folder), settings=SMALL, stages=("ingest",))
    wanted = r"data\.png: it takes more than .*make space, then: pipeline run --resume --name photos-1"
    with file_size_limit(40_000), pytest.raises(SpaceError, match=wanted):
        run_pipeline(request, tmp_path, tracker=MemoryTracker())
    run = RunDir(tmp_path / "runs" / "photos-1")
    assert run.stage_state("ingest") == "failed"
    assert [path.name for path in run.path.glob(".*")] == [".lock"]
    run_pipeline(Request(name="photos-1", resume=True, stages=("ingest",)), tmp_path, tracker=MemoryTracker())
    assert run.stage_state("ingest") == "done"


def test_a_passing_copy_is_counted_only_where_a_model_is_logged(tmp_path: Path) -> None:
    from pipeline.train.demand import Demand

    demand = Demand(passes=0, rate=None, bank=0, judged=0, live=None, checkpoint=1000, memory=0)
    facts = estimate.Facts(demand, {"test": 5}, classes=3, weights=10**6, side=32, layers=10, golden=0)

    def needs(config: Config, *stages: str, mlruns: Path | None = tmp_path) -> dict[str, int]:
        run = RunDir(tmp_path / "runs" / "new")
        found = estimate.disk_needs(facts, config, stages, run, tmp_path, mlruns)
        return {need.what: need.size for need in found}

    plain = Config()
    quiet = plain.model_copy(update={"export": plain.export.model_copy(update={"logged_model": False})})
    assert "a passing copy" in needs(plain, "train", "export")
    assert "a passing copy" not in needs(quiet, "train", "export")
    both, one = (needs(config, "export")["MLflow's copies"] for config in (plain, quiet))
    assert both - one == needs(plain, "export")["the export"]
    assert needs(plain, "train", mlruns=None).keys() == {"checkpoints", "the model", "records and pictures"}


def test_a_time_is_told_only_where_a_speed_was_measured() -> None:
    from pipeline.train.demand import Demand

    def passes(count: int, rate: float | None) -> str:
        return estimate._passes(Demand(count, rate, 0, 0, None, 0, 0))

    assert "about 4 min at the 100 images/s measured now" in passes(24_000, 100.0)
    assert "too few to be worth timing" in passes(200, None)
    assert "the bank has all" in passes(0, None)
