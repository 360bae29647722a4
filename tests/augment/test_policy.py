from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import pickle
import subprocess
import sys

import albumentations
import numpy as np
import pytest
from scipy.ndimage import center_of_mass, gaussian_filter

from pipeline.augment.policy import Policy, load_policy
from pipeline.augment.table import AUGMENTATIONS, IGNORED_ID
from pipeline.errors import ConfigError

SHAPES = [(40, 60, 3), (40, 60, 1), (8, 8, 1)]


def random_image(shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def always(name, **parameters):
    return load_policy([{name: {"probability": 1.0, **parameters}}])


def everything(probability=0.5):
    return load_policy([{name: {"probability": probability}} for name in AUGMENTATIONS])


# The contract of a row: a new one is tested by being in the table.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_row_keeps_shape_and_type_and_leaves_its_input_alone(name, shape):
    image = random_image(shape)
    given = image.copy()
    given.setflags(write=False)
    for seed in (-(2**63), -1, 0, 2**63 - 1):
        augmented = always(name).apply(given, seed)
        assert augmented.shape == shape
        assert augmented.dtype == np.uint8
        assert augmented.flags.c_contiguous
        assert not np.shares_memory(augmented, given)
    np.testing.assert_array_equal(given, image)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_row_does_something_and_at_probability_0_nothing(name, shape):
    image = random_image(shape)
    never = load_policy([{name: {"probability": 0}}])
    assert any(not np.array_equal(always(name).apply(image, seed), image) for seed in range(5))
    assert all(np.array_equal(never.apply(image, seed), image) for seed in range(20))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_row_gives_the_pixels_of_its_seed_whatever_came_before(name):
    image = random_image((40, 60, 3))
    policy = load_policy([name])
    forwards = [policy.apply(image, seed) for seed in range(30)]
    policy.apply(image[:20], 5)  # another shape between
    backwards = [policy.apply(image, seed) for seed in reversed(range(30))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert len({augmented.tobytes() for augmented in forwards}) > 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_row_says_what_it_does_and_where_it_is_valid(name):
    row = AUGMENTATIONS[name]
    assert row.__doc__
    assert row.tasks <= {"classification", "segmentation"}
    assert "classification" in row.tasks
    (caption,) = load_policy([name]).captions
    assert "{" not in caption


@pytest.mark.parametrize("name", [name for name, row in AUGMENTATIONS.items() if "segmentation" in row.tasks])
def test_row_for_segmentation_invents_no_mask_id(name):
    image = random_image((40, 60, 3))
    mask = np.random.default_rng(1).choice(np.array([0, 1, IGNORED_ID], np.uint8), (40, 60))
    compose = albumentations.Compose([AUGMENTATIONS[name](probability=1.0).build(image.shape)], seed=0)
    for _ in range(20):
        augmented = compose(image=image, mask=mask)["mask"]
        assert augmented.shape == mask.shape
        assert set(np.unique(augmented)) <= {0, 1, IGNORED_ID}


def changed(value):
    match value:
        case str():
            return "reflect"
        case tuple():
            return (value[0], value[0])
        case int():
            return value - 1
    return value / 2


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_digest_changes_with_every_parameter(name):
    default = AUGMENTATIONS[name]()
    digests = {load_policy([name]).digest}
    for parameter, value in default:
        digests.add(load_policy([{name: {parameter: changed(value)}}]).digest)
    assert len(digests) == 1 + len(AUGMENTATIONS[name].model_fields)


def test_row_with_an_argument_that_albumentations_does_not_know_fails():
    with pytest.raises(ValueError, match="'limits' are not valid"):
        AUGMENTATIONS["blur"]()._make(albumentations.Rotate, limits=10)


# What each one does to pixels, against NumPy, SciPy and geometry.


@pytest.mark.parametrize("channels", [1, 3])
def test_flips_are_numpys(channels):
    image = random_image((40, 60, channels))
    np.testing.assert_array_equal(always("flip_left_right").apply(image, 0), image[:, ::-1])
    np.testing.assert_array_equal(always("flip_up_down").apply(image, 0), image[::-1])


@pytest.mark.parametrize("border", ["wrap", "reflect", "constant"])
def test_shift_is_a_padded_image_seen_through_a_moved_window(border):
    image = random_image((60, 70, 3))  # over 51 pixels, else a wrapped offset has two names
    padded = np.pad(image, ((25, 25), (25, 25), (0, 0)), mode=border)
    windows = {padded[y : y + 60, x : x + 70].tobytes(): (25 - y, 25 - x) for y in range(51) for x in range(51)}
    policy = always("shift", border=border)
    offsets = [windows[policy.apply(image, seed).tobytes()] for seed in range(200)]  # KeyError: not a shift by <= 25
    for axis in (0, 1):
        moved = [offset[axis] for offset in offsets]
        assert min(moved) < -20
        assert max(moved) > 20


def test_shift_that_wraps_is_a_roll():
    image = random_image((8, 8, 1))
    rolls = {np.roll(image, (y, x), (0, 1)).tobytes() for y in range(8) for x in range(8)}
    policy = always("shift")  # by up to 25 pixels, three times round an image of 8
    assert {policy.apply(image, seed).tobytes() for seed in range(500)} == rolls


def test_rotate_turns_a_dot_about_the_centre_by_up_to_its_degrees():
    y, x = np.mgrid[:101, :101]
    image = (255 * np.exp(-((y - 50) ** 2 + (x - 70) ** 2) / 18)).astype(np.uint8)[..., None]  # 20 right of the centre
    angles = []
    for seed in range(200):
        down, right, _ = np.subtract(center_of_mass(always("rotate").apply(image, seed)), (50, 50, 0))
        assert np.hypot(down, right) == pytest.approx(20, abs=0.2)
        angles.append(np.degrees(np.arctan2(down, right)))
    assert -45.5 < min(angles) < -40
    assert 40 < max(angles) < 45.5


@pytest.mark.parametrize(("border", "corner"), [("wrap", 200), ("reflect", 200), ("constant", 0)])
def test_rotate_fills_the_corners_as_told(border, corner):
    image = np.full((40, 60, 3), 200, np.uint8)
    augmented = always("rotate", border=border).apply(image, 1)
    assert augmented.min() == corner


def test_constant_border_leaves_what_it_invents_out_of_a_mask():
    image, mask = np.full((40, 60, 3), 200, np.uint8), np.ones((40, 60), np.uint8)
    rotate = AUGMENTATIONS["rotate"](border="constant", probability=1.0).build(image.shape)
    assert set(np.unique(albumentations.Compose([rotate], seed=1)(image=image, mask=mask)["mask"])) == {1, IGNORED_ID}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [0.01, 0.155])
def test_noise_has_its_sigma_and_no_mean(sigma, channels):
    noise = always("noise", sigma=sigma).apply(np.full((300, 300, channels), 128, np.uint8), 7) - 128.0
    assert noise.std() == pytest.approx(sigma * 255, rel=0.02)
    assert abs(noise.mean()) < 4 * sigma * 255 / np.sqrt(noise.size)
    if channels == 3:
        assert abs(np.corrcoef(noise.reshape(-1, 3), rowvar=False)[0, 1]) < 0.02


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_blur_is_scipys(sigma, channels):
    image = random_image((40, 60, channels))
    expected = gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror")
    np.testing.assert_allclose(always("blur", sigma=sigma).apply(image, 0), expected, atol=1)


def test_resized_crop_enlarges_a_part_with_its_share_of_the_area():
    y, x = np.mgrid[:200, :240]
    image = np.stack([y, x, np.zeros_like(y)], axis=-1).astype(np.uint8)  # each pixel holds its own place
    shares = []
    for seed in range(100):
        part = always("resized_crop", scale=(0.3, 0.8)).apply(image, seed).astype(int)
        height, width = np.ptp(part[:, 0, 0]) + 1, np.ptp(part[0, :, 1]) + 1
        assert 0.73 < width / height < 1.36
        shares.append(height * width / (200 * 240))
    assert 0.29 < min(shares) < 0.4
    assert 0.7 < max(shares) < 0.82


def test_color_jitter_scales_brightness():
    image = np.full((8, 8, 3), 100, np.uint8)
    policy = always("color_jitter", contrast=0, saturation=0, hue=0)
    levels = [int(policy.apply(image, seed)[0, 0, 0]) for seed in range(200)]
    assert 79 <= min(levels) < 83
    assert 117 < max(levels) <= 120


def test_color_jitter_turns_no_gray_into_a_color():
    gray = random_image((40, 60, 1))
    policy = always("color_jitter", brightness=0, contrast=0, saturation=1, hue=0.5)
    np.testing.assert_array_equal(policy.apply(gray, 3), gray)
    jittered = policy.apply(np.repeat(gray, 3, axis=-1), 3)
    np.testing.assert_array_equal(jittered.min(axis=-1), jittered.max(axis=-1))


def test_coarse_dropout_cuts_rectangles_of_its_size():
    image = np.full((40, 60, 3), 200, np.uint8)
    dropped = always("coarse_dropout", holes=(1, 1), size=(0.25, 0.25)).apply(image, 0)
    assert (dropped == 0).sum() == 10 * 15 * 3
    assert set(np.unique(dropped)) == {0, 200}
    assert always("coarse_dropout", size=(1, 1)).apply(image, 0).max() == 0


def test_coarse_dropout_cuts_a_pixel_at_least():
    image = np.full((8, 8, 1), 200, np.uint8)
    policy = always("coarse_dropout", holes=(1, 1), size=(0.01, 0.05))
    assert all((policy.apply(image, seed) == 0).sum() == 1 for seed in range(20))


# The policy.


def test_probability_is_a_share_of_the_seeds():
    image = random_image((8, 8, 1))
    policy = load_policy([{"flip_left_right": {"probability": 0.3}}])
    flipped = [not np.array_equal(policy.apply(image, seed), image) for seed in range(1000)]
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.06)


