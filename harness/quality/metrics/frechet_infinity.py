"""Frechet distance for infinitely many samples, extrapolated from subsets.

Shapes   N samples, D features
Source   Chong & Forsyth 2020 (arXiv:1911.07023)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.metrics.frechet import ReferenceRoot
from arvbench.harness.quality.metrics.intervals import NORMAL_95
from arvbench.harness.quality.metrics.weighted_frechet import distances_of_weightings

INFINITY_SIZES = 15
"""Number of sample sizes in the fit, as published."""
_SMALLEST_SHARE = 10
"""Ratio of N to the smallest sample size in the fit, as published (50,000 to 5,000)."""
_FEWEST_AT_INFINITY = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolated:
    """Distance for infinitely many samples: the intercept at 1/n = 0 of the line of FD against 1/n."""

    value: float
    stderr: float
    """Standard error of the intercept, from the scatter around the line. Subsets share images, so it does not contain
    the sampling error of the N samples (`frechet_spread`)."""
    sizes: tuple[int, ...]
    distances: tuple[float, ...]

    def interval(self, sampling_std: float) -> tuple[float, float]:
        """Return the 95 % interval of the distance at infinity; `sampling_std` is the standard deviation of FD at N.

        The scatter of the fit alone is too narrow: it covers the truth in about half of all cases.
        """
        reach = NORMAL_95 * math.hypot(self.stderr, sampling_std)
        return self.value - reach, self.value + reach


def fewest_at_infinity(dims: int) -> int:
    """Return the fewest samples for `frechet_at_infinity`: half of them still give a covariance of full rank."""
    return max(2 * (dims + 1), _FEWEST_AT_INFINITY)


def frechet_at_infinity(
    features_ND: Tensor, root: ReferenceRoot, seed: int = 0, *, device: torch.device | str = "cpu"
) -> Extrapolated:
    """Fit FD = a + b / n over 15 sizes n, evenly spaced up to N, and return a.

    Each size has its own random subset without replacement; the largest is all N. The smallest is max(N / 10, D + 1):
    below D + 1 a covariance lacks full rank and FD is not linear in 1/n. Raises UserError for fewer samples than
    `fewest_at_infinity(D)`, or features that are not finite or of another D.
    """
    count, dims = features_ND.shape
    if count < fewest_at_infinity(dims):
        raise UserError(
            f"the extrapolation of FID to infinitely many samples needs at least {fewest_at_infinity(dims)} samples "
            f"at {dims} feature dimensions, there are {count}"
        )
    smallest = max(count // _SMALLEST_SHARE, dims + 1)
    sizes_W = torch.linspace(smallest, count, INFINITY_SIZES, dtype=torch.float64).round().long()
    generator = torch.Generator().manual_seed(seed)
    weights_WN = torch.zeros(INFINITY_SIZES, count)
    for weights_N, size in zip(weights_WN, sizes_W.tolist(), strict=True):
        weights_N[torch.randperm(count, generator=generator)[:size]] = 1
    distances = distances_of_weightings(features_ND, root, weights_WN, device)
    value, stderr = _intercept(1 / sizes_W.double(), torch.tensor(distances, dtype=torch.float64))
    return Extrapolated(value=value, stderr=stderr, sizes=tuple(sizes_W.tolist()), distances=tuple(distances))


def _intercept(x_W: Tensor, y_W: Tensor) -> tuple[float, float]:
    """Return the intercept of the least-squares line and its standard error."""
    centred_W = x_W - x_W.mean()
    slope = centred_W @ y_W / centred_W.square().sum()
    intercept = y_W.mean() - slope * x_W.mean()
    variance = (y_W - intercept - slope * x_W).square().sum() / (len(x_W) - 2)
    stderr = (variance * (1 / len(x_W) + x_W.mean() ** 2 / centred_W.square().sum())).sqrt()
    return float(intercept), float(stderr)
