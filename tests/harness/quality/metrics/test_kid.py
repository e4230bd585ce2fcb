"""KID from whole kernel matrices and from those of subsets, against torch-fidelity's own function."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from arvbench.harness.quality.metrics.kid import kid


@pytest.mark.parametrize(
    ("samples", "reference", "dims", "size"),
    [(60, 50, 8, 30), (3000, 2100, 4, 40), (3000, 2100, 4, 700), (5, 9, 3, 2), (40, 40, 70, 40)],
)
def test_the_number_is_torch_fidelitys(samples: int, reference: int, dims: int, size: int) -> None:
    """Whole matrices of one tile and several, matrices of subsets, the smallest subsets, and whole sets as subsets."""
    generator = torch.Generator().manual_seed(dims)
    x_ND = torch.randn(samples, dims, generator=generator, dtype=torch.float64)
    y_MD = 1.2 * torch.randn(reference, dims, generator=generator, dtype=torch.float64) + 0.1
    theirs = kid_features_to_metric(x_ND, y_MD, kid_subsets=25, kid_subset_size=size, rng_seed=7, verbose=False)
    ours = kid(x_ND, y_MD, subsets=25, size=size, seed=7)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10, abs=1e-12)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-10, abs=1e-12)
