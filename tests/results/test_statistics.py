from __future__ import annotations

import numpy as np
import pytest
import records as make

from arvbench.results.schema import Timing
from arvbench.results.statistics import (
    find_timing,
    images_per_second,
    median_interval,
    milliseconds,
    times_of,
)


def test_the_median_is_numpys(rng: np.random.Generator) -> None:
    for count in (2, 5, 8, 31):
        samples = rng.lognormal(size=count)
        assert median_interval(samples.tolist()).value == float(np.median(samples))


@pytest.mark.parametrize(
    ("count", "ranks"),
    [
        (1, None),
        (2, None),
        (5, None),
        (6, (1, 6)),
        (8, (1, 8)),
        (9, (2, 8)),
        (10, (2, 9)),
        (20, (6, 15)),
        (100, (40, 61)),
    ],
)
def test_the_ends_are_the_samples_of_the_published_table(count: int, ranks: tuple[int, int] | None) -> None:
    """Table A.15 of Hahn and Meeker and that of David and Nagaraja give these ranks for 95 %."""
    estimate = median_interval([float(place) for place in range(count, 0, -1)])
    assert (estimate.low, estimate.high) == ((None, None) if ranks is None else ranks)
    assert estimate.samples == count


@pytest.mark.parametrize("count", [6, 7, 10, 25])
@pytest.mark.parametrize("draw", ["exponential", "normal", "standard_cauchy"])
def test_the_interval_covers_the_true_median_as_often_as_it_says(
    rng: np.random.Generator, count: int, draw: str
) -> None:
    true = float(np.log(2)) if draw == "exponential" else 0.0
    trials = 4000
    estimates = [median_interval(row.tolist()) for row in getattr(rng, draw)(size=(trials, count))]
    covered = sum(estimate.low <= true <= estimate.high for estimate in estimates) / trials
    # Three standard deviations of the count below 95 %; the levels of these counts are 95.7 to 97.9 %.
    assert 0.94 <= covered <= 0.99


def test_no_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])


def timing(**changes: object) -> Timing:
    fields = {"scope": "images", "samples_ns": tuple(s * 10**9 for s in (2, 3, 4, 4, 5, 8)), "images": 16}
    return Timing(**(fields | {"forward_rows": 320, "clock": "wall"} | changes))


def test_rates_and_times_are_of_the_median() -> None:
    call, per_image, images, rows = times_of(timing())
    assert call == milliseconds(timing()) and images == images_per_second(timing())
    assert images.value == 4.0 and (images.low, images.high) == (2.0, 8.0)
    assert rows.value == 80.0
    assert per_image.value == 250.0 and (per_image.low, per_image.high) == (125.0, 500.0)
    few = images_per_second(timing(samples_ns=(2_000_000_000, 4_000_000_000, 8_000_000_000)))
    assert (few.value, few.low, few.high) == (4.0, None, None)


def test_what_has_no_rows_or_took_no_time_has_no_rate() -> None:
    assert times_of(timing(forward_rows=0)).forward_rows_per_second is None
    assert times_of(timing(images=0))[1:3] == (None, None) and images_per_second(timing(images=0)) is None
    assert images_per_second(timing(samples_ns=(0, 0))) is None


def test_a_scope_without_samples_is_not_found() -> None:
    outcome = make.record(timings=(timing(samples_ns=()), timing(scope="tokens"))).outcome
    assert find_timing(outcome, "images") is None
    assert find_timing(outcome, "tokens").scope == "tokens"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)
