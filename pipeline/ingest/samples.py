"""Real images that come with the project's dependencies, laid out as a user's folder would be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.files import atomic_path, lock


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
