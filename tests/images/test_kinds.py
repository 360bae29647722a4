"""Every kind of file that the graph reads: training against the export, and both against Pillow by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from kinds import KINDS, by_hand
from PIL import Image

from pipeline.config import Resize
from pipeline.images.graph import decode_image
from pipeline.images.guard import decode_apart
from pipeline.images.headers import GRAPH_READS
from pipeline.images.pixels import read_picture

SIZE = (24, 30)
MODES: tuple[Resize, ...] = get_args(Resize)


@pytest.fixture(scope="module", params=MODES)
def resize(request: pytest.FixtureRequest) -> Resize:
    return request.param


@pytest.fixture(scope="module")
def exported(resize: Resize, tmp_path_factory: pytest.TempPathFactory) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the decoder as it is served: saved and loaded."""
    module = tf.Module()
    module.decode = tf.function(
        lambda contents: decode_apart(contents, SIZE, 3, resize)[0], [tf.TensorSpec((None,), tf.string)]
    )
    folder = str(tmp_path_factory.mktemp(resize))
    tf.saved_model.save(module, folder)
    return tf.saved_model.load(folder).decode


@pytest.fixture(scope="module")
def trained(resize: Resize, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Returns each kind's pixels as training reads them: from files, in tf.data."""
    folder = tmp_path_factory.mktemp("files")
    for number, write in enumerate(KINDS.values()):
        (folder / f"{number}.image").write_bytes(write())
    paths = [str(folder / f"{number}.image") for number in range(len(KINDS))]
    rows = tf.data.Dataset.from_tensor_slices(paths)
    read = rows.map(lambda path: decode_image(tf.io.read_file(path), SIZE, 3, resize), 2, deterministic=True)
    return dict(zip(KINDS, read.as_numpy_iterator(), strict=True))


def resized_by_hand(pixels: np.ndarray, resize: Resize) -> np.ndarray:
    """Returns Pillow's antialiased bilinear resize to SIZE."""
    image = Image.fromarray(pixels.round().astype(np.uint8))
    (height, width), (wide, high) = SIZE, image.size
    if resize == "stretch":
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64)
    scale = (max if resize == "crop" else min)(height / high, width / wide)
    if resize == "crop":
        left, top = (wide - width / scale) / 2, (high - height / scale) / 2
        box = (left, top, wide - left, high - top)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box), np.float64)
    border = [int(spare / 2 + 0.5) for spare in (width - scale * wide, height - scale * high)]
    canvas = Image.new("RGB", (width, height))
    inner = (width - 2 * border[0], height - 2 * border[1])
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), tuple(border))
    return np.asarray(canvas, np.float64)


def test_every_pair_said_to_be_read_has_a_kind() -> None:
    headers = [read_picture(write(), None).header for write in KINDS.values()]
    assert {(header.format, header.mode) for header in headers} == GRAPH_READS


@pytest.mark.parametrize("name", KINDS)
def test_the_export_reads_exactly_what_training_read(
    name: str, exported: Callable[[tf.Tensor], tf.Tensor], trained: dict[str, np.ndarray]
) -> None:
    np.testing.assert_array_equal(exported(tf.constant([KINDS[name]()]))[0], trained[name])


@pytest.mark.parametrize("name", KINDS)
def test_training_reads_what_pillow_reads(name: str, resize: Resize, trained: dict[str, np.ndarray]) -> None:
    wanted = resized_by_hand(by_hand(name), resize)
    assert np.ptp(wanted) > 100
    # Pillow rounds after each of its two passes; of 16 bits the graph takes the upper 8.
    assert np.abs(trained[name] - wanted).mean() <= 1.0


@pytest.mark.parametrize("name", KINDS)
def test_the_scan_sees_what_the_graph_reads(name: str, tmp_path: Path) -> None:
    content = KINDS[name]()
    picture = read_picture(content, None)
    assert picture.transcode is None
    assert picture.pixels.shape == (picture.header.height, picture.header.width, 3)
    read = decode_image(tf.constant(content), picture.pixels.shape[:2], 3).numpy()
    # Pillow rounds CMYK where libjpeg cuts off, and the scan rounds what lies over white.
    np.testing.assert_allclose(read, picture.pixels, rtol=0, atol=1.0 if "cmyk" in name else 0.51)
    # Cut to 8 bits, colour and transparency are each up to 1 off.
    np.testing.assert_allclose(picture.pixels, by_hand(name), rtol=0, atol=2.0 if "16 bits" in name else 1.0)
