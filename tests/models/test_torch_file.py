"""Legacy torch files are read to the last number, and nothing that they say is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.models.torch_file import MAGIC_NUMBER, PROTOCOL, read_state_dict


class Reference:
    """Stands for a storage while it is pickled."""

    def __init__(self, *fields: Any) -> None:
        self.fields = fields


class Tensor:
    """Pickles like a torch tensor: a call of `_rebuild_tensor_v2`."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (*self.arguments, False, OrderedDict())


class TorchPickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.fields if isinstance(value, Reference) else None


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Writes a torch file; the modules that its pickle names are faked, since pickle looks them up."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]
    inner._rebuild_tensor_v2 = types.FunctionType(  # type: ignore[attr-defined]
        (lambda: None).__code__, {"__name__": "torch._utils"}, "_rebuild_tensor_v2"
    )
    inner._rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", inner)

    def write(state: Any, numbers: bytes, count: int, *, protocol: int = PROTOCOL, little_endian: bool = True) -> Path:
        content = io.BytesIO()
        for document in (MAGIC_NUMBER, protocol, {"little_endian": little_endian}, state, ["7"]):
            TorchPickler(content, protocol=2).dump(document)
        path = tmp_path / "state.pth"
        path.write_bytes(content.getvalue() + struct.pack("<q", count) + numbers)
        return path

    return write


def storage(count: int = 6, kind: str = "storage", view: Any = None) -> Reference:
    return Reference(kind, sys.modules["torch"].FloatStorage, "7", "cpu", count, view)


NUMBERS = np.arange(6, dtype="<f4").tobytes()


def test_strides_and_shared_storages(write: Writer) -> None:
    shared = storage()
    state = OrderedDict(
        rows=Tensor(shared, 0, (2, 3), (3, 1)),
        columns=Tensor(shared, 0, (3, 2), (1, 3)),
        last=Tensor(shared, 5, (), ()),
    )
    tensors = read_state_dict(write(state, NUMBERS, 6))
    assert list(tensors) == ["rows", "columns", "last"]
    np.testing.assert_array_equal(tensors["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(tensors["columns"], [[0, 3], [1, 4], [2, 5]])
    assert tensors["last"] == 5


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (2, 3), (4, 1)),
        (0, (10**12,), (0,)),
    ],
)
def test_a_tensor_outside_its_storage(
    write: Writer, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(ModelError, match="reaches outside its storage"):
        read_state_dict(write({"w": Tensor(storage(), offset, shape, strides)}, NUMBERS, 6))


def test_an_absurd_count(write: Writer) -> None:
    with pytest.raises(ModelError, match="ends inside storage 7"):
        read_state_dict(write({"w": Tensor(storage(2**60), 0, (6,), (1,))}, NUMBERS, 2**60))


def test_counts_that_disagree(write: Writer) -> None:
    with pytest.raises(ModelError, match="should have 6 numbers and has 5"):
        read_state_dict(write({"w": Tensor(storage(), 0, (6,), (1,))}, NUMBERS, 5))


def test_a_truncated_file(write: Writer) -> None:
    with pytest.raises(ModelError, match="ends inside storage 7"):
        read_state_dict(write({"w": Tensor(storage(), 0, (6,), (1,))}, NUMBERS[:-1], 6))


@pytest.mark.parametrize("header", [{"protocol": 1002}, {"little_endian": False}])
def test_another_header(write: Writer, header: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="header is not"):
        read_state_dict(write({"w": Tensor(storage(), 0, (6,), (1,))}, NUMBERS, 6, **header))


@pytest.mark.parametrize("state", [{"epoch": 3}, [1, 2], "text"])
def test_more_than_tensors(write: Writer, state: Any) -> None:
    with pytest.raises(ModelError, match="holds more than a mapping"):
        read_state_dict(write(state, b"", 0))


@pytest.mark.parametrize("reference", [{"kind": "module"}, {"view": ("8", 0, 1)}])
def test_other_references(write: Writer, reference: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="only whole storages"):
        read_state_dict(write({"w": Tensor(storage(**reference), 0, (6,), (1,))}, NUMBERS, 6))


class Attack:
    """Runs a command in whoever unpickles it without care."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.evidence}",)


def test_a_command_is_refused_and_not_run(write: Writer, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    with pytest.raises(ModelError, match=r"names \w+\.system"):
        read_state_dict(write({"w": Attack(evidence)}, b"", 0))
    assert not evidence.exists()


@pytest.mark.parametrize("name", ["builtins eval", "builtins getattr", "torch._utils _rebuild_parameter", "torch load"])
def test_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "state.pth"
    path.write_bytes(b"c%s\n%s\n." % tuple(name.encode().split()))
    with pytest.raises(ModelError, match="names "):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"<!doctype html>", b"PK\x03\x04" + bytes(64), b"(lp0\n" * 40])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"state\.pth is"):
        read_state_dict(path)
