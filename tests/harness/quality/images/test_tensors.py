"""Samples as tensors, in a file and in memory."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.source import Provenance
from arvbench.harness.quality.images.tensors import SafetensorsSource, TensorSource


def images(count: int = 9, height: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize("channels_last", [False, True])
def test_both_layouts_are_recognised_by_their_shape(path, channels_last):
    save_file({"images": images().permute(0, 2, 3, 1).contiguous() if channels_last else images()}, path)
    source = open_images(path)
    assert isinstance(source, SafetensorsSource)
    assert (source.count, source.shape, source.name) == (9, (6, 5), "x.safetensors")
    for start, stop in [(0, 9), (2, 5), (8, 9), (4, 4)]:
        assert torch.equal(source.read(start, stop), images()[start:stop])
    assert source.labels_N is None and source.seeds_N is None and source.provenance == Provenance()
    with pytest.raises(IndexError):
        source.read(8, 10)


def test_labels_seeds_and_provenance(path):
    stated = json.dumps({"format": 1, "provenance": {"labels": "uniform"}})
    tensors = {"images": images(), "labels": torch.arange(9, dtype=torch.int32), "seeds": torch.arange(9) + 5}
    save_file(tensors, path, {"arvbench": stated})
    source = SafetensorsSource(path)
    assert source.labels_N.tolist() == list(range(9)) and source.labels_N.dtype == torch.int64
    assert source.seeds_N.tolist() == list(range(5, 14))
    assert source.provenance.labels == "uniform"


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"pixels": images()}, None, "no tensor 'images'; it has: pixels"),
        ({}, None, "no tensor 'images'; it has: no tensors"),
        ({"images": images().float()}, None, "images is float32; quality is measured on uint8"),
        ({"images": images().half()}, None, "images is float16"),
        ({"images": images()[:, :1]}, None, "grayscale"),
        ({"images": images()[:0]}, None, "holds no images"),
        ({"images": images(9, 6, 3)}, None, "may be channels first or channels last"),
        ({"images": images(), "labels": torch.zeros(9)}, None, "labels must be integers, it is torch.float32"),
        ({"images": images(), "labels": torch.zeros(9, dtype=torch.bool)}, None, "labels must be integers"),
        ({"images": images(), "labels": torch.zeros(8, dtype=torch.int64)}, None, r"labels has shape \[8\]"),
        ({"images": images()}, {"arvbench": "x"}, "metadata arvbench is not JSON"),
        ({"images": images()}, {"arvbench": " " * (2**20 + 1)}, "not written by arvbench"),
    ],
)
def test_files_other_than_samples_are_refused_by_name(path, tensors, metadata, message):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    with pytest.raises(UserError, match=rf"x\.safetensors.*{message}"):
        SafetensorsSource(path)


@pytest.mark.parametrize("keep", [0, 4, 60, 0.5, -1])
def test_a_truncated_file_is_named(path, keep):
    save_file({"images": images()}, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(UserError, match=r"x\.safetensors is not a readable \.safetensors, or it is truncated"):
        SafetensorsSource(path)


def test_a_file_that_changes_has_another_key_and_is_not_read_on(path):
    save_file({"images": images()}, path)
    source = SafetensorsSource(path)
    key = source.key
    save_file({"images": images(4)}, path)
    assert SafetensorsSource(path).key != key
    with pytest.raises(UserError, match="has changed since it was opened"):
        source.read(0, 2)


def test_a_tensor_in_memory_is_a_source_too():
    whole = images()
    source = TensorSource(whole, name="digits", labels_N=torch.arange(9, dtype=torch.int16))
    assert (source.name, source.count, source.shape) == ("digits", 9, (6, 5))
    assert torch.equal(source.read(2, 5), whole[2:5]) and source.labels_N.dtype == torch.int64
    source.read(2, 5).zero_()
    assert torch.equal(source.read(2, 5), images()[2:5])
    assert TensorSource(whole.clone()).key == source.key != TensorSource(whole.flip(0)).key


@pytest.mark.parametrize(
    ("tensor", "labels", "message"),
    [
        (images().float(), None, "x is float32"),
        (images().permute(0, 2, 3, 1), None, "x is channels last"),
        (images()[0], None, "3 x 6 x 5"),
        (images(), torch.arange(8), "labels of x must be 9 integers"),
        (images(), torch.rand(9), "labels of x must be 9 integers"),
    ],
)
def test_a_tensor_other_than_a_batch_of_rgb_bytes_is_refused(tensor, labels, message):
    with pytest.raises(UserError, match=message):
        TensorSource(tensor, name="x", labels_N=labels)
