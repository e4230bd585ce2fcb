"""CMMD against direct NumPy and against distances that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.metrics.mmd import cmmd


def embeddings(count: int, seed: int, dims: int = 16, shift: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=generator) + shift


def direct(x_ND: Tensor, y_MD: Tensor, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """All kernel values at once, from differences."""
    x, y = (v.double().numpy() / np.linalg.norm(v.double().numpy(), axis=1, keepdims=True) for v in (x_ND, y_MD))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return float(np.exp(-squared / (2 * sigma**2)).mean())

    return scale * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


@pytest.mark.parametrize(("count", "reference_count"), [(150, 150), (150, 90), (1, 40)])
def test_cmmd_equals_all_pairs_at_once(count, reference_count):
    x_ND, y_MD = embeddings(count, 1), embeddings(reference_count, 2, shift=0.3)
    assert cmmd(x_ND, y_MD) == pytest.approx(direct(x_ND, y_MD), abs=1e-9)


@pytest.mark.parametrize("tile", [1, 7, 64, 150])
def test_tiles_change_nothing(tile):
    x_ND, y_MD = embeddings(150, 1), embeddings(90, 2, shift=0.3)
    assert cmmd(x_ND, y_MD, tile=tile) == pytest.approx(direct(x_ND, y_MD), abs=1e-9)


def test_another_kernel_width_and_scale():
    x_ND, y_MD = embeddings(50, 1), embeddings(60, 2)
    assert cmmd(x_ND, y_MD, sigma=0.5, scale=1) == pytest.approx(direct(x_ND, y_MD, 0.5, 1), abs=1e-12)


def test_two_single_images_have_the_distance_of_their_kernel():
    # Perpendicular unit vectors: |x - y|^2 = 2, self terms 1 because an image with itself counts.
    value = cmmd(torch.tensor([[2.0, 0]]), torch.tensor([[0, 5.0]]))
    assert value == pytest.approx(1000 * (2 - 2 * math.exp(-2 / 200)), rel=1e-12)


def test_a_set_has_no_distance_to_itself_and_length_does_not_matter():
    x_ND = embeddings(100, 1)
    assert cmmd(x_ND, x_ND) == pytest.approx(0, abs=1e-9)
    assert cmmd(4 * x_ND, embeddings(80, 2)) == pytest.approx(cmmd(x_ND, embeddings(80, 2)), abs=1e-9)


def test_it_grows_with_the_distance():
    x_ND = embeddings(200, 1)
    values = [cmmd(x_ND, embeddings(200, 2, shift=shift)) for shift in (0.5, 0.3, 0.0)]
    assert values == sorted(values)
    assert values[2] > 3 * values[0] > 0


@pytest.mark.parametrize(
    ("x_ND", "y_MD", "says"),
    [
        (torch.zeros(0, 4), torch.ones(3, 4), "at least 1 image of samples"),
        (torch.ones(3, 4), torch.zeros(0, 4), "at least 1 image of reference"),
        (torch.ones(3, 4), torch.ones(3, 5), "samples have 4 feature dimensions and the reference 5"),
        (torch.eye(4) * torch.tensor([1.0, 1, torch.nan, 1]), torch.ones(3, 4), r"4 of 4 embeddings of the samples"),
        (torch.ones(3, 4), torch.diag(torch.tensor([1.0, 0, 1, 0])), r"2 of 4 .* reference .* \(first: image 1\)"),
    ],
)
def test_unusable_embeddings_are_named(x_ND, y_MD, says):
    with pytest.raises(UserError, match=says):
        cmmd(x_ND, y_MD)
