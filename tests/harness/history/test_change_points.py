"""Change points of made-up series: none, steps, drift and outliers; docs/history.md has the whole table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from history_noise import LENGTHS, NOISES, SHAPES, judged, shares

from arvbench.harness.history.change_points import (
    FEWEST_OF_SIDE,
    Split,
    _best,
    can_be_found,
    find_splits,
    with_effect,
)

ROOT = Path(__file__).parents[3]


def series(shape: str, length: int = 40, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    return list(NOISES["Gaussian 1.5 %"](rng, length) * SHAPES[shape](length))


@pytest.mark.parametrize("noise", NOISES)
def test_a_series_without_a_change_is_rarely_marked(noise):
    for length in (20, 40):
        found = shares(noise, "no change", length, draws=200)
        # 1 % is promised: more than 7 of 200 would happen once in 10,000 such tests.
        assert 200 * (1 - found["none"]) <= 7, (noise, length, found)


@pytest.mark.parametrize(
    ("shape", "places"),
    [
        ("no change", []),
        ("one outlier, 50 %", []),
        ("one step, 10 %", [20]),
        ("two steps, 10 % each", [14, 27]),
        ("there and back, 10 %", [14, 27]),
        ("5 slow commits at the end, 10 %", [35]),
    ],
)
def test_changes_are_found_where_they_are(shape, places):
    found, drift = judged(series(shape))
    assert not drift and len(found) == len(places)
    assert all(abs(a - b) <= 2 for a, b in zip(found, places, strict=True))


def test_a_drift_blames_no_commit():
    assert judged(series("drift of 10 %")) == ([], True)


def test_new_slow_commits_are_found_behind_a_long_history():
    assert judged(series("5 slow commits at the end, 10 %", 100)) == ([95], False)


def test_a_step_among_many_series_is_found_and_a_small_one_is_not():
    assert judged(series("one step, 10 %"), family=60)[0] == [20]
    small = [1.0 + 0.02 * (place >= 20) + 0.001 * (place % 3) for place in range(40)]
    assert find_splits(small, level=0.01).splits and judged(small) == ([], False)


def test_equal_values_and_few_values_have_no_change_point():
    assert judged([3.0] * 50) == ([], False)
    for count in range(2 * FEWEST_OF_SIDE):
        assert find_splits([float(place >= count // 2) for place in range(count)], level=0.01).splits == ()
    assert not can_be_found(8, 0.01) and can_be_found(20, 0.01 / 100)


def test_the_statistic_of_the_best_split_is_that_of_the_paper():
    ranks = np.random.default_rng(1).permutation(12).astype(np.float32)

    def statistic(start: int, end: int) -> float:
        left, right = ranks[:start], ranks[start:end]
        a, b = len(left), len(right)
        between = np.abs(left[:, None] - right).sum() * 2 / (a * b)
        within = [np.abs(side[:, None] - side).sum() / (len(side) * (len(side) - 1)) for side in (left, right)]
        return float(a * b / (a + b) * (between - sum(within)))

    best = max((statistic(start, end), start) for start in range(3, 10) for end in range(start + 3, 13))
    (found,), (place,) = _best(ranks[None])
    assert found == pytest.approx(best[0], rel=1e-4) and place == best[1]


def test_the_same_series_always_has_the_same_change_points():
    values = series("one step, 10 %", seed=3)
    assert find_splits(values, level=0.01) == find_splits(values, level=0.01)
    assert find_splits([1e9 * value for value in values], level=0.01) == find_splits(values, level=0.01)


def test_parts_that_hardly_differ_join_the_smallest_difference_first():
    values = [1.0] * 10 + [1.02] * 10 + [1.2] * 10
    splits = [Split(10, 0.001), Split(20, 0.001)]
    assert [split.index for split in with_effect(values, splits, 0.03)] == [20]
    assert with_effect(values, splits, 0.03, floor=0.5) == []


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_false_alarms_and_findings_are_those_of_the_page(noise):
    for length in LENGTHS:
        assert shares(noise, "no change", length, draws=1_000)["none"] >= 0.98
    assert shares("Gaussian 1.5 %", "one step, 10 %", 20, draws=300)["right"] >= 0.98


def test_the_table_of_the_page_has_every_noise_and_series():
    page = (ROOT / "docs" / "history.md").read_text()
    for noise in NOISES:
        assert all(f"| {noise} | {shape} |" in page for shape in SHAPES)
