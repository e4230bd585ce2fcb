"""95 % intervals of a share and of a mean."""

from __future__ import annotations

import math

from arvbench.errors import UserError

NORMAL_95 = 1.959963984540054
"""Quantile of the normal distribution for a two-sided 95 %."""


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's interval of a share of `count` independent images.

    For precision, recall and coverage it covers the sampling error of the counted images only: the other set, which
    defines the balls, counts as fixed. Raises UserError for a share outside 0..1 or no images.
    """
    if not 0 <= share <= 1 or count < 1:
        raise UserError(f"an interval needs a share of 0..1 of at least 1 image, not {share} of {count}")
    z2 = NORMAL_95**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    reach = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    # The ends are exact for shares of 0 and 1, where rounding could pass them.
    return (0.0 if share == 0 else centre - reach, 1.0 if share == 1 else centre + reach)


def interval_of_mean(mean: float, std: float, count: int, *, quantile: float | None = None) -> tuple[float, float]:
    """Return Student's interval of a mean over `count` >= 2 values with population standard deviation `std`.

    `quantile` is the 97.5 % point of t with `count` - 1 degrees of freedom, for callers that fix its digits.
    """
    if quantile is None:
        from scipy.stats import t as student

        quantile = float(student.ppf(0.975, count - 1))
    half = quantile * std / math.sqrt(count - 1)
    return mean - half, mean + half
