"""Where a call of the pipeline will write: whether it may, and whether there is room for the least that it takes."""

from __future__ import annotations

from pathlib import Path

from pipeline.plan import Plan
from pipeline.space import Need, by_disk, check_room, check_writable, free_bytes, in_words
from pipeline.tracking import Tracker

#: What any run takes wherever it writes: records and pictures of a stage.
LEAST_BYTES = 256 * 2**10

#: Below `.cache`, by the stages that write to it.
_CACHES = {"ingest": ("ingest", "images"), "train": ("features",), "evaluate": ("features",)}


def written(plan: Plan, root: Path, tracker: Tracker) -> list[Path]:
    """Returns the folders and files that a plan will write to, the run's first."""
    names = dict.fromkeys(name for stage in plan.stages for name in _CACHES.get(stage, ()))
    data = plan.config.ingest.data or ""
    sample = [root / "data"] if "ingest" in plan.stages and data.startswith("sample:") else []
    runs = plan.run.path if plan.run else root / "runs"
    return [runs, *(root / ".cache" / name for name in names), *sample, *tracker.places()]


def check_places(plan: Plan, root: Path, tracker: Tracker, weights: Path | None = None) -> None:
    """Looks whether a plan can be written down where it will be. Writes nothing.

    Args:
        plan: What is to be done.
        root: The project's folder.
        tracker: Where it will be logged.
        weights: The file that training begins from, if it is known: the model will be as large.

    Raises:
        PipelineError: A place cannot be written.
        SpaceError: One has too little room.
    """
    places = written(plan, root, tracker)
    for place in places:
        check_writable(place)
    needs = [Need("records", place, LEAST_BYTES) for place in places]
    size = weights.stat().st_size if weights else 0
    made = [stage for stage in ("train", "export") if stage in plan.stages]
    needs += [Need({"train": "the model", "export": "its export"}[stage], places[0], size) for stage in made if size]
    if size and "export" in made and tracker.places():
        copies = 2 if plan.config.export.logged_model else 1
        needs.append(Need("MLflow's copies", tracker.places()[0], copies * size))
    check_room(needs)


def lines(plan: Plan, root: Path, tracker: Tracker) -> list[str]:
    """Returns where a plan will write and how much is free there, for `--dry-run`: a line a disk."""
    disks = by_disk(Need("", place, 0) for place in written(plan, root, tracker) if place != root.absolute())
    return [
        f"writes:  {', '.join(_shown(need.path, root) for need in disk)}; {in_words(free_bytes(disk[0].path))} free"
        for disk in disks
    ]


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
