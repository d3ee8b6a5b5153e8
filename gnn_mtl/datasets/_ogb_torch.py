"""Reads the ``.pt`` files OGB keeps beside its sets as data; nothing in them is executed.

``torch.save`` wrote them: a pickle, in a zip or bare. Unpickling is calling what a file names, so
here the opcodes are only read: a call becomes a note of what would be called with what, and the
notes for numpy arrays, numbers and torch tensors are turned into arrays. Anything else is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError

LARGEST_BYTES = 1 << 31
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
RECONSTRUCT = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
SCALAR = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}
TENSOR = ("torch._utils", "_rebuild_tensor_v2")
STORAGES = {
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
    "ByteStorage": "<u1", "BoolStorage": "<?", "FloatStorage": "<f4", "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
}  # fmt: skip
DEEPEST = 4


class _Name(NamedTuple):
    module: str
    name: str


@dataclass
class _Call:
    """A call a pickle asks for: noted, not made."""

    function: Any
    arguments: Any
    state: Any = None


class _Storage(NamedTuple):
    kind: Any
    key: str


class _Mark:
    pass


def read_torch_file(path: Path) -> Any:  # noqa: ANN401
    """Return the dict, arrays, numbers and text in a file of ``torch.save``.

    Tensors and numpy arrays become arrays. Protocols 2 to 4, zipped or bare (before torch 1.6).

    Raises:
        FileFormatError: If the file is missing, damaged, or holds anything else.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, more than {LARGEST_BYTES}")
        value, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        return _plain(value, storages, DEEPEST, {})
    except Exception as error:  # whatever damaged bytes do to zipfile, pickletools and numpy
        raise FileFormatError(
            f"{path} should be a file of torch.save with plain values, numpy arrays or tensors. "
            f"Found: {error or type(error).__name__}. For a split, write train.csv.gz, "
            "valid.csv.gz and test.csv.gz (one node id a line) beside it and remove it."
        ) from error


def _read_zip(path: Path) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("compressed members, which torch never writes")
        (start,) = (name for name in members if name.endswith("/data.pkl"))
        top = start.removesuffix("data.pkl")
        order = f"{top}byteorder"
        if order in members and archive.read(order) != b"little":
            raise ValueError("big-endian storages")
        value, _ = _parse(archive.read(start))
        data = {
            name.removeprefix(f"{top}data/"): archive.read(name)
            for name in members
            if name.startswith(f"{top}data/")
        }
        return value, data


def _read_legacy(path: Path) -> tuple[Any, dict[str, bytes]]:
    """Read a file of before torch 1.6: magic, version, system, value, storage keys, storages."""
    content = path.read_bytes()
    parts, at = [], 0
    for _ in range(5):
        value, used = _parse(content[at:])
        parts.append(value)
        at += used
    magic, _, system, value, keys = parts
    if magic != LEGACY_MAGIC or not system["little_endian"]:
        raise ValueError("another kind of file")
    widths = _storage_widths(value, {})
    data = {}
    for key in keys:
        size = int.from_bytes(content[at : at + 8], "little") * widths[key]
        data[key] = content[at + 8 : at + 8 + size]
        at += 8 + size
    return value, data


def _storage_widths(value: Any, found: dict[str, int]) -> dict[str, int]:  # noqa: ANN401
    """Return the bytes an element of each storage takes, from the tensors that point at them."""
    if isinstance(value, dict):
        for item in value.values():
            _storage_widths(item, found)
    elif isinstance(value, _Call) and value.function == TENSOR:
        storage = value.arguments[0]
        found[storage.key] = np.dtype(STORAGES[storage.kind.name]).itemsize
    return found


def _parse(data: bytes) -> tuple[Any, int]:
    """Return the value of the first pickle in ``data``, calls noted, and the bytes it took."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        at = max(i for i, item in enumerate(stack) if isinstance(item, _Mark))
        items = stack[at + 1 :]
        del stack[at:]
        return items

    argument: Any
    position: Any
    for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop(), position + 1
        if name == "MARK":
            stack.append(_Mark())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_Name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            second, first = stack.pop(), stack.pop()
            stack.append(_Name(first, second))
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in LITERALS:
            stack.append(argument)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else pop_to_mark()
            stack[-1].extend(items)
        elif name in TUPLES:
            size = TUPLES[name]
            items = stack[len(stack) - size :]
            del stack[len(stack) - size :]
            stack.append(tuple(items))
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("SETITEM", "SETITEMS"):
            value = stack.pop() if name == "SETITEM" else None
            items = [stack.pop(), value] if name == "SETITEM" else pop_to_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BINPERSID":
            _, kind, key, *_ = stack.pop()
            stack.append(_Storage(kind, key))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_note_call(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Call):
                raise ValueError("a state for something that is no call")
            stack[-1].state = state
        else:
            raise ValueError(f"the pickle opcode {name}")
    raise ValueError("a pickle without end")


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _note_call(function: Any, arguments: Any) -> Any:  # noqa: ANN401
    if not isinstance(function, _Name):
        raise ValueError("a call of something that is no name")
    if function == ("_codecs", "encode") and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin1")
    if function == ("collections", "OrderedDict") and arguments == ():
        return {}
    if function == ("__builtin__", "bytes") and arguments == ():
        return b""
    return _Call(function, arguments)


def _plain(value: Any, storages: dict[str, bytes], depth: int, done: dict[int, Any]) -> Any:  # noqa: ANN401
    """Return a value with its noted calls turned into arrays and numbers, shared ones once."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, dict) and depth > 0:
        if id(value) not in done:
            done[id(value)] = {
                str(key): _plain(item, storages, depth - 1, done) for key, item in value.items()
            }
        return done[id(value)]
    if isinstance(value, _Call):
        if value.function in RECONSTRUCT:
            _, shape, dtype, is_fortran, data = value.state
            return _array(data, _dtype(dtype), shape, "F" if is_fortran else "C")
        if value.function in SCALAR:
            return _array(value.arguments[1], _dtype(value.arguments[0]), (), "C").item()
        if value.function == TENSOR:
            return _tensor(storages, *value.arguments[:4])
        raise ValueError(f"a call of {'.'.join(map(str, value.function))}")
    raise ValueError(f"a {type(value).__name__}, or values nested too deep")


def _array(data: bytes, dtype: np.dtype[Any], shape: Any, order: Any) -> NDArray[Any]:  # noqa: ANN401
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _dtype(call: Any) -> np.dtype[Any]:  # noqa: ANN401
    dtype: np.dtype[Any] = np.dtype(call.arguments[0])
    if call.function != ("numpy", "dtype") or dtype.kind not in "biuf":
        raise ValueError("an array of something other than numbers")
    return dtype.newbyteorder(call.state[1]) if call.state[1] in ("<", ">") else dtype


def _tensor(
    storages: dict[str, bytes],
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
) -> NDArray[Any]:
    flat = np.frombuffer(storages[storage.key], STORAGES[storage.kind.name])
    if math.prod(size) > len(flat):
        raise ValueError("a tensor larger than its storage")
    index = np.array(offset)
    for length, step in zip(size, stride, strict=True):
        index = index[..., None] + step * np.arange(length)
    return flat[index]
