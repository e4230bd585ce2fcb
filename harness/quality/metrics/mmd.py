"""CMMD: squared maximum mean discrepancy of CLIP embeddings under a Gaussian kernel, times 1000.

CMMD = 1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), k(x, y) = exp(-|x - y|^2 / (2 sigma^2)), sigma = 10, on
embeddings of length 1. The means are over all pairs, including an image with itself: the minimum-variance estimator, as
published. It is biased upwards by 1000 (1 - mean k) / N of each set: under 1 at N = 20, as k > 0.98 for unit vectors.

Shapes   N samples, M reference images, D dimensions of an embedding
Range    0 (equal sets) and up; rounding in float64 is about 1e-11 where published fp32 code has about 1e-4
Source   Jayasumana et al. 2024 (arXiv:2401.09603)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arvbench.errors import UserError

SIGMA = 10.0
SCALE = 1000.0


def cmmd(
    samples_ND: Tensor,
    reference_MD: Tensor,
    *,
    sigma: float = SIGMA,
    scale: float = SCALE,
    device: torch.device | str = "cpu",
    tile: int = 2048,
) -> float:
    """Return the CMMD of two sets of embeddings (N, D) and (M, D), which are scaled to length 1 here.

    Only `tile` x `tile` values of the kernel matrix, in float64, are in memory at a time. Raises UserError for an
    empty set, different D, or embeddings that are zero or not finite.
    """
    if samples_ND.shape[1] != reference_MD.shape[1]:
        raise UserError(
            f"samples have {samples_ND.shape[1]} feature dimensions and the reference {reference_MD.shape[1]}: take a "
            "reference made with the samples' extractor"
        )
    device = torch.device(device)
    x_tiles = _unit(samples_ND, "samples", device).split(tile)
    y_tiles = _unit(reference_MD, "reference", device).split(tile)
    gamma = 1 / (2 * sigma**2)
    within = _mean_self(x_tiles, gamma) + _mean_self(y_tiles, gamma)
    return scale * (within - 2 * _mean_cross(x_tiles, y_tiles, gamma))


def _unit(features_ND: Tensor, side: str, device: torch.device) -> Tensor:
    """Return the embeddings scaled to length 1, fp64."""
    if len(features_ND) == 0:
        raise UserError(f"CMMD needs at least 1 image of {side}, there is none")
    features_ND = features_ND.to(device).double()
    lengths_N = features_ND.norm(dim=1)
    bad_N = ~lengths_N.isfinite() | (lengths_N == 0)
    if bad_N.any():
        raise UserError(
            f"{int(bad_N.sum())} of {len(bad_N)} embeddings of the {side} are zero, NaN or infinite (first: image "
            f"{int(bad_N.nonzero()[0])}); extract them again"
        )
    unit_ND: Tensor = features_ND / lengths_N[:, None]
    return unit_ND


def _mean_cross(x_tiles: Sequence[Tensor], y_tiles: Sequence[Tensor], gamma: float) -> float:
    """Return the mean kernel over all pairs from two sets."""
    total = sum(_tile_sum(x_BD, y_BD, gamma) for x_BD in x_tiles for y_BD in y_tiles)
    return total / (sum(map(len, x_tiles)) * sum(map(len, y_tiles)))


def _mean_self(tiles: Sequence[Tensor], gamma: float) -> float:
    """Return the mean kernel over all pairs within one set; tiles above the diagonal count twice."""
    total = 0.0
    for row, x_BD in enumerate(tiles):
        total += _tile_sum(x_BD, x_BD, gamma)
        total += 2 * sum(_tile_sum(x_BD, y_BD, gamma) for y_BD in tiles[row + 1 :])
    return total / sum(map(len, tiles)) ** 2


def _tile_sum(x_BD: Tensor, y_BD: Tensor, gamma: float) -> float:
    # |x - y|^2 = 2 - 2 x.y for embeddings of length 1
    return float((x_BD @ y_BD.T).sub_(1).mul_(2 * gamma).exp_().sum())