def test_transforms_are_drawn_independently_of_each_other():
    image = random_image((8, 8, 1))
    policy = load_policy(["flip_left_right", "flip_up_down"])
    outcomes = [policy.apply(image, seed).tobytes() for seed in range(1000)]
    for expected in (image, image[:, ::-1], image[::-1], image[::-1, ::-1]):
        assert outcomes.count(expected.tobytes()) == pytest.approx(250, abs=60)


def test_transforms_are_applied_in_order():
    image = np.full((8, 8, 1), 200, np.uint8)
    blacken, noise = {"coarse_dropout": {"probability": 1, "size": [1, 1]}}, {"noise": {"probability": 1}}
    assert load_policy([noise, blacken]).apply(image, 0).max() == 0
    assert load_policy([blacken, noise]).apply(image, 0).max() > 0


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_seed_gives_the_same_pixels_in_any_number_of_threads(threads):
    images, seeds = np.stack([random_image((40, 60, 3))] * 64), np.arange(64)
    policy = everything()
    expected = policy.apply_batch(images, seeds)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        np.testing.assert_array_equal(list(pool.map(policy.apply, images, seeds)), expected)


def test_seed_gives_the_same_pixels_in_another_process():
    images, seeds = np.stack([random_image((40, 60, 3))] * 16), np.arange(16)
    policy = everything()
    expected = policy.apply_batch(images, seeds)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(policy.apply_batch, images, seeds).result(), expected)


