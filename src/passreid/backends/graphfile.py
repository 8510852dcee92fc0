"""Check an ONNX file before an engine opens it: which other files would it read?

A tensor of a graph may be "external data": a path, an offset and a length. Engines resolve the path
themselves, ONNX Runtime against the working directory, so a model folder from elsewhere could have
any file of this machine read into its embeddings. The check needs a few field numbers of onnx.proto
only, not the package `onnx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from passreid.errors import CheckpointError

# Message -> field number -> message in it, of all fields through which a tensor can be reached.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_KEY, _VALUE = 1, 2  # of an entry
_DEEPEST = 64
_FIXED = {1: 8, 5: 4}  # wire type -> bytes


def check_external_data(path: Path, content: bytes, allowed: str | None) -> None:
    """Refuse a graph whose tensors lie in any file but the one it may read.

    Args:
        path: The graph's, for errors.
        content: The whole file.
        allowed: Name of the weights beside the graph; None where it must hold its own.

    Raises:
        CheckpointError: It names another file, or is not an ONNX graph.
    """
    try:
        named = set(_locations(memoryview(content), "model", 0))
    except (IndexError, ValueError):
        raise CheckpointError(f"{path}: damaged, or not an ONNX graph.") from None
    for name in sorted(named - {allowed and allowed.encode()}):
        shown = name.decode(errors="backslashreplace")
        rule = f"only {allowed} beside it" if allowed else "no other file"
        raise CheckpointError(
            f"{path}: refused, its tensors would be read from {shown!r}; a graph of this kind may "
            f"name {rule}."
        )


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[bytes]:
    """Yield the file name of every external tensor in a message."""
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    below = _FIELDS[kind]
    entry: dict[int, bytes] = {}
    for number, content in _fields(message):
        if kind == "entry":
            entry[number] = bytes(content)
        elif number in below:
            yield from _locations(content, below[number], depth + 1)
    if entry.get(_KEY) == b"location":
        yield entry.get(_VALUE, b"")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of a protobuf message's fields that hold bytes; skip numbers."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, position = _varint(message, position)
            continue
        if wire == 2:
            length, position = _varint(message, position)
        else:
            length = _FIXED.get(wire, len(message))  # groups do not exist in ONNX
        if position + length > len(message):
            raise ValueError("cut short")
        if wire == 2:
            yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number beyond 64 bits")
