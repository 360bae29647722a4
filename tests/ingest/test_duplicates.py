"""Copies are found and likenesses are not, on pictures whose copies are made here."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from pipeline.config import IngestConfig
from pipeline.images.pixels import read_picture
from pipeline.ingest import duplicates, near
from pipeline.ingest.doctor import Diagnosis, diagnose
from pipeline.ingest.duplicates import MOST_BITS, Crowds, Proposal, cluster, compare_pixels, exact_matches
from pipeline.ingest.look import Look
from pipeline.ingest.scan import Scanned
from pipeline.ingest.signature import LARGE, SMALLEST, faces, perceptual_hash, sign
from pipeline.ingest.sources import Item
from pipeline.progress import Silent

#: Crops of scikit-learn's two photographs that share nothing: different pictures of the same kind of thing.
TILES = [
    Image.fromarray(np.ascontiguousarray(photo[top : top + 140, left : left + 210]))
    for photo in load_sample_images().images
    for top in (0, 142, 284)
    for left in (0, 214, 428)
]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(factor * image.width), round(factor * image.height)))


def cropped(image: Image.Image, *shares: float) -> Image.Image:
    left, top, right, bottom = shares
    width, height = image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop([round(edge) for edge in box])


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "q90": lambda image: jpeg(image, 90),
    "q30": lambda image: jpeg(image, 30),
    "half": lambda image: resized(image, 0.5),
    "half again": lambda image: resized(image, 1.5),
    "smaller and q50": lambda image: jpeg(resized(image, 0.7), 50),
    "cropped": lambda image: cropped(image, 0.03, 0.02, 0.04, 0.03),
    "cropped on one side": lambda image: cropped(image, 0, 0, 0.05, 0),
    "brighter": lambda image: image.point(lambda value: min(255, value + 6)),
}


def propose(signatures: list[bytes | None]) -> list[Proposal]:
    return [pair for pairs in duplicates.propose(signatures, Crowds(len(signatures))) for pair in pairs]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def found(one: Image.Image, other: Image.Image) -> str | None:
    """Returns what two images are taken for."""
    (proposal, *_) = propose([sign(pixels(one)), sign(pixels(other))]) or [None]
    if proposal is None:
        return None
    second = ImageOps.mirror(other) if proposal.mirrored else other
    return ("mirrored" if proposal.mirrored else "near") if compare_pixels(pixels(one), pixels(second)).same else None


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found(kind: str) -> None:
    caught = [found(tile, COPIES[kind](tile)) for tile in TILES]
    # Sky has nothing to hold on to, and a crop of it may go unseen.
    assert caught.count("near") >= len(TILES) - ("crop" in kind)
    assert "mirrored" not in caught


@pytest.mark.parametrize("kind", ["q90", "half", "cropped"])
def test_a_mirrored_copy_is_found_and_said_to_be_mirrored(kind: str) -> None:
    caught = [found(tile, ImageOps.mirror(COPIES[kind](tile))) for tile in TILES]
    assert caught.count("mirrored") >= len(TILES) - 2


def test_different_pictures_are_not_copies() -> None:
    signatures = [sign(pixels(tile)) for tile in TILES]
    proposals = propose(signatures)
    assert [p for p in proposals if compare_pixels(pixels(TILES[p.first]), pixels(TILES[p.second])).same] == []


def test_a_hash_alone_would_take_different_pictures_for_copies() -> None:
    """Why the pixels are looked at: two forms filled in differently, say, have the same large shapes."""
    form = np.asarray(TILES[4].filter(ImageFilter.GaussianBlur(6)), np.float64)
    filled = []
    for seed in (1, 2):
        grain = np.random.default_rng(seed).normal(0, 12, (*form.shape[:2], 1))
        strokes = cv2.GaussianBlur(grain, (0, 0), 1.2)[..., np.newaxis] * 3
        filled.append((form + strokes).clip(0, 255).astype(np.uint8))
    assert len(propose([sign(image) for image in filled])) == 1
    verdict = compare_pixels(*filled)
    assert verdict.difference < 14
    assert not verdict.same


def test_colour_counts() -> None:
    """Luma and its detail are the same: only the colours tell a red car from a blue one."""
    red = pixels(TILES[4])
    blue = red[..., ::-1] if np.abs(red[..., 0].astype(int) - red[..., 2]).mean() > 20 else None
    assert blue is not None
    assert not compare_pixels(red, np.ascontiguousarray(blue)).same


@pytest.mark.parametrize("size", [(1, 64), (200, 3), (64, 64), (3000, 70)], ids=str)
def test_odd_shapes_are_compared_without_an_error(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (proposal,) = propose([sign(image), sign(image)])
    assert proposal[:2] == (0, 1)
    assert compare_pixels(image, image).difference < 3
    for other in (pixels(TILES[0]), np.zeros((90, 90, 3), np.uint8)):
        assert not compare_pixels(image, other).same
        assert not compare_pixels(other, image).same


def test_small_images_are_compared_exactly_with_each_other() -> None:
    image = TILES[4]
    small, large = (sign(pixels(image.resize(size))) for size in ((LARGE - 1, 42), (LARGE, 43)))
    assert propose([small, small]) == []
    assert len(propose([small, large])) == len(propose([large, small])) == len(propose([large, large])) == 1
    assert sign(np.zeros((SMALLEST - 1, SMALLEST - 1, 3), np.uint8)) is None
    assert propose([None, None]) == []


def test_a_thumbnail_of_a_photograph_is_a_copy() -> None:
    assert [found(tile, resized(tile, 48 / 210)) for tile in TILES].count("near") >= len(TILES) - 1


def test_the_hash_is_the_sign_of_low_frequencies() -> None:
    """Against a cosine transform written out by its definition."""
    thumbnail = np.random.default_rng(3).uniform(0, 255, (32, 32)).astype(np.float32)
    n = np.arange(32)
    basis = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 64)
    lowest = (basis @ thumbnail @ basis.T)[:8, :8]
    scale = np.where(np.arange(8) == 0, np.sqrt(0.5), 1.0)  # of the orthonormal transform
    lowest = (lowest * np.outer(scale, scale)).ravel()
    expected = lowest > np.median(lowest[1:])
    expected[0] = thumbnail.mean() > 127.5
    assert [int(bit) for bit in f"{perceptual_hash(thumbnail):064b}"] == expected.astype(int).tolist()


def test_every_pair_within_the_distance_is_proposed() -> None:
    """Against all pairs, one by one, more images than are compared in one block."""
    random = np.random.default_rng(5)
    tiles = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(150)]
    tiles += [np.clip(tile + random.normal(0, 3, tile.shape), 0, 255).astype(np.uint8) for tile in tiles]
    signatures = [sign(tile) for tile in tiles]
    hashes = [int(faces(signature)["whole"][0]) for signature in signatures if signature]
    expected = {
        (one, other)
        for one, other in itertools.combinations(range(300), 2)
        if (hashes[one] ^ hashes[other]).bit_count() <= MOST_BITS
    }
    assert {(n, n + 150) for n in range(150)} <= expected
    assert {pair[:2] for pair in propose(signatures)} >= {(n, n + 150) for n in range(150)}


def test_exact_matches_are_all_pairs_of_few_and_some_of_many() -> None:
    assert [match[:3] for match in exact_matches(["a", "b", "a", "a", "c", "b"])] == [
        (0, 2, "exact"), (0, 3, "exact"), (2, 3, "exact"), (1, 5, "exact")
    ]  # fmt: skip
    many = list(exact_matches(["a"] * 1000))
    assert len(many) < 8000
    assert {match.second for match in many} == set(range(1, 1000))


@pytest.mark.parametrize("seed", range(20))
def test_clusters_are_connected_parts(seed: int) -> None:
    random = np.random.default_rng(seed)
    links = [tuple(random.integers(0, 40, 2).tolist()) for _ in range(int(random.integers(0, 60)))]
    reach = np.eye(40, dtype=bool)
    for one, other in links:
        reach[one, other] = reach[other, one] = True
    for _ in range(40):
        reach = reach @ reach
    assert cluster(40, links) == reach.argmax(axis=1).tolist()


def frames(root: Path, count: int) -> None:
    """Writes one picture `count` times, each with a grain of its own."""
    still = np.asarray(TILES[4], np.int16)
    for number in range(count):
        grain = np.random.default_rng(number).integers(-3, 4, still.shape)
        Image.fromarray((still + grain).clip(0, 255).astype(np.uint8)).save(root / f"frame{number:04d}.png")


def test_many_frames_of_one_scene_are_not_compared_in_pairs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty frames make 1,770 pairs, and a thousand half a million; that all are one is known after one round."""
    frames(folder / "photos" / "china", 60)
    judged: list[int] = []
    compare = near.compare_pixels

    def count(*pair: Any) -> Any:
        judged.append(1)
        return compare(*pair)

    monkeypatch.setattr(near, "compare_pixels", count)
    found = look(folder)
    assert len(judged) < 150
    named = {name for pair in found.duplicates for name in (pair.first_id, pair.second_id)}
    assert {f"china/frame{number:04d}.png" for number in range(60)} <= named


