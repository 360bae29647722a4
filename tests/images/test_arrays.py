"""Every computation against a plain one in NumPy."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from pipeline.images import arrays
from pipeline.images.arrays import (
    channel_alone,
    channel_histograms,
    circular_mask,
    histogram_mean,
    histogram_percentile,
    is_gray,
    letterbox,
    luma,
    pixel_crop,
    reduce_image,
    sobel_magnitude,
    stretch_contrast,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


SHAPES = [(1, 1), (1, 40), (40, 1), (8, 8), (37, 53)]


@pytest.fixture(params=[None, 64], ids=["one strip", "strips"])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(arrays, "STRIP_PIXELS", request.param)


def test_luma_is_that_of_bt_601_and_of_gray_the_gray_itself() -> None:
    pixels = noise(64, 64)
    exact = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma(pixels) - exact).max() <= 1.0
    assert abs(float((luma(pixels) - exact).mean())) < 0.05
    gray = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    np.testing.assert_array_equal(luma(gray)[0], np.arange(256))


@pytest.mark.usefixtures("strips")
def test_gray_is_three_equal_channels() -> None:
    gray = noise(30, 20)[..., :1].repeat(3, axis=2)
    assert is_gray(gray)
    gray[-1, -1, 2] ^= 1
    assert not is_gray(gray)


def test_channels_alone_add_up_to_the_image() -> None:
    pixels = noise(9, 7)
    parts = [channel_alone(pixels, channel) for channel in range(3)]
    np.testing.assert_array_equal(sum(part.astype(int) for part in parts), pixels)
    assert not parts[1][..., [0, 2]].any()


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_histograms_count_every_pixel(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    counts = channel_histograms(pixels)
    for channel in range(3):
        np.testing.assert_array_equal(counts[channel], np.histogram(pixels[..., channel], np.arange(257))[0])
        assert histogram_mean(counts[channel]) == pytest.approx(pixels[..., channel].mean())
    np.testing.assert_array_equal(counts[3], np.bincount(luma(pixels).ravel(), minlength=256))


@pytest.mark.parametrize("percent", [0.001, 2, 25, 50, 98, 100])
def test_percentiles_are_those_of_numpy(percent: float) -> None:
    levels = noise(31, 17)[..., 0]
    counts = np.bincount(levels.ravel(), minlength=256)
    assert histogram_percentile(counts, percent) == np.percentile(levels, percent, method="inverted_cdf")


def test_contrast_is_stretched_over_the_whole_range() -> None:
    pixels = np.array([[[40, 50, 60], [110, 180, 200]]], np.uint8)
    np.testing.assert_array_equal(stretch_contrast(pixels, 50, 180), [[[0, 0, 20], [118, 255, 255]]])
    np.testing.assert_array_equal(stretch_contrast(pixels, 70, 70), pixels)
    np.testing.assert_array_equal(stretch_contrast(noise(5, 5), 0, 255), noise(5, 5))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sobel_is_the_convolution_by_hand(shape: tuple[int, int]) -> None:
    gray = noise(*shape)[..., 0]
    padded = np.pad(gray.astype(float), 1, mode="edge")
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    height, width = shape
    across, down = np.zeros(shape), np.zeros(shape)
    for row, column in np.ndindex(3, 3):
        window = padded[row : row + height, column : column + width]
        across += kernel[row, column] * window
        down += kernel.T[row, column] * window
    np.testing.assert_allclose(sobel_magnitude(gray), np.sqrt(across**2 + down**2), rtol=1e-5, atol=1e-3)


def test_sobel_stays_in_its_range() -> None:
    step = np.zeros((4, 4), np.uint8)
    step[:, 2:] = 255
    assert sobel_magnitude(step).max() == 4 * 255
    assert max(sobel_magnitude(noise(50, 50, seed)[..., 0] // 128 * 255).max() for seed in range(5)) <= 1443


@pytest.mark.parametrize("shape", [(8, 8), (7, 12), (1, 30)], ids=str)
def test_mask_blackens_what_lies_outside_the_circle(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 200, np.uint8)
    masked = circular_mask(pixels)
    height, width = shape
    for row, column in np.ndindex(shape):
        distance = (row + 0.5 - height / 2) ** 2 + (column + 0.5 - width / 2) ** 2
        assert masked[row, column, 0] == (0 if distance > height * width / 4 else 200)
    np.testing.assert_array_equal(masked, masked[::-1, ::-1])
    assert (pixels == 200).all()


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("shape", [(40, 60), (9, 30), (60, 8)], ids=str)
def test_crop_lies_where_there_is_most_detail(shape: tuple[int, int]) -> None:
    pixels = noise(*shape, seed=3)
    detail = sobel_magnitude(luma(pixels)).astype(float)
    windows = np.lib.stride_tricks.sliding_window_view(detail, (8, 8)).sum(axis=(2, 3))
    crop = pixel_crop(pixels, 8, 8)
    assert windows[crop.top, crop.left] == pytest.approx(windows.max())
    np.testing.assert_array_equal(crop.pixels, pixels[crop.top : crop.top + 8, crop.left : crop.left + 8])


@pytest.mark.parametrize(("shape", "cropped"), [((3, 50), (3, 11)), ((5, 5), (5, 5)), ((1, 1), (1, 1))], ids=str)
def test_crop_of_a_small_image_is_smaller(shape: tuple[int, int], cropped: tuple[int, int]) -> None:
    assert pixel_crop(noise(*shape), 8, 11).pixels.shape == (*cropped, 3)


def test_crop_of_a_constant_image_is_its_first_corner() -> None:
    crop = pixel_crop(np.full((30, 30, 3), 7, np.uint8))
    assert (crop.top, crop.left) == (0, 0)


def test_reducing_averages_and_never_enlarges() -> None:
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)[..., None].repeat(3, axis=2)
    reduced = reduce_image(checkers, 16)
    assert reduced.shape == (16, 16, 3)
    assert (reduced == 100).all()  # one pixel of two, or of four, would be 0 or 200
    assert reduce_image(checkers, 64) is checkers
    assert reduce_image(noise(1, 1000), 10).shape == (1, 10, 3)


def test_letterbox_shows_all_of_the_image_unstretched() -> None:
    wide = np.full((10, 40, 3), 90, np.uint8)
    frame = letterbox(wide, 100, 100, 255)
    rows, columns = np.nonzero(frame[..., 0] == 90)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 80)  # whole factor 2, and in the middle:
    assert (rows.min(), columns.min()) == (40, 10)
    large = letterbox(np.full((300, 600, 3), 90, np.uint8), 100, 100, 255)
    assert (large[..., 0] == 90).sum() == 50 * 100


def test_a_hundred_megapixels_take_seconds_and_little_memory() -> None:
    pixels = np.zeros((10_000, 10_000, 3), np.uint8)
    pixels[7000:7020, 5000:5020] = noise(20, 20)
    tracemalloc.start()
    began = time.perf_counter()
    crop, counts = pixel_crop(pixels), channel_histograms(pixels)
    seconds, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 7000 - 8 < crop.top < 7020
    assert counts.sum() == 4 * 10**8
    assert seconds < 30
    assert peak < 200e6
