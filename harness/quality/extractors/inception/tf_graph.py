"""Reader of the Inception's weights in TensorFlow's own file, `classify_image_graph_def.pb`, without TensorFlow.

The file is a GraphDef in protobuf's wire format. Only constants are read: nodes with op "Const" whose attribute "value"
is a tensor of floats. Every stated size is checked against the bytes of the file before memory is allocated, and
nothing is run.

Not tested with the real file, which was not available. The format follows TensorFlow's public .proto files, the names
of the constants follow torch-fidelity's converter, and the tests encode their own graphs.

Sources  protobuf.dev/programming-guides/encoding; tensorflow/core/framework/{graph,node_def,attr_value,tensor}.proto
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from arvbench.errors import CheckpointError
from arvbench.harness.quality.extractors.inception.graph import LAYERS, LOGITS, POOL, convolutions

FILE_NAME = "classify_image_graph_def.pb"
MAX_BYTES, MAX_NODES, MAX_DIMS = 2**28, 2**16, 8
"""Limits far above the real file (95,673,916 bytes by public listings) and far below a harmful size."""
NORM_CONSTANTS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Constant of a batch normalisation in TensorFlow -> tensor in torch."""

_VARINT, _BYTES = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}
"""Wire types; the fixed ones with their sizes in bytes. Groups, 3 and 4, occur in no message here."""
_VARINT_BYTES = 10
_DT_FLOAT = 1
_NODE = 1
_NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 5
_KEY, _VALUE = 1, 2
_ATTRIBUTE_TENSOR = 8
_TENSOR_TYPE, _TENSOR_SHAPE, _TENSOR_CONTENT, _TENSOR_FLOATS = 1, 2, 4, 5
_SHAPE_DIM, _SHAPE_UNKNOWN_RANK, _DIM_SIZE = 2, 3, 1


class _Malformed(ValueError):
    """Bytes without the expected form; the message names them."""