def test_of_equal_images_one_is_compared_for_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        TILES[4].save(folder / "photos" / "china" / f"copy{number}.bmp")
    compared: list[int] = []
    agreement = duplicates._agreement

    def count(*pair: Any) -> float:
        compared.append(1)
        return agreement(*pair)

    monkeypatch.setattr(duplicates, "_agreement", count)
    look(folder)
    assert len(compared) < 50


def test_an_interrupt_does_not_cost_what_was_judged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare, judged = near.compare_pixels, []

    def interrupt(*pair: Any) -> Any:
        if judged:
            raise KeyboardInterrupt
        judged.append(1)
        return compare(*pair)

    monkeypatch.setattr(near, "compare_pixels", interrupt)
    with pytest.raises(KeyboardInterrupt):
        look(folder)
    (memory,) = (folder / ".cache" / "ingest").glob("*.pairs.json")
    assert len(json.loads(memory.read_text())["pairs"]) == 1


@pytest.mark.parametrize("face", [0, 1])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_judgement_is_of_the_faces_that_were_compared(face: int, mirrored: bool) -> None:
    """Two images that are equal over white and differ beneath must not share a judgement of what lies beneath."""
    one, other = (
        Scanned(
            Item("a", "a", "a"), Look(sha256 * 64, "p" * 64, 90, 90, "PNG", "RGBA", 9, 1, False, None, None, None, None)
        )
        for sha256 in "xy"
    )
    pair = Proposal(0, 1, face, 0, mirrored)
    assert (near._key([one, other], pair) == near._key([other, other], pair)) == (face == 0)
    assert near._key([one, other], pair) != near._key([one, other], pair._replace(mirrored=not mirrored))


