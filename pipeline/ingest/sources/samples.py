"""Real images that come with the project's dependencies, laid out as a user's folder would be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.files import atomic_path, lock
from pipeline.ingest.sources.base import Item
from pipeline.ingest.sources.folder import FolderSource
from pipeline.progress import Progress


def lay_out_digits(folder: Path) -> Path:
    """Returns `folder`, holding scikit-learn's 1,797 handwritten digits as `<digit>/<number>.png`.

    The images are the 8 x 8 pixels of the UCI "Optical Recognition of Handwritten Digits" test set, 17 gray values
    stretched to 0-255 and otherwise as they are. Laid out once; whole or not at all.
    """
    with lock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            _write_digits(folder)
    return folder


def _write_digits(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    with atomic_path(folder) as draft:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            place = draft / str(label)
            place.mkdir(parents=True, exist_ok=True)
            gray = (pixels * (255 / 16)).round().astype("uint8")
            Image.fromarray(gray).save(place / f"{number:04d}.png")


#: What stands behind `sample:NAME`: lays the sample out in a folder and returns it.
SAMPLES: Mapping[str, Callable[[Path], Path]] = {"digits": lay_out_digits}


class SampleSource:
    """A sample, laid out below `data_dir` at first use. Implements `pipeline.ingest.sources.base.Source`."""

    def __init__(self, name: str, data_dir: Path) -> None:
        self._name, self._folder = name, data_dir / name
        self.name, self.origin = name, f"sample:{name}"

    def peek(self) -> list[Item] | None:
        """Returns None: the sample may not be laid out yet, and is known to be good."""
        return None

    def items(self, progress: Progress) -> list[Item]:
        """Returns the sample's images, ordered by id."""
        return FolderSource(SAMPLES[self._name](self._folder)).items()
