"""What an ONNX file says about itself: inputs, outputs, metadata; read without a runtime and without running
it.

ONNX is a protobuf message (github.com/onnx/onnx, onnx.proto); the few fields needed here are found by walking
through it, so that the driver can check a file on a machine where nothing could compute it.
"""

from __future__ import annotations

import hashlib
import mmap
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from camtrap_batch.errors import InputError

_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"
}  # fmt: skip
_STANDARD = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains of operators that are built into a runtime."""

# Numbers of fields in onnx.proto.
_OPSETS, _GRAPH, _METADATA = 8, 7, 14
_NODES, _WEIGHTS, _INPUTS, _OUTPUTS = 1, 5, 11, 12
_EXTERNAL = 1  # value of TensorProto.data_location


@dataclass(frozen=True)
class Port:
    """An input or output of a network.

    Attributes
    ----------
    shape : sizes of its axes; None: free, or not known before it runs
    dtype : numpy's name of its type
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class OnnxInfo:
    """What an ONNX file says about itself.

    Attributes
    ----------
    metadata : what the exporter wrote besides the network, text by key
    opset : version of the standard's operators
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]
    opset: int

    def shapes(self) -> str:
        """Inputs and outputs, for a message.

        >>> OnnxInfo((Port("x", (1, None), "float32"),), (Port("y", (1, 2), "float32"),), {}, 17).shapes()
        'inputs x [1, ?]; outputs y [1, 2]'
        """
        inputs, outputs = (", ".join(map(str, ports)) for ports in (self.inputs, self.outputs))
        return f"inputs {inputs}; outputs {outputs}"


def read_onnx(path: str | Path, key: str = "") -> OnnxInfo:
    """Read what an ONNX file says about itself.

    Parameters
    ----------
    key : key of the job file, or option, that named the file, for messages

    Raises
    ------
    InputError
        It is missing, not an ONNX file, or cut off; or it needs other files, or custom operators.
    """
    path = Path(path)
    where = f"{path} ({key})" if key else str(path)
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{where}: the file is empty; should be an ONNX file")
            # Not closed explicitly: an error on its way out still points into it.
            return _model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), where)
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except OSError as problem:
        raise InputError(f"{where}: can't be read: {problem.strerror or problem}") from None


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def needs_code(path: str | Path) -> bool:
    """Whether a file is a pickle, or PyTorch's archive of one: loading it would run what is in it."""
    path = Path(path)
    with path.open("rb") as file:
        first = file.read(2)
    if first[:1] == b"\x80" and len(first) == 2 and first[1] in range(2, 6):
        return True
    if first != b"PK" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())


class _NotOnnx(Exception):
    pass


def _model(view: memoryview, where: str) -> OnnxInfo:
    graph: memoryview | None = None
    metadata: dict[str, str] = {}
    opset = 0
    try:
        for field, value in _fields(view):
            if field == _GRAPH and isinstance(value, memoryview):
                graph = value
            elif field == _METADATA and isinstance(value, memoryview):
                entry = dict(_fields(value))
                metadata[_text(entry.get(1))] = _text(entry.get(2))
            elif field == _OPSETS and isinstance(value, memoryview):
                entry = dict(_fields(value))
                version = entry.get(2, 0)
                if not _text(entry.get(1)) and isinstance(version, int):
                    opset = version
        if graph is None or not opset:
            raise _NotOnnx
        inputs, outputs = _graph(graph, where)
        if not inputs or not outputs:
            raise _NotOnnx
    except (_NotOnnx, IndexError, UnicodeDecodeError, ValueError):
        raise InputError(f"{where}: not an ONNX file, or cut off") from None
    return OnnxInfo(inputs, outputs, metadata, opset)


def _graph(graph: memoryview, where: str) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    inputs, outputs, weights = [], [], set()
    for field, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == _INPUTS:
            inputs.append(_port(value))
        elif field == _OUTPUTS:
            outputs.append(_port(value))
        elif field == _WEIGHTS:
            tensor = dict(_fields(value))
            weights.add(_text(tensor.get(8)))
            if tensor.get(14) == _EXTERNAL:
                raise InputError(
                    f"{where}: its weights are in other files; write one file: "
                    "onnx.save(onnx.load(FILE), NEW_FILE)"
                )
        elif field == _NODES:
            domain = next((_text(text) for number, text in _fields(value) if number == 7), "")
            if domain not in _STANDARD:
                raise InputError(
                    f"{where}: uses operators of {domain!r}, which would need code of their own; should use "
                    "only those of ONNX"
                )
    return tuple(port for port in inputs if port.name not in weights), tuple(outputs)


def _port(view: memoryview) -> Port:
    fields = dict(_fields(view))
    kind = dict(_fields(fields[2])).get(1) if isinstance(fields.get(2), memoryview) else None
    if not isinstance(kind, memoryview):
        raise _NotOnnx  # a sequence or map, which none of our networks has
    dtype, shape = 0, []
    for field, value in _fields(kind):
        if field == 1 and isinstance(value, int):
            dtype = value
        elif field == 2 and isinstance(value, memoryview):
            for _, dimension in _fields(value):
                size = dict(_fields(dimension)).get(1)
                shape.append(size if isinstance(size, int) and size > 0 else None)
    return Port(_text(fields.get(1)), tuple(shape), _DTYPES.get(dtype, f"type {dtype}"))


def _fields(view: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of a message: bytes, or a whole number."""
    if isinstance(view, int):
        raise _NotOnnx
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(view, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _NotOnnx
        if at + length > len(view):
            raise _NotOnnx
        yield tag >> 3, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise _NotOnnx


def _text(value: memoryview | int | None) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""