def test_judgements_of_another_version_are_not_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look(folder)
    (memory,) = (folder / ".cache" / "ingest").glob("*.pairs.json")
    document = json.loads(memory.read_text())
    document["pairs"] = {key: [False, 0.0] for key in document["pairs"]}
    memory.write_text(json.dumps(document))
    assert all(pair.kind == "exact" for pair in look(folder).duplicates)
    monkeypatch.setattr(near, "REVISION", near.REVISION + 1)
    assert {pair.kind for pair in look(folder).duplicates} == {"exact", "near", "mirrored"}


# Whole folders.


def look(root: Path, **settings: object) -> Diagnosis:
    return diagnose(IngestConfig(data=str(root / "photos"), **settings), root / "data", root / ".cache", Silent())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns the root of a folder of two classes with one copy of each kind."""
    for number, tile in enumerate(TILES):
        place = tmp_path / "photos" / ("china" if number < 9 else "flower")
        place.mkdir(parents=True, exist_ok=True)
        tile.save(place / f"{number}.png")
    china = tmp_path / "photos" / "china"
    TILES[3].save(china / "same.bmp")
    jpeg(TILES[4], 60).save(china / "again.jpg")
    ImageOps.mirror(TILES[5]).save(china / "mirror.png")
    return tmp_path


def test_copies_in_a_folder_are_named(folder: Path) -> None:
    pairs = {(pair.first_id, pair.second_id, pair.kind) for pair in look(folder).duplicates}
    assert pairs == {
        ("china/3.png", "china/same.bmp", "exact"),
        ("china/4.png", "china/again.jpg", "near"),
        ("china/5.png", "china/mirror.png", "mirrored"),
    }
    exact = look(folder, duplicates="exact").duplicates
    assert [(pair.first_id, pair.second_id) for pair in exact] == [("china/3.png", "china/same.bmp")]


def test_a_transparent_picture_saved_as_jpeg_is_a_copy(folder: Path) -> None:
    """Saving drops the transparency, and what lies below it shows: white in the one, black in the other."""
    y, x = np.mgrid[0:1:140j, 0:1:210j]
    alpha = (((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.16) * 255).astype(np.uint8)
    colours = np.where(alpha[..., np.newaxis] > 0, pixels(TILES[7]), 0).astype(np.uint8)
    cut = Image.fromarray(np.dstack([colours, alpha]))
    cut.save(folder / "photos" / "china" / "cut.png")
    cut.convert("RGB").save(folder / "photos" / "china" / "flat.jpg", quality=80)
    assert ("china/cut.png", "china/flat.jpg") in {(pair.first_id, pair.second_id) for pair in look(folder).duplicates}


def test_pairs_are_judged_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = look(folder)
    monkeypatch.setattr(near, "compare_pixels", lambda *_: pytest.fail("judged anew"))
    assert look(folder) == first
    (memory,) = (folder / ".cache" / "ingest").glob("*.pairs.json")
    memory.write_text("{damaged")
    monkeypatch.undo()
    assert look(folder) == first


def test_what_was_judged_is_of_the_pixels_not_of_the_names(folder: Path) -> None:
    china = folder / "photos" / "china"
    before = look(folder)
    TILES[8].save(china / "again.jpg")  # another picture under the name of a copy
    pairs = {(pair.first_id, pair.second_id) for pair in look(folder).duplicates}
    assert ("china/4.png", "china/again.jpg") not in pairs
    assert ("china/8.png", "china/again.jpg") in pairs
    assert len(before.duplicates) == len(look(folder).duplicates)


def test_decoded_pixels_decide_what_is_exact(folder: Path) -> None:
    china = folder / "photos" / "china"
    bmp, png = (read_picture((china / name).read_bytes(), None).pixels for name in ("same.bmp", "3.png"))
    assert (bmp == png).all()
    assert (china / "same.bmp").read_bytes() != (china / "3.png").read_bytes()
