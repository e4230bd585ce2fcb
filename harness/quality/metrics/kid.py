"""Kernel distance (KID) over random subsets.

KID is the mean over S subsets of the unbiased squared maximum mean discrepancy, with the kernel (x.y / D + 1)^3. Values
are those of torch-fidelity's `kid_features_to_metric` to rounding: subsets are drawn with the same generator. The
library makes three kernel matrices per subset. Here a subset is a column of zeros and ones, and the sum of the kernel
over its pairs a product of the whole matrix with that column; tiles below the diagonal of a symmetric matrix are those
above. Where the whole matrices cost more than those of the subsets, a subset is a set of its own.

Shapes   N samples, M reference images, D features, S subsets, B rows of a tile
Source   Binkowski et al. 2018 (arXiv:1801.01401)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_TILE = 2048
"""Rows and columns of a kernel matrix in memory at a time."""

Subsets = list[tuple[np.ndarray, np.ndarray]]
"""Indices of the samples and of the reference images of every subset."""


class Kid(NamedTuple):
    """Mean and standard deviation over subsets."""

    mean: float
    std: float


def kid(samples_ND: Tensor, reference_MD: Tensor, *, subsets: int, size: int, seed: int) -> Kid:
    """Return KID of two sets of features, in the type of the features. `size` <= N, M is that of a subset."""
    counts, generator = (len(samples_ND), len(reference_MD)), np.random.RandomState(seed)
    chosen: Subsets = []
    for _ in range(subsets):
        of_samples, of_reference = (generator.choice(count, size, replace=False) for count in counts)
        chosen.append((of_samples, of_reference))
    if _whole_is_cheaper(*counts, subsets=subsets, size=size):
        values_S = _discrepancies(samples_ND, reference_MD, chosen, size)
    else:
        everything = np.arange(size)
        values_S = torch.cat(
            [_discrepancies(samples_ND[i], reference_MD[j], [(everything, everything)], size) for i, j in chosen]
        )
    return Kid(float(values_S.mean()), float(values_S.std(correction=0)))


def _whole_is_cheaper(samples: int, reference: int, *, subsets: int, size: int) -> bool:
    """Return whether whole kernel matrices cost less than those of the subsets."""
    return samples**2 / 2 + reference**2 / 2 + samples * reference < 2 * subsets * size**2


def _discrepancies(samples_ND: Tensor, reference_MD: Tensor, chosen: Subsets, size: int) -> Tensor:
    """Return (S,): the squared maximum mean discrepancy of every subset."""
    members_NS = _members(samples_ND, [of_samples for of_samples, _ in chosen])
    members_MS = _members(reference_MD, [of_reference for _, of_reference in chosen])
    within_S = _pair_sums_within(samples_ND, members_NS) + _pair_sums_within(reference_MD, members_MS)
    between_S = _pair_sums_between(samples_ND, reference_MD, members_NS, members_MS)
    return within_S / (size * (size - 1)) - 2 * between_S / size**2


def _members(features_ND: Tensor, subsets: list[np.ndarray]) -> Tensor:
    """Return (N, S): 1 where an image is in a subset."""
    members_NS = torch.zeros(len(features_ND), len(subsets), dtype=features_ND.dtype)
    for place, indices in enumerate(subsets):
        members_NS[torch.from_numpy(indices), place] = 1
    return members_NS


def _tiles(count: int, first: int = 0) -> list[slice]:
    return [slice(start, start + _TILE) for start in range(first, count, _TILE)]


def _pair_sums_within(features_ND: Tensor, members_NS: Tensor) -> Tensor:
    """Return (S,): the kernel summed over all pairs of two images of a subset."""
    sums_S = torch.zeros(members_NS.shape[1], dtype=features_ND.dtype)
    for rows in _tiles(len(features_ND)):
        kernel_BB = _kernel(features_ND[rows], features_ND[rows]).fill_diagonal_(0)
        sums_S += _sums(kernel_BB, members_NS[rows], members_NS[rows])
        for columns in _tiles(len(features_ND), rows.stop):
            kernel_BB = _kernel(features_ND[rows], features_ND[columns])
            sums_S += 2 * _sums(kernel_BB, members_NS[rows], members_NS[columns])
    return sums_S


def _pair_sums_between(samples_ND: Tensor, reference_MD: Tensor, members_NS: Tensor, members_MS: Tensor) -> Tensor:
    """Return (S,): the kernel summed over all samples and reference images of a subset."""
    sums_S = torch.zeros(members_NS.shape[1], dtype=samples_ND.dtype)
    for rows in _tiles(len(samples_ND)):
        for columns in _tiles(len(reference_MD)):
            kernel_BB = _kernel(samples_ND[rows], reference_MD[columns])
            sums_S += _sums(kernel_BB, members_NS[rows], members_MS[columns])
    return sums_S


def _kernel(x_BD: Tensor, y_CD: Tensor) -> Tensor:
    kernel_BC = (x_BD @ y_CD.T).div_(x_BD.shape[1]).add_(1)
    return kernel_BC.square().mul_(kernel_BC)


def _sums(kernel_BC: Tensor, rows_BS: Tensor, columns_CS: Tensor) -> Tensor:
    return (rows_BS * (kernel_BC @ columns_CS)).sum(dim=0)
