"""torch-fidelity's numbers without torch-fidelity: the bits of its own functions, on sets that tie and degenerate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from arvbench.harness.quality.metrics.as_torch_fidelity import (
    frechet_of_product,
    gaussian_fit,
    precision_recall_of_batches,
    shuffled_score,
)


def features(count: int, seed: int, dims: int = 64, dtype: torch.dtype = torch.float64) -> Tensor:
    """Features as a classifier has them: not below zero, some of them always zero."""
    generator = torch.Generator().manual_seed(seed)
    scales_D = torch.linspace(-0.2, 2, dims).clamp(min=0)
    return (torch.randn(count, dims, generator=generator) * scales_D + 0.1).clamp(min=0).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("samples", "reference"), [(300, 250), (20, 250), (2, 3)])
def test_frechet_distance(samples: int, reference: int, dtype: torch.dtype) -> None:
    x_ND, y_MD = features(samples, 1, dtype=dtype), features(reference, 2, dtype=dtype)
    both = (fid_features_to_statistics(z) for z in (x_ND, y_MD))
    theirs = fid_statistics_to_metric(*both, verbose=False)[KEY_METRIC_FID]
    assert frechet_of_product(gaussian_fit(x_ND), gaussian_fit(y_MD)) == theirs


@pytest.mark.parametrize("splits", [1, 3, 10])
@pytest.mark.parametrize("count", [10, 997])
def test_inception_score(count: int, splits: int) -> None:
    logits_NC = 5 * torch.randn(count, 10, generator=torch.Generator().manual_seed(count))
    theirs = isc_features_to_metric(logits_NC, splits=splits, shuffle=True, rng_seed=2020)
    found = shuffled_score(logits_NC, splits=splits, seed=2020)
    assert found == (theirs[KEY_METRIC_ISC_MEAN], theirs[KEY_METRIC_ISC_STD])


def with_copies(count: int, seed: int) -> Tensor:
    """Every image thrice, so that distances of zero and radii tie."""
    return features(-(-count // 3), seed, 8).repeat(3, 1)[:count]


@pytest.mark.parametrize("make", [features, with_copies])
@pytest.mark.parametrize("batch", [70, 10_000])
@pytest.mark.parametrize(("samples", "reference"), [(300, 250), (4, 60), (60, 4)])
def test_precision_and_recall(make, batch: int, samples: int, reference: int) -> None:
    x_ND, y_MD = make(samples, 1), make(reference, 2)
    for pair in ((x_ND, y_MD), (x_ND, x_ND), (x_ND, torch.cat([x_ND[::2], y_MD]))):
        settings = {"prc_neighborhood": 3, "prc_batch_size": batch, "save_cpu_ram": True, "verbose": False}
        theirs = prc_features_to_metric(*pair, **settings)
        found = precision_recall_of_batches(*pair, k=3, batch=batch)
        assert found == (theirs[KEY_METRIC_PRECISION], theirs[KEY_METRIC_RECALL])
