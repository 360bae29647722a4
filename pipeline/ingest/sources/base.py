"""What every source of labelled images looks like to ingest, whatever is behind it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from pipeline.errors import DataError, shown
from pipeline.progress import Progress

#: Names that stand for a split: of folders above the class folders, of a table's column, of a TFDS data set's splits.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


class Item(NamedTuple):
    """One labelled image before it was looked at.

    Attributes:
        id: Names it within its source, the same at every ingest.
        path: Where its bytes are.
        label: Its class.
        split: "train", "validation", "test", or None where the source leaves it open.
        group: Images of one group share a split (one patient, one burst); None where nothing is said.
        source_label: What the source called it, where a correction was laid over that; no source sets it.
    """

    id: str
    path: str
    label: str
    split: str | None = None
    group: str | None = None
    source_label: str | None = None


class Source(Protocol):
    """Where labelled images come from.

    Attributes:
        name: Short, for people: the folder's, the file's or the data set's.
        origin: Whole, to find it again: an absolute path, `tfds:NAME` or `sample:NAME`.
    """

    name: str
    origin: str

    def peek(self) -> list[Item] | None:
        """Returns the items where names alone tell them; None where they must be fetched or laid out first.

        Reads no image, writes nothing, asks no network.

        Raises:
            DataError: As `items` would, as far as it can be known.
        """

    def items(self, progress: Progress) -> list[Item]:
        """Returns the labelled images, ordered by id. May write: a data set is fetched, a sample laid out.

        Raises:
            DataError: There are none, or they cannot be had; one line that says what to do.
        """


def check_labels(labels: Iterable[str], what: str) -> None:
    """Looks whether labels can be kept as they are in every file that names them.

    Args:
        labels: Any number of times each.
        what: What they are to the user, such as "class folder".

    Raises:
        DataError: One holds a line break or another control character, or bytes that are not UTF-8; or two of them
            look alike and are not equal.
    """
    seen: dict[str, str] = {}
    for label in sorted(set(labels)):
        if any(unicodedata.category(character) == "Cs" for character in label):
            raise DataError(f"{what} {shown(label)} has a name that is not UTF-8; rename it")
        if any(unicodedata.category(character) == "Cc" for character in label):
            raise DataError(f"{what} {label!r} has a line break or another control character in its name; rename it")
        twin = seen.setdefault(unicodedata.normalize("NFC", label), label)
        if twin != label:
            raise DataError(f"{what}s {twin!r} and {label!r} look alike but are coded differently ({twin!a}, "
                            f"{label!a}); rename one")  # fmt: skip
