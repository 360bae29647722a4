"""Looks at the pixels of images that may be near-duplicates, and remembers what it saw."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import PIL

from pipeline.errors import PipelineError
from pipeline.files import atomic_path, read_json
from pipeline.images.headers import quiet_pillow, read_contents
from pipeline.images.pixels import read_bare, read_picture
from pipeline.ingest.duplicates import NAMED_COPIES, Crowds, Kind, Match, Proposal, Verdict, compare_pixels, propose
from pipeline.ingest.scan import Scanned
from pipeline.progress import Progress

#: Of the judgements; raise it when they would come out otherwise.
REVISION = 1

#: Longer side that pixels are kept at while pairs are compared, and how many images at once: 160 MB at the most.
_SIDE, _KEPT = 256, 800


def find_near(images: Sequence[Scanned], memory: Path, progress: Progress) -> list[Match]:
    """Returns the pairs of images that show the same picture without being equal in every pixel.

    Of images that are equal in every pixel the first is compared for all, and the first few are named. Of a picture
    that is there more than a few times not every pair is looked at: that all are one is known by then.

    Args:
        images: All of a data set.
        memory: A file of earlier judgements, by the digests of the two images; read, and written anew.
        progress: Told of every image whose copies were looked for.
    """
    copies: dict[str, list[int]] = {}
    for row, image in enumerate(images):
        copies.setdefault(image.look.pixels, []).append(row)
    signatures = [
        image.look.signature if copies[image.look.pixels][0] == row else None for row, image in enumerate(images)
    ]
    count = sum(signature is not None for signature in signatures)
    if not count:
        return []
    known, crowds, matches = _load(memory), Crowds(len(images)), list[Match]()
    before = dict(known)
    judge = functools.partial(_judge, images, functools.lru_cache(_KEPT)(_read))
    try:
        # Two at once: each holds an image at its full size.
        with quiet_pillow(), ThreadPoolExecutor(2) as threads, progress.bar("duplicates", count) as bar:
            for proposals in propose(signatures, crowds):
                keys = [_key(images, pair) for pair in proposals]
                fresh = {key: pair for key, pair in zip(keys, proposals, strict=True) if key not in known}
                for key, verdict in zip(fresh, threads.map(judge, fresh.values()), strict=True):
                    known[key] = verdict
                for key, pair in zip(keys, proposals, strict=True):
                    if known[key].same:
                        kind: Kind = "mirrored" if pair.mirrored else "near"
                        ends = (copies[images[row].look.pixels][:NAMED_COPIES] for row in pair[:2])
                        for one, other in itertools.product(*ends):
                            matches.append(Match(min(one, other), max(one, other), kind, known[key].difference))
                        crowds.join(pair.first, pair.second)
                bar.advance()
    finally:  # an interrupt must not cost what has been judged
        if known != before:
            _save(memory, known)
    return matches


def _judge(
    images: Sequence[Scanned], read: functools._lru_cache_wrapper[npt.NDArray[np.uint8]], pair: Proposal
) -> Verdict:
    one = read(images[pair.first].item.path, pair.first_face)
    other = read(images[pair.second].item.path, pair.second_face)
    return compare_pixels(one, np.ascontiguousarray(other[:, ::-1]) if pair.mirrored else other)


def _read(path: str, face: int) -> npt.NDArray[np.uint8]:
    contents = read_contents(path)
    pixels = read_bare(contents) if face else read_picture(contents, None).pixels
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _key(images: Sequence[Scanned], pair: Proposal) -> str:
    """Returns what a judgement hangs on: both pictures as they were looked at.

    What lies beneath transparent places is not in the digest of the pixels, which are over white.
    """
    sides = ((images[pair.first].look, pair.first_face), (images[pair.second].look, pair.second_face))
    names = [f"{(look.sha256 if face else look.pixels)[:32]}.{face}" for look, face in sides]
    return " ".join([*names, "mirrored"] if pair.mirrored else names)


def _version() -> list[object]:
    return [REVISION, PIL.__version__, cv2.__version__]


def _save(memory: Path, verdicts: dict[str, Verdict]) -> None:
    with atomic_path(memory) as draft:
        draft.write_text(json.dumps({"version": _version(), "pairs": verdicts}), encoding="utf-8")


def _load(memory: Path) -> dict[str, Verdict]:
    try:
        document = read_json(memory)
        if document["version"] != _version():
            return {}
        return {key: Verdict(*verdict) for key, verdict in document["pairs"].items()}
    except (PipelineError, KeyError, TypeError, AttributeError):  # not there yet, or damaged: judged anew
        return {}
