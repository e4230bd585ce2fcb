"""Noise between launches of one commit, by gated number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, sqrt
from statistics import fmean, stdev, variance

import numpy as np

from arvbench.harness.check.few_launches import calls_of
from arvbench.harness.check.gated import Judgement, Key, Series
from arvbench.harness.check.judge import detectable
from arvbench.harness.check.launch_tests import scatter, two_modes
from arvbench.harness.check.numbers import gated_numbers
from arvbench.harness.check.rule import Rule
from arvbench.results.baselines import Noise
from arvbench.results.schema import Record


def noise_of(records: Sequence[Record], rule: Rule) -> tuple[Noise, ...]:
    """Return the noise of every gated number in launches of one commit."""
    series = gated_numbers(records, side="calibration").series
    varying = [one for one in series if one.judgement is Judgement.LAUNCHES]
    within = _within(records)
    return tuple(_noise(one, within.get(one.key), max(1, len(varying)), rule) for one in series)


def _noise(series: Series, within: float | None, family: int, rule: Rule) -> Noise:
    values = np.array(series.values, dtype=float)
    usable = len(values) >= 2 and bool(np.isfinite(values).all() and (values > 0).all())
    if series.judgement is not Judgement.LAUNCHES or not usable:
        between = stdev(series.values) / fmean(series.values) if usable else None
        return Noise(case=series.case, number=series.number, within_cv=None, between_cv=between, modes=1, mde=None)
    launches = (rule.launches, rule.launches)
    mde = float(detectable(scatter(values, values), launches, family, rule))
    return Noise(
        case=series.case,
        number=series.number,
        within_cv=within,
        between_cv=stdev(series.values) / fmean(series.values),
        modes=2 if bool(two_modes(values, rule)) else 1,
        mde=mde if isfinite(mde) else None,
    )


def _within(records: Iterable[Record]) -> Mapping[Key, float]:
    """Return the variation of the calls of a launch, by number of time: root mean square over the launches."""
    squares: dict[Key, list[float]] = {}
    for record in records:
        for one in calls_of([record]):
            if one.kind == "time" and len(one.values) > 1 and fmean(one.values) > 0:
                squares.setdefault(one.key, []).append(variance(one.values) / fmean(one.values) ** 2)
    return {key: sqrt(fmean(values)) for key, values in squares.items()}
