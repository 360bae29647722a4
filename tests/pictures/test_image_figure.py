"""The picture of one image says what its pixels say."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from pipeline.figures import save_figure
from pipeline.images.arrays import channel_histograms, luma, pixel_crop, sobel_magnitude
from pipeline.images.headers import Header
from pipeline.pictures.image import contour_levels, file_facts, image_facts, image_figure, level_facts


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def gray(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., :1].repeat(3, axis=2)


def panel(figure: Figure, name: str) -> Axes:
    (found,) = [axes for axes in figure.axes if name in [text.get_text() for text in axes.texts]]
    return found


def names(figure: Figure) -> set[str]:
    return {axes.texts[0].get_text() for axes in figure.axes}


def shown(figure: Figure, name: str) -> np.ndarray:
    return np.asarray(panel(figure, name).images[0].get_array())


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_panels_show_what_their_names_say() -> None:
    pixels = noise(20, 30)
    figure = image_figure(pixels, "noise.png", {})
    np.testing.assert_array_equal(shown(figure, "the picture"), pixels)
    np.testing.assert_array_equal(shown(figure, "green channel"), pixels[..., 1])
    alone = shown(figure, "blue alone")
    np.testing.assert_array_equal(alone[..., 2], pixels[..., 2])
    assert not alone[..., :2].any()
    np.testing.assert_array_equal(shown(figure, "red + green + blue"), pixels)
    np.testing.assert_array_equal(shown(figure, "gray"), luma(pixels))
    edges = sobel_magnitude(luma(pixels))
    white = np.percentile(edges, 99.5)
    np.testing.assert_allclose(shown(figure, "edges"), (edges / white * 255).clip(0, 255), atol=0.51)
    assert not shown(figure, "circular mask")[0, 0].any()


def test_gray_image_is_called_gray_and_its_channels_are_not_repeated() -> None:
    figure = image_figure(gray(noise(20, 30)), "gray.png", {})
    assert not {"red channel", "red alone", "gray"} & names(figure)
    assert {"contrast-stretched", "contour", "edges", "circular mask", "histogram", "facts"} <= names(figure)
    assert "3, all equal: gray" in words(figure)


@pytest.mark.parametrize("as_gray", [False, True])
def test_numbers_written_into_the_crop_are_its_pixels(as_gray: bool) -> None:
    pixels = gray(noise(30, 30)) if as_gray else noise(30, 30)
    figure = image_figure(pixels, "", {})
    crop = pixel_crop(pixels, 8, 8)
    written = {text.get_position(): text.get_text() for text in panel(figure, "pixel by pixel").texts}
    for row, column in np.ndindex(8, 8):
        values = crop.pixels[row, column][: 1 if as_gray else 3]
        assert written[column, row] == "\n".join(map(str, values))
    box = panel(figure, "the picture").patches[0]
    assert (box.get_x() + 0.5, box.get_y() + 0.5) == (crop.left, crop.top)
    assert (box.get_width(), box.get_height()) == (8, 8)


def test_facts_are_of_every_pixel() -> None:
    pixels = noise(2000, 1500)
    pixels[3, 4] = (255, 0, 9)
    found = image_facts(pixels, {"format": "JPEG"})
    assert next(iter(found)) == "format"
    assert found["shape"] == "(2000, 1500, 3)"
    assert found["dimensions"] == "3"
    assert found["size"] == "9,000,000 values"
    assert found["array"] == "ndarray of uint8"
    levels = level_facts(channel_histograms(pixels), gray=False)
    for channel, name in enumerate(("red", "green", "blue")):
        plane = pixels[..., channel]
        assert levels[name] == (plane.min(), plane.max(), pytest.approx(plane.mean()))
    assert levels["all values"] == (pixels.min(), pixels.max(), pytest.approx(pixels.mean()))
    written = words(image_figure(pixels, "", {"file": "123 bytes"}))
    assert {"123 bytes", f"{pixels.mean():.2f}", "(2000, 1500, 3)"} <= set(written)


def test_facts_of_the_file_stand_before_those_of_the_pixels() -> None:
    facts = file_facts(Header("PNG", "RGBA", 7, 5), b"x" * 12_345)
    assert facts == {"format": "PNG", "mode": "RGBA", "file": "12,345 bytes"}
    assert list(image_facts(noise(5, 7), facts))[:4] == ["format", "mode", "file", "width x height"]


def test_histogram_is_the_share_of_pixels_at_each_level() -> None:
    pixels = noise(40, 40)
    axes = panel(image_figure(pixels, "", {}), "histogram")
    line = next(line for line in axes.lines if line.get_label() == "red")
    np.testing.assert_allclose(line.get_ydata(), np.bincount(pixels[..., 0].ravel(), minlength=256) / 16)


def test_a_peak_that_would_flatten_the_histogram_is_cut_and_said() -> None:
    pixels = noise(60, 60)
    pixels[:40] = 255
    axes = panel(image_figure(pixels, "", {}), "histogram")
    assert axes.get_ylim()[1] < 5
    assert "the highest peak, 67 %, goes beyond" in axes.texts[1].get_text()


def test_contrast_caption_says_what_was_stretched() -> None:
    pixels = gray(np.linspace(50, 150, 10_000).astype(np.uint8).reshape(100, 100)[..., None])
    axes = panel(image_figure(pixels, "", {}), "contrast-stretched")
    assert axes.texts[1].get_text() == "51-147 (2nd to 98th percentile) to 0-255"
    stretched = np.asarray(axes.images[0].get_array())
    assert (stretched.min(), stretched.max()) == (0, 255)


@pytest.mark.parametrize(
    ("values", "levels"),
    [([5], []), ([0, 255], [127.5]), ([0, 10, 20, 30, 40], [10, 20, 30]), ([0] * 9 + [50, 90], [45.0])],
)
def test_contour_levels_are_quartiles_inside_the_range(values: list[int], levels: list[float]) -> None:
    assert contour_levels(np.bincount(values, minlength=256)) == levels


def test_contour_lines_run_at_the_levels_of_the_caption() -> None:
    pixels = gray(np.arange(40, dtype=np.uint8)[None, :, None].repeat(40, axis=0))
    axes = panel(image_figure(pixels, "", {}), "contour")
    assert axes.texts[1].get_text() == "lines of equal luma at 9, 19, 29"
    drawn = [artist for artist in axes.collections if isinstance(artist, ContourSet | LineCollection)]
    places = sorted(path.vertices[0, 0] for artist in drawn for path in artist.get_paths())
    assert places == [9, 19, 29]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (8, 8), (3, 4000)], ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_odd_images_are_drawn_without_a_warning(shape: tuple[int, int], constant: bool, tmp_path: Path) -> None:
    pixels = np.full((*shape, 3), (9, 80, 30), np.uint8) if constant else noise(*shape)
    save_figure(image_figure(pixels, "\N{DOG FACE} $x$", {}), tmp_path / "image.png")
    assert (tmp_path / "image.png").stat().st_size > 10_000


def test_small_images_keep_their_pixels_as_squares() -> None:
    figure = image_figure(noise(8, 8), "", {})
    assert {axes.images[0].get_interpolation() for axes in figure.axes if axes.images} == {"nearest"}


def test_a_huge_image_is_drawn_from_a_reduced_copy() -> None:
    pixels = np.zeros((8000, 6000, 3), np.uint8)
    pixels[7000:7010, 5000:5010] = noise(10, 10)
    began = time.perf_counter()
    figure = image_figure(pixels, "", {})
    assert time.perf_counter() - began < 20
    axes = panel(figure, "the picture")
    assert max(np.asarray(axes.images[0].get_array()).shape) == 1000
    assert axes.images[0].get_extent() == [-0.5, 5999.5, 7999.5, -0.5]
    assert 6990 < axes.patches[0].get_y() < 7011  # the crop is of the whole
