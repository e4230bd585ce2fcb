"""Tests of the statistics of launches against enumeration, other libraries and closed forms."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from statsmodels.stats.multitest import multipletests

from arvbench.harness.check.launch_tests import (
    compare,
    factors,
    holm,
    p_of_statistics,
    precedence_p,
    ratio_interval,
    scatter,
    second,
    slow_share,
    two_modes,
)  # fmt: skip
from arvbench.harness.check.rule import Rule

RULE = Rule()


def test_p_is_that_of_scipy_for_every_statistic():
    low, high = np.arange(4.0), np.array([1.5, 2.5, 3.5, 9.5, 9.75])
    test = mannwhitneyu(high, low, alternative="greater", method="exact")
    assert p_of_statistics(4, 5)[int(test.statistic)] == pytest.approx(test.pvalue)
    assert p_of_statistics(4, 5)[0] == pytest.approx(1)
    assert p_of_statistics(8, 8)[-1] == pytest.approx(1 / 12_870)
    assert (np.diff(p_of_statistics(4, 5)) < 0).all()


def test_one_number_and_many_have_the_p_of_scipy_with_ties_and_without():
    rng = np.random.default_rng(0)
    for base, head in [(5, 7), (2, 2), (8, 8)] * 5:
        for sides in (rng.normal(10, 1, base + head), rng.integers(1, 6, base + head).astype(float)):
            low, high = sides[:base], sides[base:]
            one, many = compare(low, high, RULE), compare(low[None], high[None], RULE)
            for direction, other in (("up", "greater"), ("down", "less")):
                p = mannwhitneyu(high, low, alternative=other, method="exact").pvalue
                assert getattr(one, direction).p == getattr(many, direction).p[0] == pytest.approx(p, rel=1e-12)
                assert getattr(one, direction).agrees == getattr(many, direction).agrees[0]


def test_many_launches_have_the_p_of_the_normal_distribution():
    """It begins where it differs from the exact one by less than 2 % of a p that decides."""
    exact, normal = p_of_statistics(100, 100), p_of_statistics(100, 101)
    assert len(normal) == 10_101
    assert abs(np.flatnonzero(exact <= 0.025)[0] / 10_000 - np.flatnonzero(normal <= 0.025)[0] / 10_100) < 1e-3
    rng = np.random.default_rng(0)
    base, head = rng.lognormal(0, 0.05, 100), rng.lognormal(0.01, 0.05, 101)
    test = mannwhitneyu(head, base, alternative="greater", method="exact")
    assert normal[int(test.statistic)] == pytest.approx(test.pvalue, rel=0.02)
    assert compare(base, head, RULE).up.p == pytest.approx(test.pvalue, rel=0.02)


def test_launches_beyond_all_measure_take_bounded_memory():
    """A thousand launches of a side are a million pairs; twenty thousand draws of them do not fit."""
    many = factors(1000, 1000, 1998, 0.01, RULE)
    # Nine pairs in ten are in order at a shift of 1.81; the error of a ratio of medians is 1.96 * sqrt(pi / 1000).
    assert (many.test, many.median) == (pytest.approx(1.81, rel=0.1), pytest.approx(0.11, rel=0.2))
    assert ratio_interval(np.arange(1.0, 601.0), np.arange(2.0, 1202.0, 2)) == pytest.approx((1.8, 2.2), abs=0.2)


def test_precedence_is_exact():
    """Every way to choose head's launches, counted."""
    values = np.arange(9.0)
    splits = [(np.delete(values, chosen), values[list(chosen)]) for chosen in combinations(range(9), 4)]
    below = np.array([int((low < second(high)).sum()) for low, high in splits])
    p = np.array([float(precedence_p(low, high)) for low, high in splits])
    assert p == pytest.approx([(below >= count).mean() for count in below])


TIED = st.sampled_from([0.0, 1e-300, 1 / 252, 0.01, 0.5, 1.0])


@given(p=st.lists(st.one_of(st.floats(0, 1), TIED), max_size=30), absent=st.integers(0, 5))
@example(p=[], absent=0)
@example(p=[0.0, 0.0, 1.0, 1.0], absent=2)
@settings(max_examples=20, deadline=None)
def test_holm_is_that_of_statsmodels_bit_for_bit(p, absent):
    """Ties, 0, 1 and no numbers at all included; `absent` numbers of the family are not given and count as 1."""
    ours = holm(np.array(p), len(p) + absent)
    assert ours.shape == (len(p),)
    if p:
        theirs = multipletests([*p, *[1.0] * absent], method="holm")[1]
        assert ours.tolist() == theirs[: len(p)].tolist()


def test_holm_takes_many_families_at_a_time():
    p = np.random.default_rng(0).random((50, 12)) ** 3
    assert holm(p, 12).tolist() == [holm(row, 12).tolist() for row in p]


def test_holm_counts_numbers_that_are_not_given_as_one():
    p = np.array([0.002, 0.5, 0.001])
    assert holm(p, 5) == pytest.approx(holm(np.array([0.002, 0.5, 0.001, 1, 1]), 5)[:3])
    assert holm(p, 5) == pytest.approx([0.008, 1, 0.005])
    assert holm(np.array([]), 5).size == 0


@pytest.mark.parametrize("launches", [4, 8, 10])
def test_the_interval_of_a_ratio_covers_it(launches):
    rng, draws = np.random.default_rng(1), 1000
    covered = 0
    for _ in range(draws):
        interval = ratio_interval(np.exp(rng.normal(0, 0.05, launches)), 1.2 * np.exp(rng.normal(0, 0.05, launches)))
        assert interval is not None
        covered += interval[0] <= 1.2 <= interval[1]
    assert 0.93 <= covered / draws <= 0.985


def test_three_launches_have_no_interval():
    assert ratio_interval(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])) is None


@pytest.mark.parametrize(("values", "share"), [
    ([1.0, 1.01, 1.02, 1.12, 1.13], 0.4), ([1.0, 1.2, 1.201, 1.202, 1.203], 0.8),
    ([1.0, 1.01, 1.02, 1.03, 1.04], 0.0), ([1.0, 1.001, 1.002, 1.003, 1.02], 0.0), ([1.0, 1.5, 1.6], 0.0),
])  # fmt: skip
def test_two_modes_have_a_share_of_slow_launches(values, share):
    assert slow_share(np.array(values), RULE) == pytest.approx(share)
    assert bool(two_modes(np.array(values), RULE)) is (share > 0)


def test_the_scatter_is_within_sides():
    side = np.exp(np.array([-0.1, 0.0, 0.1]))
    assert scatter(side, 7 * side) == pytest.approx(0.1)


def test_more_launches_see_smaller_changes_and_more_numbers_hide_them():
    of = [factors(n, n, 2 * n - 2, 0.01, RULE) for n in (5, 8, 10, 20)]
    assert [f.test for f in of] == sorted((f.test for f in of), reverse=True)
    assert factors(10, 10, 18, 0.01 / 100, RULE).test > of[2].test
    assert factors(5, 5, 8, 0.01 / 20, RULE).test == np.inf


def test_numbers_are_compared_alike_one_by_one_and_together():
    rng = np.random.default_rng(3)
    base, head = rng.lognormal(0, 0.05, (2, 6, 10))
    together = compare(base, head, RULE)
    for place in range(6):
        alone = compare(base[place], head[place], RULE)
        assert alone.ratio == pytest.approx(together.ratio[place])
        assert alone.up.p == pytest.approx(together.up.p[place])
        assert alone.scatter == pytest.approx(together.scatter[place])
