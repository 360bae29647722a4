"""Looks at the pixels of images that may be near-duplicates, and remembers what it saw."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.files import read_json, write_json
from pipeline.images.headers import quiet_pillow
from pipeline.images.pixels import read_bare, read_picture
from pipeline.ingest.duplicates import Match, Proposal, Verdict, compare_pixels, propose
from pipeline.ingest.scan import Scanned
from pipeline.progress import Progress

#: Of the judgements; raise it when they would come out otherwise.
REVISION = 1

#: Longer side that pixels are kept at while pairs are compared, and how many images at once: 160 MB at the most.
_SIDE, _KEPT = 256, 800


def find_near(images: Sequence[Scanned], memory: Path, progress: Progress) -> list[Match]:
    """Returns the pairs of images that show the same picture without being equal in every pixel.

    Args:
        images: All of a data set.
        memory: A file of earlier judgements, by the digests of the two images; read, and written anew.
        progress: Told of every pair that is looked at.
    """
    proposals = [
        proposal
        for proposal in propose([image.look.signature for image in images])
        if images[proposal.first].look.pixels != images[proposal.second].look.pixels
    ]
    if not proposals:
        return []
    keys = [_key(images, proposal) for proposal in proposals]
    known = _load(memory)
    fresh = [(key, proposal) for key, proposal in zip(keys, proposals, strict=True) if key not in known]
    judge = functools.partial(_judge, images, functools.lru_cache(_KEPT)(_read))
    if fresh:
        with quiet_pillow(), ThreadPoolExecutor() as threads, progress.bar("duplicates", len(fresh)) as bar:
            for (key, _), verdict in zip(fresh, threads.map(judge, (pair for _, pair in fresh)), strict=True):
                known[key] = verdict
                bar.advance()
        write_json(memory, {"revision": REVISION, "pairs": {key: known[key] for key in keys}})
    return [
        Match(pair.first, pair.second, "mirrored" if pair.mirrored else "near", known[key].difference)
        for key, pair in zip(keys, proposals, strict=True)
        if known[key].same
    ]


def _judge(
    images: Sequence[Scanned], read: functools._lru_cache_wrapper[npt.NDArray[np.uint8]], pair: Proposal
) -> Verdict:
    one = read(images[pair.first].item.path, pair.first_face)
    other = read(images[pair.second].item.path, pair.second_face)
    return compare_pixels(one, np.ascontiguousarray(other[:, ::-1]) if pair.mirrored else other)


def _read(path: str, face: int) -> npt.NDArray[np.uint8]:
    contents = Path(path).read_bytes()
    pixels = read_bare(contents) if face else read_picture(contents, None).pixels
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _key(images: Sequence[Scanned], pair: Proposal) -> str:
    one, other = images[pair.first].look.pixels, images[pair.second].look.pixels
    return f"{one[:32]} {other[:32]} {pair.first_face}{pair.second_face}{int(pair.mirrored)}"


def _load(memory: Path) -> dict[str, Verdict]:
    try:
        document = read_json(memory)
        if document["revision"] != REVISION:
            return {}
        return {key: Verdict(*verdict) for key, verdict in document["pairs"].items()}
    except (PipelineError, KeyError, TypeError, AttributeError):  # not there yet, or damaged: judged anew
        return {}
