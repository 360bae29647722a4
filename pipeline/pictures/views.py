"""What `pipeline inspect` does with what it is given: one image, two images, or a whole source of them."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DataError
from pipeline.figures import save_figure
from pipeline.images.headers import quiet_pillow, read_contents
from pipeline.images.pixels import Picture, read_picture
from pipeline.ingest.result import IngestResult
from pipeline.pictures.dataset import dataset_figure
from pipeline.pictures.image import file_facts, image_figure
from pipeline.pictures.matches import match_figure


def save_image_view(path: Path, output: Path) -> list[str]:
    """Writes the picture of one image, number by number; returns what else there is to say.

    Raises:
        DataError: It is no image; one line that says why.
    """
    picture, contents = _read(path)
    save_figure(image_figure(picture.pixels, path.name, file_facts(picture.header, contents)), output)
    return [f"ingest will store it anew as PNG: {picture.transcode}"] if picture.transcode else []


def save_match_view(first: Path, second: Path, output: Path) -> list[str]:
    """Writes the picture of what two images have in common; returns the verdict in words.

    Raises:
        DataError: One is no image; one line that says why.
    """
    (one, _), (other, _) = _read(first), _read(second)
    figure, summary = match_figure(one.pixels, other.pixels, (first.name, second.name))
    save_figure(figure, output)
    return [summary.verdict]


def save_dataset_view(found: IngestResult, output: Path) -> None:
    """Writes the picture of a data set: classes, sizes, samples, means and duplicates."""
    save_figure(dataset_figure(found.manifest, found.duplicates, found.name), output)


def check_exists(path: Path) -> None:
    """Looks whether there is something at a path that names no `tfds:` or `sample:` source.

    Raises:
        DataError: There is not.
    """
    if not path.exists() and not str(path).startswith(("tfds:", "sample:")):
        raise DataError(f"no file or folder {path}; name an image, two images, or a folder of them")


def check_picture_name(output: Path, option: str = "-o") -> None:
    """Looks whether a picture can be written to a file of this name.

    Raises:
        DataError: It does not end in .png, or its folder does not exist.
    """
    if output.suffix.lower() != ".png":
        raise DataError(f"{option} {output}: pictures are written as PNG; end the name in .png")
    if not output.parent.is_dir():
        raise DataError(f"{option} {output}: there is no folder {output.parent}")


def _read(path: Path) -> tuple[Picture, bytes]:
    """Returns an image file read, and its bytes."""
    try:
        contents = read_contents(path)
        with quiet_pillow():
            return read_picture(contents, None), contents
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
