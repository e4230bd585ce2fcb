"""Mean and covariance of features, from sums of x and x x^T streamed in float64.

Shapes   B feature vectors of a block, N of all blocks, D dimensions
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and covariance of N feature vectors."""

    count: int | None
    """N; None for published statistics that do not state it."""
    mean_D: Tensor
    """(D,) fp64."""
    cov_DD: Tensor
    """(D, D) fp64, N - 1 in the denominator."""

    def with_fp32_mean(self) -> Moments:
        """Return a copy with the mean rounded to fp32, to match evaluators that average in fp32.

        This moves FD by about 4e-7 of its value.
        """
        return replace(self, mean_D=self.mean_D.float().double())


class MomentSums:
    """Running sums of one stream of features.

    The sums are centred on the mean of the first block, so that features far from zero lose no digits. Equal blocks in
    equal order give equal bits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin_D: Tensor | None = None
        self._sum_D: Tensor | None = None
        self._products_DD: Tensor | None = None

    def add(self, features_BD: Tensor) -> None:
        """Add a block of features (B, D), any float type. Raises ContractError for a block of another D."""
        if features_BD.dim() != 2 or (self._origin_D is not None and features_BD.shape[1] != len(self._origin_D)):
            raise ContractError(
                f"a block of features is {tuple(features_BD.shape)}, not (B, D) with the D of the first"
            )
        if len(features_BD) == 0:
            return
        block_BD = features_BD.double()
        if self._origin_D is None or self._sum_D is None or self._products_DD is None:
            self._origin_D = block_BD.mean(dim=0)
            self._sum_D = torch.zeros_like(self._origin_D)
            self._products_DD = torch.zeros(len(self._origin_D), len(self._origin_D), dtype=torch.float64)
        centred_BD = block_BD - self._origin_D
        self.count += len(block_BD)
        self._sum_D += centred_BD.sum(dim=0)
        self._products_DD += centred_BD.T @ centred_BD

    def moments(self) -> Moments:
        """Return mean and covariance of all added features. Raises UserError for fewer than two vectors."""
        if self.count < 2 or self._origin_D is None or self._sum_D is None or self._products_DD is None:
            raise UserError(f"a covariance needs at least 2 images, there are {self.count}")
        shift_D = self._sum_D / self.count
        scatter_DD = self._products_DD - self.count * torch.outer(shift_D, shift_D)
        return Moments(count=self.count, mean_D=self._origin_D + shift_D, cov_DD=scatter_DD / (self.count - 1))


def moments_of(blocks: Iterable[Tensor]) -> Moments:
    """Return the moments of blocks of features, each (B, D). Raises as `MomentSums`."""
    sums = MomentSums()
    for block_BD in blocks:
        sums.add(block_BD)
    return sums.moments()