def test_copy_is_equal_and_gives_the_same_pixels():
    image, policy = random_image((40, 60, 3)), everything()
    before = policy.apply(image, 1)
    for copy in (pickle.loads(pickle.dumps(policy)), load_policy(policy.describe())):
        assert copy == policy
        assert copy.digest == policy.digest
        np.testing.assert_array_equal(copy.apply(image, 1), before)


def test_two_policies_in_turn_do_not_mix():
    image = random_image((8, 8, 1))
    left_right, up_down = always("flip_left_right"), always("flip_up_down")
    for _ in range(2):
        np.testing.assert_array_equal(left_right.apply(image, 0), image[:, ::-1])
        np.testing.assert_array_equal(up_down.apply(image, 0), image[::-1])


def test_apply_batch_gives_each_image_its_seed():
    images = random_image((5, 8, 8, 3))
    seeds = np.array([3, -1, 3, 2**62, 0], np.int64)
    batch = everything().apply_batch(images, seeds)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, [everything().apply(i, int(s)) for i, s in zip(images, seeds, strict=True)])
    with pytest.raises(ValueError, match="zip"):
        everything().apply_batch(images, seeds[:3])


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)], ids=["float", "2", "4"]
)
def test_apply_refuses_what_is_not_an_image(image):
    with pytest.raises(ValueError, match=r"\(H, W, 1 or 3\) uint8"):
        everything().apply(image, 0)


def test_empty_policy_is_false_and_the_identity():
    image = random_image((8, 8, 3))
    empty = load_policy([])
    assert not empty
    assert empty == Policy()
    assert (empty.names, empty.describe()) == ((), [])
    np.testing.assert_array_equal(empty.apply(image, 0), image)
    assert everything()


