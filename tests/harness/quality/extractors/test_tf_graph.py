"""TensorFlow's graph file is read as that program would read it, on graphs that this file encodes by itself.

The real classify_image_graph_def.pb is not at hand: the encoder follows protobuf's and TensorFlow's public formats.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from random_inception import random_inception_state

from arvbench.errors import CheckpointError
from arvbench.harness.quality.extractors.inception.graph import convolutions
from arvbench.harness.quality.extractors.inception.tf_graph import decode_tensor, read_graph

FIRST = "conv/conv2d_params"
FIRST_SHAPE = (3, 3, 3, 32)
FLOAT, INT32 = 1, 3


def varint(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(
    array: np.ndarray, *, form: str = "content", dtype: int = FLOAT, shape: tuple[int, ...] | None = None
) -> bytes:
    dims = b"".join(field(2, field(1, size)) for size in (array.shape if shape is None else shape))
    flat = array.astype("<f4").ravel()
    data = {
        "content": lambda: field(4, flat.tobytes()),
        "packed": lambda: field(5, flat.tobytes()),
        "unpacked": lambda: b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in flat),
        "none": lambda: b"",
    }[form]()
    return field(1, dtype) + field(2, dims) + data


def node(name: str, value: bytes, op: str = "Const") -> bytes:
    """A NodeDef with the attributes that TensorFlow writes."""
    kind = field(1, b"dtype") + field(2, field(6, FLOAT))
    held = field(1, b"value") + field(2, field(8, value))
    return field(1, field(1, name.encode()) + field(2, op.encode()) + field(5, kind) + field(5, held))


def operation(name: str, op: str, *inputs: str) -> bytes:
    """A node that holds no weights."""
    strides = field(1, b"strides") + field(2, field(1, field(3, b"\x01\x02\x02\x01")))
    decay = field(1, b"variance_epsilon") + field(2, varint(4 << 3 | 5) + struct.pack("<f", 0.001))
    body = field(1, name.encode()) + field(2, op.encode()) + b"".join(field(3, i.encode()) for i in inputs)
    return field(1, body + field(5, strides) + field(5, decay))


def scope(name: str) -> str:
    """TensorFlow's scope of a convolution of the published state dict, by the order of blocks, towers and steps."""
    stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
    numbered = lambda word, index: word if index == 0 else f"{word}_{index}"  # noqa: E731
    if name in stem:
        return numbered("conv", stem.index(name))
    block, branch = name.split(".")
    prefix = numbered(
        "mixed", ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"].index(block.removeprefix("Mixed_"))
    )
    if branch == "branch1x1" or name == "Mixed_6a.branch3x3":
        return f"{prefix}/conv"
    tower, step = re.fullmatch(r"(branch_pool|branch[^_]+)(?:_(\w+))?", branch).groups()
    towers = {
        "5": ["branch5x5", "branch3x3dbl", "branch_pool"],
        "6a": ["branch3x3dbl"],
        "6": ["branch7x7", "branch7x7dbl", "branch_pool"],
        "7a": ["branch3x3", "branch7x7x3"],
        "7": ["branch3x3", "branch3x3dbl", "branch_pool"],
    }
    order = towers.get(block.removeprefix("Mixed_"), towers[block[6]])
    forks = {"2a": "mixed/conv", "2b": "mixed/conv_1", "3a": "mixed/conv", "3b": "mixed/conv_1"}
    within = forks.get(step) or numbered("conv", int(step or 1) - 1)
    return f"{prefix}/{numbered('tower', order.index(tower))}/{within}"


