"""KID from whole kernel matrices, against torch-fidelity's own function."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from arvbench.harness.quality.metrics.kid import kid, worth_sharing


@pytest.mark.parametrize(
    ("samples", "reference", "dims", "size"), [(60, 50, 8, 30), (3000, 2100, 4, 40), (5, 9, 3, 2), (40, 40, 70, 40)]
)
def test_the_number_is_torch_fidelitys(samples: int, reference: int, dims: int, size: int) -> None:
    """More rows than a tile, the smallest subsets, and subsets that are the whole set."""
    generator = torch.Generator().manual_seed(dims)
    x_ND = torch.randn(samples, dims, generator=generator, dtype=torch.float64)
    y_MD = 1.2 * torch.randn(reference, dims, generator=generator, dtype=torch.float64) + 0.1
    theirs = kid_features_to_metric(x_ND, y_MD, kid_subsets=25, kid_subset_size=size, rng_seed=7, verbose=False)
    ours = kid(x_ND, y_MD, subsets=25, size=size, seed=7)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10, abs=1e-12)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-10, abs=1e-12)


def test_whole_matrices_are_made_while_they_cost_less() -> None:
    assert worth_sharing(1000, 1797, subsets=100, size=1000)
    assert not worth_sharing(50_000, 10_000, subsets=100, size=1000)
