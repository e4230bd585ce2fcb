"""Resizes equal another implementation of their filters, and distort nothing silently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from arvbench.adapters.pixels import from_uint8, to_uint8, to_unit_range
from arvbench.errors import UserError
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.resize import Resize, ResizedSource, parse_resize
from arvbench.harness.quality.images.source import Provenance
from arvbench.harness.quality.images.tensors import TensorSource

BICUBIC, PILLOW = Resize("bicubic", 16), Resize("pil-bicubic", 16)


def images(count: int = 3, side: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def keys_cubic(distance: float, a: float) -> float:
    """Keys's convolution kernel (1981)."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def weights(side: int, target: int, *, a: float, antialias: bool) -> np.ndarray:
    """(target, side): how much each source pixel gives to each target pixel, in fp64, from the definition."""
    scale = side / target
    stretch = max(scale, 1.0) if antialias else 1.0
    matrix = np.zeros((target, side))
    for place in range(target):
        centre = (place + 0.5) * scale - 0.5
        reach = range(int(np.floor(centre - 2 * stretch)), int(np.ceil(centre + 2 * stretch)) + 1)
        for source in reach:
            weight = keys_cubic((source - centre) / stretch, a)
            if antialias and not 0 <= source < side:
                continue  # Pillow leaves out pixels outside the image, torch repeats the edge
            matrix[place, min(max(source, 0), side - 1)] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


def separable(images_n3HW: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.einsum("yY,xX,ncYX->ncyx", matrix, matrix, images_n3HW)


def test_bicubic_of_decoded_images_is_the_formula_before_they_become_bytes():
    decoded = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1
    expected = separable(decoded.double().numpy() * 2 - 1, weights(24, 16, a=-0.75, antialias=False))
    numbers = np.clip(127.5 * expected + 128, 0, 255)
    got = BICUBIC.of_decoded(decoded, "127.5x+128").numpy()
    clamped = (numbers == 0) | (numbers == 255)
    sure = clamped | (np.abs(numbers - np.round(numbers)) > 1e-3)  # elsewhere fp32 may fall to the other side
    assert sure.mean() > 0.99 and clamped.mean() < 0.5
    assert (got == np.floor(numbers))[sure].all()
    truncated = BICUBIC.of_decoded(decoded, "truncate").int() - torch.from_numpy(got).int()
    assert set(truncated.unique().tolist()) == {-1, 0}


def test_bicubic_of_bytes_is_bytes_to_floats_to_bytes():
    source = ResizedSource(TensorSource(images()), BICUBIC)
    expected = torch.nn.functional.interpolate(from_uint8(images()), size=(16, 16), mode="bicubic")
    numbers = (127.5 * expected + 128).clamp(0, 255)
    assert (source.read(0, 3).int() - numbers.to(torch.uint8).int()).abs().max() <= 1
    assert (source.read(0, 3) == numbers.to(torch.uint8)).float().mean() > 0.999
    # Bytes first and floats first are two things.
    floats_first = BICUBIC.of_decoded(images().float() / 255 + 0.4 / 255, "truncate")
    assert not torch.equal(source.read(0, 3), floats_first)


def test_pillows_bicubic_is_antialiased_of_bytes_and_the_same_for_model_and_file():
    got = PILLOW.of_bytes(images())
    # Pillow rounds and clamps to bytes after each of its two passes: low contrast is not clamped.
    dull = images() // 4 + 96
    expected = separable(dull.double().numpy(), weights(24, 16, a=-0.5, antialias=True))
    assert np.abs(PILLOW.of_bytes(dull).numpy() - expected).max() < 1.3
    one = Image.fromarray(images()[0].permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(got[0].permute(1, 2, 0).numpy(), np.asarray(one))
    decoded = to_unit_range(from_uint8(images()))
    assert torch.equal(PILLOW.of_decoded(decoded, "round"), got)
    assert (got.int() - BICUBIC.of_bytes(images()).int()).abs().float().mean() > 5


def test_a_resize_to_the_same_size_changes_no_byte():
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for resize in (BICUBIC, PILLOW):
        assert torch.equal(resize.of_bytes(every_byte), every_byte)


def test_a_range_is_that_part_of_the_whole():
    source = ResizedSource(TensorSource(images(40)), BICUBIC)
    assert torch.equal(source.read(7, 33), source.read(0, 40)[7:33])
    assert source.read(5, 5).shape == (0, 3, 16, 16)


def test_a_resized_source_keeps_its_facts_and_states_the_resize(tmp_path):
    whole = TensorSource(
        images(), labels_N=torch.tensor([4, 5, 6]), seeds_N=torch.arange(3), provenance=Provenance(uint8_rule="round")
    )
    source = ResizedSource(whole, BICUBIC)
    assert (source.count, source.shape) == (3, (16, 16))
    assert source.labels_N.tolist() == [4, 5, 6] and source.seeds_N.tolist() == [0, 1, 2]
    assert (source.provenance.resize, source.provenance.uint8_rule) == ("bicubic:16 of bytes", "round")
    assert ResizedSource(whole, PILLOW).provenance.resize == "pil-bicubic:16"
    again = ResizedSource(source, Resize("pil-bicubic", 8))
    assert again.provenance.resize == "bicubic:16 of bytes, then pil-bicubic:8"
    assert len({whole.key, source.key, ResizedSource(whole, PILLOW).key, again.key}) == 4


def test_files_are_resized_when_they_are_opened(tmp_path):
    np.savez(tmp_path / "x.npz", images().permute(0, 2, 3, 1).numpy())
    source = open_images(tmp_path / "x.npz", resize="bicubic:16")
    assert torch.equal(source.read(0, 3), BICUBIC.of_bytes(images()))
    assert open_images(tmp_path / "x.npz", resize="none").provenance.resize == "none"


def test_images_other_than_squares_are_refused():
    with pytest.raises(UserError, match="images of 24 x 20; bicubic:16 resizes square images only"):
        ResizedSource(TensorSource(images()[:, :, :20]), BICUBIC)


@pytest.mark.parametrize(
    "name", ["bicubic", "bicubic:", "bicubic:0", "bicubic:8193", "bicubic:-1", "bilinear:256", "256", "", "bicubic:2e2"]
)
def test_an_unknown_resize_says_which_there_are(name, tmp_path):
    with pytest.raises(UserError, match=r"no resize .*bicubic:PX.*pil-bicubic:PX.*none"):
        parse_resize(name)
    with pytest.raises(UserError, match="no resize"):
        open_images(tmp_path / "nothing there", resize=name)


def test_known_resizes_have_their_name_back():
    for name in ("bicubic:256", "pil-bicubic:64"):
        assert str(parse_resize(name)) == name
    assert parse_resize(None) is None and parse_resize("none") is None


def test_bytes_of_a_resize_use_the_rule_of_its_name():
    """At a place where the two rules differ most: not by chance the right one."""
    assert not torch.equal(to_uint8(to_unit_range(from_uint8(images())), "truncate"), images())
    flat = torch.full((1, 3, 24, 24), 77, dtype=torch.uint8)
    assert torch.equal(BICUBIC.of_bytes(flat), flat[:, :, :16, :16])
