from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.augment.policy import load_policy
from pipeline.augment.preview import CELL, save_preview
from pipeline.figures import DPI


def flat_image(color, shape=(30, 30)):
    return np.broadcast_to(np.array(color, np.uint8), (*shape, len(color))).copy()


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def columns_of(picture, color):
    """Counts the separate stretches of columns in which a color is seen."""
    seen = (picture == color).all(axis=-1).any(axis=0)
    return int((np.diff(np.concatenate([[False], seen]).astype(int)) == 1).sum())


@pytest.mark.parametrize(
    ("transforms", "columns"),
    [([], 1), (["flip_up_down"], 1 + 1 + 3), (["flip_up_down", "flip_left_right", "rotate"], 1 + 3 + 3)],
    ids=str,
)
def test_columns_are_the_original_each_alone_and_three_draws(tmp_path, transforms, columns):
    path = tmp_path / "augment.png"
    save_preview([flat_image((200, 30, 60))], ["red"], load_policy(transforms), path)
    assert columns_of(pixels(path), (200, 30, 60)) == columns


def test_row_is_an_image_and_gray_stays_gray(tmp_path):
    path = tmp_path / "augment.png"
    images = [flat_image((200, 30, 60)), flat_image((90,)), flat_image((10, 20, 220), shape=(20, 40))]
    save_preview(images, ["red", "gray", "wide"], load_policy(["flip_up_down"]), path)
    picture = pixels(path)
    counts = [(picture == color).all(axis=-1).sum(axis=1) for color in ((200, 30, 60), (90, 90, 90), (10, 20, 220))]
    tops = [np.argmax(count > 100) for count in counts]  # smoothed letters have a few pixels of any gray
    assert 0 < tops[0] < tops[1] < tops[2]


def test_small_image_keeps_its_pixels(tmp_path):
    path = tmp_path / "augment.png"
    checkers = np.indices((8, 8)).sum(axis=0, dtype=np.uint8)[..., None] % 2 * 200 + 20
    save_preview([checkers], [""], load_policy([]), path)
    picture = pixels(path)
    shown = np.isin(picture, (20, 220)).all(axis=-1).mean(axis=1)
    assert shown.max() > 0.9 * CELL * DPI / picture.shape[1]  # a line of it is all two levels, none between


def test_seed_draws_the_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        save_preview([image], ["noisy"], load_policy(["rotate", "noise"]), path, seed=seed)
    first, same, other = (path.read_bytes() for path in paths)
    assert first == same
    assert first != other


def test_long_title_is_cut_and_a_dollar_is_only_a_character(tmp_path):
    images = [flat_image((200, 30, 60))] * 2
    sizes = []
    for title in ("a fifteen wide " * 4, "a fifteen wide " * 40):
        save_preview(images, [title, r"$\frac$ {5"], load_policy([]), tmp_path / "augment.png")
        sizes.append(pixels(tmp_path / "augment.png").shape)
    assert abs(sizes[0][1] - sizes[1][1]) < 20
    assert sizes[0][0] == sizes[1][0]


def test_a_title_no_font_can_write_is_drawn_without_a_warning(tmp_path):
    save_preview([flat_image((200, 30, 60))], ["\N{DOG FACE} \n\udcff"], load_policy([]), tmp_path / "augment.png")
    assert columns_of(pixels(tmp_path / "augment.png"), (200, 30, 60)) == 1


def test_replaces_the_picture_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "augment.png"
    path.write_bytes(b"an older picture")
    save_preview([flat_image((200, 30, 60))], ["red"], load_policy([]), path)
    assert columns_of(pixels(path), (200, 30, 60)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_titles_match_images():
    with pytest.raises(ValueError, match="zip"):
        save_preview([flat_image((1, 2, 3))], ["one", "two"], load_policy([]), None)
