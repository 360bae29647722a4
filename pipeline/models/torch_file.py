"""The tensors of a legacy PyTorch file, read without PyTorch and without running what the file says.

`torch.save` before 1.6 wrote five pickles in a row (a magic number, the protocol, the writer's byte order, the object
itself with tensors as references, the keys of the storages) and then, for every key in that order, an int64 count
followed by the raw little-endian numbers (torch/serialization.py, `_legacy_save`). A pickle can call any function that
it names, so the unpickler here knows the few names that a state dict needs and refuses every other.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.errors import ModelError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

DTYPES = {
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "ShortStorage": np.dtype("<i2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a legacy torch state dict by name, in the file's order.

    Raises:
        ModelError: The file is not such a state dict, is damaged, or names anything but tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except ModelError as error:
        raise ModelError(f"{path.name} is refused: {error}") from error
    # A damaged pickle can raise nearly every class there is (the pickle documentation says so).
    except Exception as error:
        raise ModelError(f"{path.name} is not a legacy torch state dict: {error or type(error).__name__}") from error


@dataclass(frozen=True)
class _Storage:
    """A flat array that follows the pickles."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, numbers: np.ndarray) -> np.ndarray:
        """Returns a C-ordered copy of the view, after a check that it stays inside `numbers`."""
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        inside = min((self.offset, *self.shape, *self.strides)) >= 0 and last < numbers.size
        # Stride 0 can make any shape out of one number; saved weights have no use for it and memory has limits.
        if not inside or math.prod(self.shape) > numbers.size:
            raise ModelError(f"a tensor of shape {self.shape} reaches outside its storage of {numbers.size} numbers")
        steps = tuple(stride * numbers.itemsize for stride in self.strides)
        return np.array(np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps), order="C")


class _StateDictUnpickler(pickle.Unpickler):
    """Knows `OrderedDict`, the tensor builder and the storage types, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise ModelError(f"it names {module}.{name}, and a state dict needs only tensors")

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _location, count, view = reference
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise ModelError(f"it refers to {kind!r}, and only whole storages are known")
        return _Storage(str(key), dtype, int(count))


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_gradient: Any) -> _Tensor:
    """Returns what `torch._utils._rebuild_tensor_v2` would build, still without its numbers."""
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    magic, protocol, system = (_StateDictUnpickler(file).load() for _ in range(3))
    if (magic, protocol) != (MAGIC_NUMBER, PROTOCOL) or not system["little_endian"]:
        raise ModelError("its header is not that of a little-endian legacy torch file")
    state = _StateDictUnpickler(file).load()
    keys = _StateDictUnpickler(file).load()
    if not isinstance(state, Mapping) or not all(isinstance(tensor, _Tensor) for tensor in state.values()):
        raise ModelError("it holds more than a mapping of names to tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in state.values()}
    numbers = {key: _read_numbers(file, storages[key]) for key in keys}
    return {str(name): tensor.view(numbers[tensor.storage.key]) for name, tensor in state.items()}


def _read_numbers(file: BinaryIO, storage: _Storage) -> np.ndarray:
    (count,) = struct.unpack("<q", file.read(8))
    if count != storage.count:
        raise ModelError(f"storage {storage.key} should have {storage.count} numbers and has {count}")
    length = count * storage.dtype.itemsize
    # Asked before reading, since `read` allocates what it is asked for, however absurd.
    if not 0 <= length <= os.fstat(file.fileno()).st_size - file.tell():
        raise ModelError(f"it ends inside storage {storage.key}")
    return np.frombuffer(file.read(length), storage.dtype)