def test_describe_fills_in_defaults_and_is_json():
    policy = load_policy([{"rotate": {"degrees": 10}}, {"resized_crop": None}, "flip_up_down"])
    assert policy.names == ("rotate", "resized_crop", "flip_up_down")
    assert json.loads(json.dumps(policy.describe())) == [
        {"rotate": {"degrees": 10.0, "border": "wrap", "probability": 0.5}},
        {"resized_crop": {"scale": [0.6, 1.0], "ratio": [0.75, 1.333], "probability": 0.5}},
        {"flip_up_down": {"probability": 0.5}},
    ]


def test_digest_tells_order_and_library_versions(monkeypatch):
    digest = load_policy(["blur", "noise"]).digest
    assert len(digest) == 64
    assert digest == load_policy([{"blur": {"sigma": 1}}, {"noise": {}}]).digest
    assert digest != load_policy(["noise", "blur"]).digest
    monkeypatch.setattr("cv2.__version__", "0.0.0")
    assert digest != load_policy(["blur", "noise"]).digest
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    assert digest != load_policy(["blur", "noise"]).digest


def test_task_leaves_out_what_is_not_valid_for_it():
    policy = load_policy(["blur", "coarse_dropout", "rotate"])
    assert policy.ignored_for("classification") == []
    assert policy.for_task("classification") == policy
    assert policy.ignored_for("segmentation") == ["coarse_dropout"]
    assert policy.for_task("segmentation") == load_policy(["blur", "rotate"])


def test_only_is_one_transform_always():
    policy = load_policy([{"blur": {"probability": 0}}, {"rotate": {"degrees": 10, "probability": 0.1}}])
    assert policy.only(1).describe() == [{"rotate": {"degrees": 10.0, "border": "wrap", "probability": 1.0}}]


# Errors.


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("rotat", "unknown augmentation 'rotat'; did you mean 'rotate'?"),
        ({"zzz": {}}, "unknown augmentation 'zzz'; allowed: blur, coarse_dropout, "),
        (7, "found 7, allowed: one name, or one name and its parameters"),
        ({"blur": {}, "noise": {}}, "found {'blur': {}, 'noise': {}}, allowed: one name, or one name and"),
    ],
)
def test_load_policy_names_the_wrong_item(item, message):
    with pytest.raises(ConfigError) as error:
        load_policy(["blur", item])
    assert str(error.value).startswith(f"augment.transforms[1]: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("rotate", 10, ": found 10, allowed: a mapping of parameters"),
        ("rotate", {"degree": 10}, ".degree: unknown parameter; did you mean 'degrees'?"),
        ("rotate", {"p": 1}, ".p: unknown parameter; allowed: border, degrees, probability"),
        ("rotate", {1: 2}, ".1: unknown parameter; allowed: border, degrees, probability"),
        ("rotate", {"degrees": 400}, ".degrees: found 400, allowed: a number from 0 to 180"),
        ("rotate", {"degrees": True}, ".degrees: found True, allowed: a number from 0 to 180"),
        ("rotate", {"degrees": float("nan")}, ".degrees: found nan, allowed: a number from 0 to 180"),
        ("rotate", {"border": "mirror"}, ".border: found 'mirror', allowed: 'wrap', 'reflect' or 'constant'"),
        ("shift", {"pixels": 2.5}, ".pixels: found 2.5, allowed: a whole number from 0 to 1000"),
        ("noise", {"probability": 1.5}, ".probability: found 1.5, allowed: a number from 0 to 1"),
        (
            "resized_crop",
            {"scale": [1, 0.5]},
            ".scale: found [1, 0.5], allowed: two numbers from 0.01 to 1, the smaller one first",
        ),
        (
            "coarse_dropout",
            {"holes": [1]},
            ".holes: found [1], allowed: two whole numbers from 1 to 100, the smaller one first",
        ),
    ],
)
def test_load_policy_names_the_wrong_parameter(name, parameters, message):
    with pytest.raises(ConfigError) as error:
        load_policy([{name: parameters}])
    assert str(error.value) == f"augment.transforms[0].{name}{message}"


@pytest.mark.parametrize("transforms", ["blur", {"rotate": {"degrees": 10}}])
def test_load_policy_wants_a_list(transforms):
    with pytest.raises(ConfigError, match="allowed: a list of augmentations"):
        load_policy(transforms)


def test_reading_a_recipe_loads_no_heavy_library():
    script = """
import sys
from pipeline.augment.policy import load_policy
load_policy(["rotate", {"blur": {"sigma": 2}}]).describe()
print({"albumentations", "cv2", "tensorflow", "keras"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