def read_graph(path: Path, *, max_bytes: int = MAX_BYTES, max_nodes: int = MAX_NODES) -> dict[str, Tensor]:
    """Return the state dict (torch-fidelity's names, fp32) of the Inception in a GraphDef.

    Raises CheckpointError for a file that is missing, truncated or not a GraphDef, and for a constant of the network
    that is missing or has another type or shape.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise CheckpointError(f"{path} is not {FILE_NAME}: it has {size} bytes, which is more than {max_bytes}")
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        nodes = _nodes(content, max_nodes)
    except _Malformed as error:
        raise CheckpointError(f"{path} is damaged, truncated or not a TensorFlow GraphDef: {error}") from error
    try:
        return _state_dict(nodes)
    except _Malformed as error:
        raise CheckpointError(f"{path} does not hold the Inception of {FILE_NAME}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Node:
    op: str
    value: memoryview | None
    """Encoded tensor of the attribute "value"."""


def _state_dict(nodes: dict[str, _Node]) -> dict[str, Tensor]:
    tensors = {}
    for place in convolutions():
        channels, channels_in, height, width = place.weight_shape
        kernel_HWIO = _constant(nodes, f"{place.tensorflow}/conv2d_params", (height, width, channels_in, channels))
        tensors[f"{place.name}.conv.weight"] = kernel_HWIO.permute(3, 2, 0, 1).contiguous()
        for constant, tensor in NORM_CONSTANTS.items():
            name = f"{place.tensorflow}/batchnorm/{constant}"
            tensors[f"{place.name}.bn.{tensor}"] = _constant(nodes, name, (channels,))
    tensors["fc.weight"] = _constant(nodes, "softmax/weights", (LAYERS[POOL], LAYERS[LOGITS])).T.contiguous()
    tensors["fc.bias"] = _constant(nodes, "softmax/biases", (LAYERS[LOGITS],))
    return tensors


def _constant(nodes: dict[str, _Node], name: str, shape: tuple[int, ...]) -> Tensor:
    node = nodes.get(name)
    if node is None:
        raise _Malformed(f"there is no node {name!r} among its {len(nodes)}")
    if node.op != "Const" or node.value is None:
        raise _Malformed(f"node {name!r} is not a constant with a value but {node.op!r}")
    try:
        return decode_tensor(node.value, shape)
    except _Malformed as error:
        raise _Malformed(f"node {name!r}: {error}") from error


def decode_tensor(message: memoryview, shape: tuple[int, ...]) -> Tensor:
    """Return the fp32 tensor of a TensorProto, which must have this shape."""
    data_type, content, floats = 0, memoryview(b""), bytearray()
    stated_shape: tuple[int, ...] = ()
    for field, value in _fields(message):
        if field == _TENSOR_TYPE and isinstance(value, int):
            data_type = value
        elif field == _TENSOR_SHAPE and isinstance(value, memoryview):
            stated_shape = _shape(value)
        elif field == _TENSOR_CONTENT and isinstance(value, memoryview):
            content = value
        elif field == _TENSOR_FLOATS and isinstance(value, memoryview):
            floats += value
    if data_type != _DT_FLOAT:
        raise _Malformed(f"its numbers are of type {data_type}, not {_DT_FLOAT} (float)")
    if stated_shape != shape:
        raise _Malformed(f"its shape is {stated_shape}, not {shape}")
    size = 4 * math.prod(shape)
    if not len(content) and len(floats) == 4:
        floats *= size // 4  # the short form of a constant tensor
    data = bytearray(content) if len(content) else floats
    if len(data) != size:
        raise _Malformed(f"{len(data)} bytes of floats cannot fill the shape {shape}")
    return torch.frombuffer(data, dtype=torch.float32).view(shape)


def _shape(message: memoryview) -> tuple[int, ...]:
    sizes: list[int] = []
    for field, value in _fields(message):
        if field == _SHAPE_UNKNOWN_RANK or len(sizes) == MAX_DIMS:
            raise _Malformed("its shape is unknown, or has too many dimensions")
        if field == _SHAPE_DIM and isinstance(value, memoryview):
            sizes.append(
                next((size for name, size in _fields(value) if name == _DIM_SIZE and isinstance(size, int)), 0)
            )
    return tuple(sizes)


def _nodes(graph: memoryview, max_nodes: int) -> dict[str, _Node]:
    nodes: dict[str, _Node] = {}
    for field, value in _fields(graph):
        if field != _NODE or not isinstance(value, memoryview):
            continue
        name, node = _node(value)
        if name in nodes:
            raise _Malformed(f"two nodes are called {name!r}")
        if len(nodes) == max_nodes:
            raise _Malformed(f"it has more than {max_nodes} nodes")
        nodes[name] = node
    return nodes


def _node(message: memoryview) -> tuple[str, _Node]:
    name, op, tensor = "", "", None
    for field, value in _fields(message):
        if not isinstance(value, memoryview):
            continue
        if field == _NODE_NAME:
            name = _text(value)
        elif field == _NODE_OP:
            op = _text(value)
        elif field == _NODE_ATTRIBUTE:
            entry = dict(_fields(value))
            key, attribute = entry.get(_KEY), entry.get(_VALUE)
            if isinstance(key, memoryview) and _text(key) == "value" and isinstance(attribute, memoryview):
                content = dict(_fields(attribute)).get(_ATTRIBUTE_TENSOR)
                tensor = content if isinstance(content, memoryview) else None
    return name, _Node(op, tensor)


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="replace")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of every field of a message; a value is the number of a varint, or the field's bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            number, position = _varint(message, position)
            yield field, number
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        elif wire_type in _FIXED_SIZES:
            length = _FIXED_SIZES[wire_type]
        else:
            raise _Malformed(f"field {field} has wire type {wire_type}")
        end = position + length
        if end > len(message):
            raise _Malformed(f"field {field} needs {length} bytes, {len(message) - position} are left")
        yield field, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at `position`, and the position after it."""
    number = 0
    for index, byte in enumerate(message[position : position + _VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    raise _Malformed("a number does not end")
