"""What is wrong with a source, said before anything is trained: `pipeline doctor`, and the end of every ingest."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import IngestConfig
from pipeline.errors import DataError, shown
from pipeline.ingest.examine import Examination, examine
from pipeline.ingest.result import DuplicatePair
from pipeline.ingest.scan import list_files
from pipeline.ingest.sources import open_source
from pipeline.ingest.stage import deal_out, pairs
from pipeline.ingest.store import ContentStore
from pipeline.progress import Progress

#: A class with this many times fewer images than the largest will be learnt badly.
_IMBALANCE = 20
#: Fewer images of a class than this, and its score is a guess: at 15 % for test, three images.
_FEW = 20


@dataclass(frozen=True)
class Diagnosis:
    """What `pipeline doctor` found.

    Attributes:
        source: What was looked at.
        images: Number of images that can be trained on.
        classes: Their number in each class.
        problems: (path, reason) of the others.
        duplicates: Pairs that show the same picture; across the source's own splits they are leaks.
        transcoded: (path, why) of images that ingest stores anew as PNG.
        turned: Paths of images that are stored lying on a side or mirrored, and that every stage sees upright.
        advice: What else is worth knowing, a line each.
    """

    source: str
    images: int
    classes: dict[str, int]
    problems: tuple[tuple[str, str], ...]
    duplicates: tuple[DuplicatePair, ...]
    transcoded: tuple[tuple[str, str], ...]
    turned: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def leaks(self) -> tuple[DuplicatePair, ...]:
        """Returns the duplicates across the source's own splits."""
        return tuple(pair for pair in self.duplicates if pair.leak)

    def document(self) -> dict[str, Any]:
        """Returns everything as JSON, in the form that `doctor --json` promises."""
        return {
            "source": self.source,
            "images": self.images,
            "classes": self.classes,
            "problems": [{"path": path, "reason": reason} for path, reason in self.problems],
            "duplicates": [{**asdict(pair), "leak": pair.leak} for pair in self.duplicates],
            "transcoded": [{"path": path, "reason": reason} for path, reason in self.transcoded],
            "turned_upright": list(self.turned),
            "advice": list(self.advice),
        }


def diagnose(config: IngestConfig, data_dir: Path, cache: Path, progress: Progress) -> Diagnosis:
    """Returns what is wrong with a source, and what is not.

    Args:
        config: The section `ingest`; its `data` names the source.
        data_dir: Where samples are laid out.
        cache: Where what was seen is kept.
        progress: Told of every file.

    Raises:
        DataError: The source itself cannot be used: no such folder, no class folders, no image in it.
    """
    source = open_source(config, data_dir, ContentStore(cache / "images"))
    found = examine(list_files(source, progress), config, cache, progress)
    given = any(image.item.split for image in found.images)
    own = [image.item.split or ("train" if given else "") for image in found.images]
    return Diagnosis(
        source=found.origin,
        images=len(found.images),
        classes=dict(sorted(Counter(image.item.label for image in found.images).items())),
        problems=tuple((shown(bad.item.path), bad.reason) for bad in found.rejected),
        duplicates=tuple(pairs(found, own)),
        transcoded=tuple(
            (shown(image.item.path), image.look.transcoded) for image in found.images if image.look.transcoded
        ),
        turned=tuple(shown(image.item.path) for image in found.images if image.look.orientation != 1),
        advice=tuple(_advice(found, config)),
    )


def _advice(found: Examination, config: IngestConfig) -> Iterator[str]:
    """Yields what is not wrong with any one image and may still spoil a score, or end a run."""
    try:
        deal_out([image.item for image in found.images], found.clusters, config.split, None)
    except DataError as error:
        yield f"cannot be trained on as it is: {error}"
    counts = Counter(image.item.label for image in found.images)
    lost = sorted({bad.item.label for bad in found.rejected} - counts.keys())
    for label in lost:
        yield f"class {label!r} has no usable image; it will not be learnt"
    few = sorted(label for label, count in counts.items() if count < _FEW)
    if few:
        yield f"fewer than {_FEW} images of {_some([repr(label) for label in few])}: their scores will be guesses"
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    if largest >= _IMBALANCE * smallest:
        yield f"{most!r} has {largest} images and {least!r} {smallest}: the score will speak of {most!r}"
    different = len(set(found.clusters))
    if different < len(found.images) / 2:
        yield f"only {different} of {len(found.images)} images are different: the rest are copies or share a group"


def _some(names: Sequence[str], most: int = 5) -> str:
    """Returns a few names and the number of the others."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def report(found: Diagnosis, most: int = 8) -> Iterator[tuple[str, str]]:
    """Yields (kind, line) for the terminal; kind is "title", "bad", "note" or "good".

    Args:
        found: The diagnosis.
        most: Lines for each kind of problem; the rest is counted.
    """
    yield "title", f"{shown(found.source)}: {found.images} usable images in {len(found.classes)} classes"
    if found.problems:
        yield "title", f"cannot be used: {len(found.problems)}"
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in found.problems:
        alike[re.split("[:;]", reason)[0]].append(f"{path}: {reason}")
    for lines in sorted(alike.values(), key=len, reverse=True):
        yield from _some_lines("bad", lines, most)
    harmless = [pair for pair in found.duplicates if not pair.leak]
    for title, kind, lines in (
        ("copies in different splits of yours (leaks)", "bad", [_pair_line(pair) for pair in found.leaks]),
        ("pairs that show the same picture and will share a split", "note", [_pair_line(pair) for pair in harmless]),
        ("stored anew as PNG, so that all decoders agree", "note", [f"{p}: {why}" for p, why in found.transcoded]),
        ("turned upright, as the file says (EXIF)", "note", list(found.turned)),
        ("worth knowing", "note", list(found.advice)),
    ):
        if lines:
            yield "title", f"{title}: {len(lines)}"
            yield from _some_lines(kind, lines, most)
    if not (found.problems or found.duplicates or found.advice):
        yield "good", "nothing to complain of"


def _pair_line(pair: DuplicatePair) -> str:
    line = f"{pair.kind}: {shown(pair.first_id)} and {shown(pair.second_id)}"
    if pair.first_label != pair.second_label:
        line += f", under the labels {pair.first_label!r} and {pair.second_label!r}"
    return line


def _some_lines(kind: str, lines: Sequence[str], most: int) -> Iterator[tuple[str, str]]:
    yield from ((kind, line) for line in lines[:most])
    if len(lines) > most:
        yield kind, f"... and {len(lines) - most} more like it"
