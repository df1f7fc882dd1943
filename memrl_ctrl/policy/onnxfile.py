"""What an ONNX file contains, read without the `onnx` package.

onnxruntime runs a file but does not say where its weights lie or whose operators it uses. This module
walks the protobuf encoding itself (https://protobuf.dev/programming-guides/encoding/, field numbers
from onnx.proto3) and refuses what a policy file may not contain: weights in other files, operators
outside the ONNX standard, functions, training graphs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

STANDARD_DOMAINS = frozenset({b"", b"ai.onnx"})
"""Operator domains that a policy may use."""
MAX_DEPTH = 16
"""Deepest nesting of graphs in attributes (If, Loop, Scan) that is followed."""

# Field numbers of onnx.proto3.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS, _MODEL_METADATA = 7, 20, 25, 14
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_GRAPH_OUTPUT, _VALUE_NAME = 12, 1
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


class OnnxFileError(ValueError):
    """Bytes that are no ONNX file, or one with parts that a policy may not have."""


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """What the walk found."""

    graph_digest: str
    """SHA-256 over the bytes of the graph as they stand in the file, hexadecimal."""
    metadata: dict[str, str]
    """The file's `metadata_props`."""


@dataclass(frozen=True, kw_only=True)
class OnnxNode:
    """One operation of a graph."""

    kind: str
    """ONNX's name of the operator, for example `LSTM`."""
    inputs: tuple[str, ...]
    """Names of what goes in; empty where an input is left out."""
    outputs: tuple[str, ...]
    """Names of what comes out; empty where an output is not wanted."""


Field = tuple[int, memoryview | int]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise OnnxFileError("it ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise OnnxFileError("a number has more than ten bytes")


def _fields(data: memoryview) -> Iterator[Field]:
    """Yield (field number, content): bytes of a length-delimited field, the value of another."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = _varint(data, position)
        elif wire_type == 1:
            size = 8
        elif wire_type == 5:
            size = 4
        else:
            raise OnnxFileError(f"wire type {wire_type} does not exist")
        if position + size > len(data):
            raise OnnxFileError("a field reaches past its end")
        yield number, data[position : position + size]
        position += size


def _bytes(content: memoryview | int) -> memoryview:
    if isinstance(content, int):
        raise OnnxFileError("a field has another type than ONNX gives it")
    return content


def inspect_onnx(data: bytes) -> OnnxFile:
    """Walk a file and refuse what a policy may not contain.

    Args:
        data: the whole file.

    Raises:
        OnnxFileError: with what is wrong.
    """
    graphs: list[memoryview] = []
    metadata: dict[str, str] = {}
    for number, content in _fields(memoryview(data)):
        if number == _MODEL_GRAPH:
            graphs.append(_bytes(content))
        elif number == _MODEL_FUNCTIONS:
            raise OnnxFileError("it defines functions of its own; a policy uses plain operators")
        elif number == _MODEL_TRAINING:
            raise OnnxFileError("it holds a training graph; a policy holds inference only")
        elif number == _MODEL_METADATA:
            key, value = _entry(_bytes(content))
            if key in metadata:
                raise OnnxFileError(f"its metadata has {key!r} twice")
            metadata[key] = value
    if len(graphs) != 1:
        raise OnnxFileError(f"it holds {len(graphs)} graphs where one is expected")
    _check_graph(graphs[0], 0)
    return OnnxFile(graph_digest=hashlib.sha256(graphs[0]).hexdigest(), metadata=metadata)


def nodes(data: bytes) -> list[OnnxNode]:
    """Return the operations of a file that `inspect_onnx` takes, in the order of the file."""
    graph = next(c for n, c in _fields(memoryview(data)) if n == _MODEL_GRAPH)
    found = []
    for number, content in _fields(_bytes(graph)):
        if number != _GRAPH_NODE:
            continue
        words: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_OP_TYPE: []}
        for part, value in _fields(_bytes(content)):
            if part in words:
                words[part].append(bytes(_bytes(value)).decode())
        found.append(
            OnnxNode(
                kind="".join(words[_NODE_OP_TYPE]),
                inputs=tuple(words[_NODE_INPUT]),
                outputs=tuple(words[_NODE_OUTPUT]),
            )
        )
    return found


def with_outputs(data: bytes, names: Iterable[str]) -> bytes:
    """Return a file whose graph also gives values from within, to look at them.

    A message that stands twice in protobuf's encoding is merged: outputs are appended, nothing is
    rewritten. The result is no policy file, its digest is another.

    Args:
        data: the whole file.
        names: of values in the graph.
    """
    outputs = b"".join(_sized(_GRAPH_OUTPUT, _sized(_VALUE_NAME, n.encode())) for n in names)
    return data + _sized(_MODEL_GRAPH, outputs)


def _sized(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    size, head = len(content), bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(head) + bytes([size]) + content


def _entry(data: memoryview) -> tuple[str, str]:
    key = value = ""
    for number, content in _fields(data):
        try:
            if number == _ENTRY_KEY:
                key = bytes(_bytes(content)).decode()
            elif number == _ENTRY_VALUE:
                value = bytes(_bytes(content)).decode()
        except UnicodeDecodeError as error:
            raise OnnxFileError(f"its metadata is no text: {error}") from error
    return key, value


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise OnnxFileError(f"its graphs are nested deeper than {MAX_DEPTH}")
    for number, content in _fields(graph):
        if number == _GRAPH_NODE:
            _check_node(_bytes(content), depth)
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(_bytes(content))
        elif number == _GRAPH_SPARSE:
            _check_sparse(_bytes(content))


def _check_node(node: memoryview, depth: int) -> None:
    domain, op_type = b"", b""
    for number, content in _fields(node):
        if number == _NODE_DOMAIN:
            domain = bytes(_bytes(content))
        elif number == _NODE_OP_TYPE:
            op_type = bytes(_bytes(content))
        elif number == _NODE_ATTRIBUTE:
            _check_attribute(_bytes(content), depth)
    if domain not in STANDARD_DOMAINS:
        raise OnnxFileError(
            f"it uses the operator {op_type.decode(errors='replace')!r} of the domain "
            f"{domain.decode(errors='replace')!r}; a policy uses standard ONNX operators only"
        )


def _check_attribute(attribute: memoryview, depth: int) -> None:
    for number, content in _fields(attribute):
        if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _check_tensor(_bytes(content))
        elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            _check_graph(_bytes(content), depth + 1)
        elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
            _check_sparse(_bytes(content))


def _check_sparse(sparse: memoryview) -> None:
    for number, content in _fields(sparse):
        if number in (_SPARSE_VALUES, _SPARSE_INDICES):
            _check_tensor(_bytes(content))


def _check_tensor(tensor: memoryview) -> None:
    name, external = b"", False
    for number, content in _fields(tensor):
        if number == _TENSOR_NAME:
            name = bytes(_bytes(content))
        elif number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and content != 0):
            external = True
    if external:
        raise OnnxFileError(
            f"the weights {name.decode(errors='replace')!r} lie in another file; "
            "a policy is one single file: export it again with its weights inside"
        )
