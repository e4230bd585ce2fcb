"""Quality numbers that vary with the run seed: windows of means, one value per seed.

A seed draws the noise of all images, so values of different seeds are independent, and the mean over seeds has a t
interval. A bootstrap over the images of one seed would miss what the seed itself moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from arvbench.harness.check.gated import Pair
from arvbench.harness.check.launch_tests import Floats
from arvbench.harness.check.rule import Rule
from arvbench.harness.check.wording import change_of, percent
from arvbench.results.verdict import Change, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSided:
    p: float
    """Of each number alone, by Welch's t test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedComparison:
    """Comparison of the means over seeds."""

    ratio: float
    interval: tuple[float, float] | None
    """95 % interval of the ratio; None for fewer than 2 seeds on a side."""
    error: float
    """Standard error of the difference, relative to base."""
    freedom: float
    up: OneSided
    down: OneSided


def compare_seeds(base: Floats, head: Floats) -> SeedComparison:
    """Compare the means of positive values, one per seed. A side of one seed has p = 1: it shows no scatter."""
    from scipy.stats import ttest_ind

    middle = float(base.mean())
    ratio = float(head.mean()) / middle
    if min(len(base), len(head)) < 2:
        none = OneSided(p=1.0)
        return SeedComparison(ratio=ratio, interval=None, error=inf, freedom=1.0, up=none, down=none)
    if base.std() == 0 == head.std():
        up, down = OneSided(p=float(ratio <= 1)), OneSided(p=float(ratio >= 1))
        return SeedComparison(ratio=ratio, interval=(ratio, ratio), error=0.0, freedom=1.0, up=up, down=down)
    test = ttest_ind(head, base, equal_var=False)
    window = test.confidence_interval(0.95)
    error = float(np.sqrt(base.var(ddof=1) / len(base) + head.var(ddof=1) / len(head)))
    p_up = float(ttest_ind(head, base, equal_var=False, alternative="greater").pvalue)
    return SeedComparison(
        ratio=ratio,
        interval=(1 + float(window.low) / middle, 1 + float(window.high) / middle),
        error=error / middle,
        freedom=float(test.df),
        up=OneSided(p=p_up),
        down=OneSided(p=1 - p_up),
    )


def seeds_change(pair: Pair, found: SeedComparison, p: tuple[float, float], family: int, rule: Rule) -> Change:
    """Judge one quality number; `p` of head being larger and smaller, adjusted for the family."""
    from scipy.stats import t

    series = pair.shown
    seeds = min(map(len, pair.values))
    quantiles = t.ppf(1 - rule.level / family, found.freedom) + t.ppf(rule.power, found.freedom)
    seen = max(rule.quality_change, float(quantiles * found.error)) if found.error else rule.quality_change
    smallest = min(p)
    if seeds < rule.quality_seeds:
        verdict = Verdict.INCONCLUSIVE
        reason = f"The values differ, and {seeds} run seeds per side show no window; {rule.quality_seeds} are needed."
    elif smallest <= rule.level and abs(found.ratio - 1) >= rule.quality_change:
        better = (found.ratio < 1) == series.lower_is_better
        verdict = Verdict.IMPROVEMENT if better else Verdict.REGRESSION
        word = "better" if better else "worse"
        reason = f"{percent(found.ratio - 1)} {word} over {seeds} run seeds, outside their window (p = {smallest:.2g})."
    elif seen > rule.blind:
        verdict = Verdict.INCONCLUSIVE
        reason = f"Only changes of {percent(seen)} or more would be found with {seeds} run seeds."
    else:
        verdict = Verdict.PASS
        reason = f"Within the window of {seeds} run seeds; {percent(seen)} would be found."
    return change_of(
        pair,
        verdict,
        reason,
        ratio=found.ratio,
        interval=found.interval,
        smallest_detectable=seen if np.isfinite(seen) else None,
        p=smallest,
    )
