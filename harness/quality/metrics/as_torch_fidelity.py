"""Numbers of torch-fidelity 0.4.0, bit for bit and without importing it, which costs seconds.

The order of operations, their types and the shapes of products are the library's; results differ from those of the
other modules here by rounding. Tests compare every bit (tests/harness/quality/metrics/test_as_torch_fidelity.py).

Shapes   N samples, M reference images, D features, C classes; R rows and C columns of a block of distances
Source   toshas/torch-fidelity, metric_fid.py, metric_isc.py, metric_prc.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class GaussianFit(NamedTuple):
    """Mean (D,) and covariance (D, D) in NumPy, N - 1 in the denominator."""

    mean: np.ndarray
    covariance: np.ndarray


def gaussian_fit(features_ND: Tensor) -> GaussianFit:
    """Return the moments of features; the mean has their type, the covariance is fp64."""
    features = features_ND.numpy()
    return GaussianFit(np.mean(features, axis=0), np.cov(features, rowvar=False))


def frechet_of_product(one: GaussianFit, other: GaussianFit) -> float:
    """Return the Frechet distance from the eigenvalues of the product of both covariances."""
    shift = one.mean - other.mean
    values = np.linalg.eigvals(one.covariance.dot(other.covariance)).astype("complex128")
    root_trace = np.sum(np.sqrt(values).real)
    return float(shift.dot(shift) + np.trace(one.covariance) + np.trace(other.covariance) - 2 * root_trace)


def shuffled_score(logits_NC: Tensor, *, splits: int, seed: int) -> tuple[float, float]:
    """Return the inception score, mean and population standard deviation over `splits` parts of a shuffled order."""
    count = len(logits_NC)
    logits_NC = logits_NC[np.random.RandomState(seed).permutation(count)].double()
    p_NC, log_p_NC = logits_NC.softmax(dim=1), logits_NC.log_softmax(dim=1)
    scores = []
    for part in range(splits):
        rows = slice(part * count // splits, (part + 1) * count // splits)
        divergence_nC = p_NC[rows] * (log_p_NC[rows] - p_NC[rows].mean(dim=0, keepdim=True).log())
        scores.append(divergence_nC.sum(dim=1).mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall_of_batches(samples_ND: Tensor, reference_MD: Tensor, *, k: int, batch: int) -> tuple[float, float]:
    """Return precision and recall; inside a ball means distance <= radius, the k-th neighbour's distance.

    At most `batch` x `batch` distances are in memory at a time, where the library holds `batch` x max(N, M).
    """
    precision = _share_inside(samples_ND, reference_MD, _radii(reference_MD, k, batch), batch)
    return precision, _share_inside(reference_MD, samples_ND, _radii(samples_ND, k, batch), batch)


def _blocks(rows_ND: Tensor, columns_MD: Tensor, batch: int) -> Iterator[tuple[slice, slice, Tensor]]:
    for first_row in range(0, len(rows_ND), batch):
        rows = slice(first_row, first_row + batch)
        for first_column in range(0, len(columns_MD), batch):
            columns = slice(first_column, first_column + batch)
            yield rows, columns, torch.cdist(rows_ND[rows], columns_MD[columns])


def _radii(features_ND: Tensor, k: int, batch: int) -> Tensor:
    """Return (N,): the (k + 1)-th smallest distance to the whole set, itself included."""
    nearest_Nk = torch.full((len(features_ND), k + 1), torch.inf, dtype=features_ND.dtype)
    for rows, _, distances_RC in _blocks(features_ND, features_ND, batch):
        if distances_RC.shape[1] > k + 1:
            distances_RC = distances_RC.topk(k + 1, dim=1, largest=False, sorted=False).values
        candidates_RC = torch.cat([nearest_Nk[rows], distances_RC], dim=1)
        nearest_Nk[rows] = candidates_RC.topk(k + 1, dim=1, largest=False, sorted=False).values
    return nearest_Nk.amax(dim=1)


def _share_inside(images_ND: Tensor, centres_MD: Tensor, radii_M: Tensor, batch: int) -> float:
    """Return the share of images in a ball, rounded to fp32 as the library does."""
    inside_N = torch.zeros(len(images_ND), dtype=torch.bool)
    for rows, columns, distances_RC in _blocks(images_ND, centres_MD, batch):
        inside_N[rows] |= (distances_RC <= radii_M[columns]).any(dim=1)
    return inside_N.float().mean().item()
