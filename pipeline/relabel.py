"""A new run of a run's recipe with some labels corrected: laid over those of the source, never written to it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import DataError, shown
from pipeline.files import json_digest, write_csv
from pipeline.ingest.manifest import Manifest, load_manifest
from pipeline.ingest.relabel import Fix, Overlay, load_overlay, relabel
from pipeline.ingest.sources.base import Item
from pipeline.plan import Before, Request, plan_run
from pipeline.progress import Progress
from pipeline.run import execute, preflight
from pipeline.tracking import Tracker
from pipeline.trained import load_recipe
from pipeline.workdir import RunDir, check_done, find_run

#: Where overlays are kept, in the project: not in the run, which is claimed only once its recipe has been checked.
FOLDER = "relabels"

COLUMNS = ("id", "sha256", "source_label", "new_label")

#: Changed labels that are printed one by one.
MOST_LINES = 10


class Change(NamedTuple):
    """An image's label, before and after."""

    id: str
    before: str
    after: str


@dataclass(frozen=True)
class Relabelled:
    """What was done.

    Attributes:
        of: Name of the run whose labels were corrected.
        run: Name of the new run, whose stage ingest is done.
        file: All corrections that hold in it, earlier ones too.
        changes: What is another label than in `of`.
        earlier: How many corrections were there before and still hold.
    """

    of: str
    run: str
    file: Path
    changes: tuple[Change, ...]
    earlier: int

    @property
    def next(self) -> str:
        """The command to go on with."""
        return f"pipeline run --name {self.run} augment build train evaluate export"

    def document(self) -> dict[str, Any]:
        """Returns what `relabel --json` prints."""
        return {
            "of": self.of, "run": self.run, "file": str(self.file), "earlier": self.earlier, "next": self.next,
            "changes": [change._asdict() for change in self.changes],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Returns it for people."""
        count = len(self.changes)
        kinds = Counter(f"{change.before} -> {change.after}" for change in self.changes)
        said = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(3))
        more = f", and {len(kinds) - 3} more kinds" if len(kinds) > 3 else ""
        earlier = f"; {self.earlier} earlier ones still hold" if self.earlier else ""
        return [
            f"{count} label{'s' * (count != 1)} changed from {self.of} to {self.run}: {said}{more}{earlier}",
            *(f"  {shown(one.id)}: {one.before} -> {one.after}" for one in self.changes[:MOST_LINES]),
            *([f"  and {count - MOST_LINES} more"] if count > MOST_LINES else []),
            f"corrections: {shown(str(self.file))}; no image was touched",
            f"go on with: {self.next}",
        ]


def relabel_run(
    name: str, fixes: Path, root: Path, *, new_name: str | None = None, progress: Progress, tracker: Tracker
) -> Relabelled:
    """Returns what a file of corrections did: a new run of the same recipe, ingested with them.

    Corrections of the run itself, if it was made in this way, still hold where the file says nothing else.

    Args:
        name: The run's name, folder or MLflow run id.
        fixes: The CSV.
        root: The project's folder.
        new_name: Of the new run; the next free number by default.
        progress: Where to show how far it is.
        tracker: Where to log.

    Raises:
        PipelineError: The run or the file cannot be used, or there is nothing to change; one line.
    """
    run = find_run(root / "runs", name)
    check_done("relabel", "ingest", run)
    manifest, overlay = load_manifest(run.manifest), load_overlay(fixes)
    labels = _corrected(manifest, overlay)
    changes = tuple(
        Change(image, old, new)
        for image, old, new in zip(manifest.column("id"), manifest.column("label"), labels, strict=True)
        if old != new
    )
    if not changes:
        filled = f"all {len(overlay.fixes)} are so already" if overlay.fixes else "no line has a new_label"
        raise DataError(f"nothing to change in {run.name} by {shown(str(fixes))}: {filled}; fill in new_label")
    rows = _merged(run, manifest, labels, {change.id for change in changes})
    file = root / FOLDER / f"{json_digest(rows)[:12]}.csv"
    write_csv(file, rows, COLUMNS)
    new = _ingest_again(run, file, root, new_name, progress, tracker)
    earlier = {row["id"] for row in rows} - {change.id for change in changes}
    return Relabelled(run.name, new, _short(file), changes, len(earlier))


def _corrected(manifest: Manifest, overlay: Overlay) -> list[str]:
    """Returns the label of each image with the fixes applied; allowed are the labels that the source has."""
    columns = (manifest.column(name) for name in ("id", "original", "source_label"))
    items = [Item(*row) for row in zip(*columns, strict=True)]
    fixed = relabel(items, manifest.column("sha256"), overlay)
    return [
        item.label if item.source_label is not None else label
        for item, label in zip(fixed, manifest.column("label"), strict=True)
    ]


def _merged(run: RunDir, manifest: Manifest, labels: list[str], changed: set[str]) -> list[dict[str, str]]:
    """Returns the lines of the new overlay: all images whose label is not the source's."""
    names = ("id", "sha256", "source_label", "original")
    rows = [
        {"id": image, "sha256": digest, "source_label": source, "new_label": label}
        for image, digest, source, original, label in zip(*map(manifest.column, names), labels, strict=True)
        # An image that was deleted since is not one that cannot be found: its correction goes with it.
        if source != label and (image in changed or os.path.lexists(original))
    ]
    known, contents = set(manifest.column("id")), set(manifest.column("sha256"))
    return rows + [
        {"id": fix.id, "sha256": fix.sha256, "source_label": "", "new_label": fix.label}
        for fix in _earlier(run)
        if fix.id not in known and fix.sha256 not in contents  # of an image that ingest left out
    ]


def _earlier(run: RunDir) -> tuple[Fix, ...]:
    """Returns the fixes that a run was itself made with, from its own copy."""
    copy = run.file("relabel.csv")
    return load_overlay(copy).fixes if copy.exists() else ()


def _ingest_again(run: RunDir, file: Path, root: Path, name: str | None, progress: Progress, tracker: Tracker) -> str:
    """Returns the name of a new run of a run's stored recipe whose stage ingest was run with an overlay."""
    state = run.load_state()
    load_recipe(run)  # a damaged one is said to be the run's, not an argument's
    settings = _settings({"experiment": state["experiment"], "ingest.relabel": str(_short(file))})
    plan = plan_run(Request(run.config, None, name, settings, stages=("ingest",)), root / "runs")
    recipe = Path(state["recipe"]) if state["recipe"] else None
    # The recipe's file gives the new run its name, and is what a later `-c` is compared with; sides are kept from this
    # run, though a newer one may have dealt its images out by another seed.
    plan = replace(plan, recipe=recipe, fingerprints=state["fingerprints"], previous=Before(run, True))
    preflight(plan, root, tracker)
    return execute(plan, root, progress, tracker).run


def _settings(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def _short(path: Path) -> Path:
    """Returns a path below the current folder as such, so that a project can be moved with its recipes."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
