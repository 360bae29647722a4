"""What a file from elsewhere must not hold: links out of it, arrays that it does not have, networks too large for it.

Keras loads in safe mode and refuses code in a file, and much of what is refused here as well; not the old HDF5 layout,
in which keras.applications publishes, nor what fills the memory before an error can come. A file is looked at without
reading an array.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

#: The member of a `.keras` archive that holds the arrays, and the one that describes the network.
_ARRAYS, _CONFIG = "model.weights.h5", "config.json"

#: Bytes of a description, at most. Inception-v3's has 0.2 MB.
_LARGEST_CONFIG = 2**25

#: An array may be this many times what the file stores of it: compressed numbers are never that much smaller. Small
#: arrays may be all zeros.
_MOST_EXPANSION, _SMALL = 100, 2**20


@contextmanager
def open_arrays(path: Path) -> Iterator[h5py.File]:
    """Yields the HDF5 part of a `.h5`, `.weights.h5` or `.keras` file, once it holds nothing but arrays.

    Raises:
        ValueError: It holds links out of it, virtual arrays, or arrays larger than it can be.
    """
    import h5py

    if not path.name.endswith(".keras"):
        with h5py.File(path) as file:
            _require_plain(file)
            yield file
        return
    with zipfile.ZipFile(path) as archive, archive.open(_ARRAYS) as member, h5py.File(member) as file:
        _require_plain(file)
        yield file


def array_shapes(file: h5py.File) -> Counter[tuple[int, ...]]:
    """Returns how many arrays of each shape an HDF5 file holds."""
    return Counter(dataset.shape for dataset in _datasets(file))


def require_harmless_network(path: Path) -> None:
    """Looks whether a `.keras` file can be loaded: its arrays are its own, and its network is no larger than they are.

    Raises:
        ValueError: It cannot.
    """
    with open_arrays(path) as file:
        stored = sum(math.prod(dataset.shape) for dataset in _datasets(file))
    # In a thread of its own, since Keras keeps a list, one a thread, of the variables that it has yet to make.
    with ThreadPoolExecutor(1) as thread:
        declared = thread.submit(_count_parameters, _read_config(path)).result()
    if declared > stored:
        raise ValueError(f"its network has {declared:,} parameters and the file {stored:,}")


def _count_parameters(config: str) -> int:
    """Returns how many numbers a network has without making any: one that fits in no memory is counted too."""
    import keras

    with keras.StatelessScope(initialize_variables=False):
        count: int = keras.models.model_from_json(config).count_params()
    return count


def _read_config(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(_CONFIG).file_size
        if size > _LARGEST_CONFIG:
            raise ValueError(f"its {_CONFIG} has {size:,} bytes, more than {_LARGEST_CONFIG:,}")
        return json.dumps(json.loads(archive.read(_CONFIG)))


def _require_plain(file: h5py.File) -> None:
    for dataset in _datasets(file):
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"its array {dataset.name} lies in another file")
        declared = math.prod(dataset.shape) * dataset.dtype.itemsize
        if declared > max(_SMALL, _MOST_EXPANSION * dataset.id.get_storage_size()):
            raise ValueError(f"its array {dataset.name} has the shape {dataset.shape} and hardly any numbers")


def _datasets(group: h5py.Group, seen: set[int] | None = None) -> Iterator[Any]:
    """Yields the arrays below a group, each once; a link anywhere but to the file's own objects is refused."""
    import h5py

    seen = set() if seen is None else seen
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"it has a link, {group.name.rstrip('/')}/{name}: arrays have to be in the file")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:  # groups may hold each other, or one of them twice, and that one another twice
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            yield from _datasets(item, seen)
        else:
            yield item
