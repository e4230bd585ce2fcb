"""Intervals are those of the textbooks, and their ends stay within the range of the value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from arvbench.errors import UserError
from arvbench.harness.quality.metrics.intervals import interval_of_mean, wilson_interval


def test_wilson_interval_against_worked_values():
    # 8 of 10: the textbook interval.
    assert wilson_interval(0.8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.16113), abs=1e-5)
    low, high = wilson_interval(1.0, 20)
    assert (low, high) == (pytest.approx(1 - 0.16113, abs=1e-5), 1.0)


def test_wilson_interval_narrows_with_the_count_and_holds_the_share():
    widths = []
    for count in (10, 100, 50_000):
        low, high = wilson_interval(0.83, count)
        assert low < 0.83 < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("share", "count"), [(1.2, 10), (-0.1, 10), (0.5, 0), (float("nan"), 10)])
def test_an_interval_of_no_share_is_refused(share, count):
    with pytest.raises(UserError, match="interval"):
        wilson_interval(share, count)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_of_a_mean_is_that_of_students_test(count):
    values = np.random.default_rng(0).normal(size=count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval_of_mean(values.mean(), values.std(), count) == pytest.approx(expected, rel=1e-12)


def test_a_stated_quantile_is_used_as_it_stands():
    assert interval_of_mean(5.0, 3.0, 10, quantile=2.262) == (
        5 - 2.262 * 3 / math.sqrt(9),
        5 + 2.262 * 3 / math.sqrt(9),
    )