def constants(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The state dict under TensorFlow's names and in its layouts."""
    out = {"softmax/weights": state["fc.weight"].T.numpy(), "softmax/biases": state["fc.bias"].numpy()}
    for key, value in state.items():
        if key.endswith(".conv.weight"):
            name = key.removesuffix(".conv.weight")
            out[f"{scope(name)}/conv2d_params"] = value.permute(2, 3, 1, 0).numpy()
            norm = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
            for theirs, ours in norm.items():
                out[f"{scope(name)}/batchnorm/{theirs}"] = state[f"{name}.bn.{ours}"].numpy()
    return out


def write(path, *nodes: bytes):
    path.write_bytes(b"".join(nodes))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Path of the random Inception as TensorFlow would store it, with nodes that are none of its weights."""
    forms = random.Random(0)
    nodes = [
        node(name, tensor(array, form=forms.choice(["content", "packed"] + ["unpacked"] * (array.size < 999))))
        for name, array in constants(random_inception_state()).items()
    ]
    others = [
        operation("DecodeJpeg/contents", "Placeholder"),
        operation("conv", "Conv2D", "Mul", "conv/conv2d_params"),
        node("pool_3/_reshape/shape", tensor(np.zeros(2), dtype=INT32)),
        field(4, field(1, 9)),
    ]
    return write(tmp_path_factory.mktemp("graph") / "classify_image_graph_def.pb", *others, *nodes, *others[3:])


def test_every_weight_comes_back_as_it_was(whole):
    read, state = read_graph(whole), random_inception_state()
    assert read.keys() == state.keys()
    assert [name for name in state if not torch.equal(read[name], state[name])] == []
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in read.values())


def test_names_are_those_of_the_evaluator_and_of_torch_fidelitys_converter():
    names = {place.name: place.tensorflow for place in convolutions()}
    assert len(names) == len(set(names.values())) == 94
    assert names["Mixed_6d.branch1x1"] == "mixed_6/conv"  # the source of the spatial features
    assert names["Conv2d_4a_3x3"] == "conv_4"
    assert names["Mixed_5b.branch3x3dbl_3"] == "mixed/tower_1/conv_2"
    assert names["Mixed_6a.branch3x3dbl_1"] == "mixed_3/tower/conv"
    assert names["Mixed_7a.branch7x7x3_4"] == "mixed_8/tower_1/conv_3"
    assert names["Mixed_7b.branch3x3_2b"] == "mixed_9/tower/mixed/conv_1"
    assert names["Mixed_7c.branch3x3dbl_3a"] == "mixed_10/tower_1/mixed/conv"
    assert names["Mixed_7c.branch_pool"] == "mixed_10/tower_2/conv"


def test_one_value_stands_for_a_constant_tensor():
    one = tensor(np.array([0.5]), form="packed", shape=(7,))
    assert decode_tensor(memoryview(one), (7,)).tolist() == [0.5] * 7


FIRST_VALUE = np.zeros(FIRST_SHAPE)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], f"no node '{FIRST}' among its 0"),
        ([node("other", tensor(FIRST_VALUE))], f"no node '{FIRST}' among its 1"),
        ([node(FIRST, tensor(FIRST_VALUE))], "no node 'conv/batchnorm/gamma'"),
        ([operation(FIRST, "Const")], f"'{FIRST}' is not a constant with a value"),
        ([node(FIRST, tensor(FIRST_VALUE), op="Variable")], f"'{FIRST}' is not a constant with a value but 'Variable'"),
        ([node(FIRST, tensor(FIRST_VALUE, dtype=INT32))], f"'{FIRST}': its numbers are of type 3, not 1"),
        ([node(FIRST, tensor(np.zeros((32, 3, 3, 3))))], r"its shape is \(32, 3, 3, 3\), not \(3, 3, 3, 32\)"),
        ([node(FIRST, tensor(np.zeros(()), shape=(2**40, 2**40)))], r"its shape is \(1099511627776, "),
        ([node(FIRST, tensor(FIRST_VALUE, shape=(1,) * 99))], "too many dimensions"),
        ([node(FIRST, tensor(np.zeros(863), shape=FIRST_SHAPE))], "3452 bytes of floats cannot fill"),
        ([node(FIRST, tensor(np.zeros(865), shape=FIRST_SHAPE, form="packed"))], "3460 bytes of floats cannot fill"),
        ([node(FIRST, tensor(FIRST_VALUE, form="none"))], "0 bytes of floats cannot fill"),
        ([node(FIRST, tensor(FIRST_VALUE))] * 2, f"two nodes are called '{FIRST}'"),
    ],
)
def test_a_misfit_is_refused_by_name(tmp_path, nodes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_graph(write(tmp_path / "graph.pb", *nodes))
    assert "graph.pb" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 this is a zip file", "not a TensorFlow GraphDef"),
        (b"\x80" * 40, "a number does not end"),
        (field(1, b"x" * 9)[:-1], "field 1 needs 9 bytes, 8 are left"),
        (varint(1 << 3 | 2) + varint(2**62) + b"x", "field 1 needs 4611686018427387904 bytes, 1 are left"),
        (varint(1 << 3 | 3), "field 1 has wire type 3"),
    ],
)
def test_other_bytes_are_refused(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        read_graph(write(tmp_path / "graph.pb", content))


def test_a_truncated_file_is_refused_wherever_it_ends(whole, tmp_path):
    content = whole.read_bytes()
    for share in (0.999999, 0.5, 0.01):
        with pytest.raises(CheckpointError, match="damaged, truncated or not a TensorFlow GraphDef"):
            read_graph(write(tmp_path / "cut.pb", content[: int(len(content) * share)]))
    small = node(FIRST, tensor(np.zeros((1, 2))))
    for end in range(1, len(small)):
        with pytest.raises(CheckpointError, match="truncated"):
            read_graph(write(tmp_path / "cut.pb", small[:end]))


def test_damaged_bytes_raise_nothing_else(tmp_path):
    dice = random.Random(0)
    good = node(FIRST, tensor(np.zeros((2, 3)))) + operation("conv", "Conv2D", "Mul") + field(4, field(1, 9))
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        with pytest.raises(CheckpointError):
            read_graph(write(tmp_path / "bad.pb", bytes(bad)))


def test_limits_are_kept(tmp_path):
    graph = write(tmp_path / "graph.pb", node("a", b""), node("b", b""))
    with pytest.raises(CheckpointError, match="more than 1 nodes"):
        read_graph(graph, max_nodes=1)
    with pytest.raises(CheckpointError, match="which is more than 10"):
        read_graph(graph, max_bytes=10)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pb cannot be read"):
        read_graph(tmp_path / "nowhere.pb")
