"""Kernel distance (KID) over random subsets, from kernel matrices that are computed once.

KID is the mean over S subsets of the unbiased squared maximum mean discrepancy, with the kernel (x.y / D + 1)^3. Values
are those of torch-fidelity's `kid_features_to_metric` to rounding: subsets are drawn with the same generator. The
library makes three kernel matrices per subset. Here a subset is a column of zeros and ones, and the sum of the kernel
over its pairs a product of the whole matrix with that column.

Shapes   N samples, M reference images, D features, S subsets, B rows of a tile
Source   Binkowski et al. 2018 (arXiv:1801.01401)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_TILE = 2048
"""Rows of a kernel matrix in memory at a time."""


class Kid(NamedTuple):
    """Mean and standard deviation over subsets."""

    mean: float
    std: float


def kid(samples_ND: Tensor, reference_MD: Tensor, *, subsets: int, size: int, seed: int) -> Kid:
    """Return KID of two sets of features, in the type of the features. `size` <= N, M is that of a subset."""
    generator = np.random.RandomState(seed)
    chosen = [
        [generator.choice(len(features), size, replace=False) for features in (samples_ND, reference_MD)]
        for _ in range(subsets)
    ]
    members_NS, members_MS = (
        _members(len(features), [both[side] for both in chosen], features.dtype)
        for side, features in enumerate((samples_ND, reference_MD))
    )
    within = size * (size - 1)
    values_S = (
        _pair_sums(samples_ND, samples_ND, members_NS, members_NS, own=True) / within
        + _pair_sums(reference_MD, reference_MD, members_MS, members_MS, own=True) / within
        - 2 * _pair_sums(samples_ND, reference_MD, members_NS, members_MS) / size**2
    )
    return Kid(float(values_S.mean()), float(values_S.std(correction=0)))


def _members(count: int, subsets: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    """Return (count, S): 1 where an image is in a subset."""
    members = torch.zeros(count, len(subsets), dtype=dtype)
    for place, indices in enumerate(subsets):
        members[torch.from_numpy(indices), place] = 1
    return members


def _pair_sums(
    rows_ND: Tensor, columns_MD: Tensor, rows_NS: Tensor, columns_MS: Tensor, *, own: bool = False
) -> Tensor:
    """Return (S,): the kernel summed over all pairs of each subset; `own`: without that of an image with itself."""
    sums_S = torch.zeros(rows_NS.shape[1], dtype=rows_ND.dtype)
    for start in range(0, len(rows_ND), _TILE):
        rows = slice(start, start + _TILE)
        kernel_BM = (rows_ND[rows] @ columns_MD.T).div_(rows_ND.shape[1]).add_(1)
        kernel_BM = kernel_BM.square() * kernel_BM
        if own:
            kernel_BM[:, rows].fill_diagonal_(0)
        sums_S += (rows_NS[rows] * (kernel_BM @ columns_MS)).sum(dim=0)
    return sums_S


def worth_sharing(samples: int, reference: int, *, subsets: int, size: int) -> bool:
    """Return whether whole kernel matrices cost less than those of the subsets."""
    return samples**2 + reference**2 + samples * reference < 3 * subsets * size**2
