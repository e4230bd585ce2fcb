from __future__ import annotations

import numpy as np
import pytest
import records as make

from arvbench.results.schema import Timing
from arvbench.results.statistics import (
    find_timing,
    forward_rows_per_second,
    images_per_second,
    median_interval,
    milliseconds_per_image,
)


def test_the_median_is_numpys(rng: np.random.Generator) -> None:
    for count in (2, 5, 8, 31):
        samples = rng.lognormal(size=count)
        assert median_interval(samples.tolist()).value == float(np.median(samples))


def test_the_interval_is_the_percentiles_of_bootstrap_medians(rng: np.random.Generator) -> None:
    samples = rng.lognormal(size=15)
    draws = np.random.default_rng(7).integers(0, 15, size=(500, 15))
    medians = sorted(float(np.median(samples[draw])) for draw in draws)
    estimate = median_interval(samples.tolist(), confidence=0.9, resamples=500, seed=7)
    assert estimate.low == pytest.approx(np.percentile(medians, 5))
    assert estimate.high == pytest.approx(np.percentile(medians, 95))


def test_the_interval_covers_the_true_median_about_as_often_as_it_says(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(300):
        estimate = median_interval(rng.exponential(size=25).tolist(), resamples=400)
        covered += estimate.low <= np.log(2) <= estimate.high
    assert 0.90 <= covered / 300 <= 0.99


def test_the_same_samples_give_the_same_interval() -> None:
    samples = [1.0, 4.0, 2.0, 8.0, 5.0]
    assert median_interval(samples) == median_interval(list(samples))
    assert median_interval(samples).low == 1.0 and median_interval(samples).high == 8.0


def test_one_sample_has_no_interval_and_none_is_an_error() -> None:
    estimate = median_interval([3.0])
    assert (estimate.value, estimate.low, estimate.high) == (3.0, None, None)
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])


def timing(**changes: object) -> Timing:
    fields = {"scope": "images", "samples_ns": (2_000_000_000, 4_000_000_000, 8_000_000_000), "images": 16}
    return Timing(**(fields | {"forward_rows": 320, "clock": "wall"} | changes))


def test_rates_and_times_are_of_the_median() -> None:
    images, rows, per_image = (
        images_per_second(timing()),
        forward_rows_per_second(timing()),
        milliseconds_per_image(timing()),
    )
    assert images.value == 4.0 and (images.low, images.high) == (2.0, 8.0)
    assert rows.value == 80.0
    assert per_image.value == 250.0 and (per_image.low, per_image.high) == (125.0, 500.0)


def test_what_has_no_rows_or_took_no_time_has_no_rate() -> None:
    assert forward_rows_per_second(timing(forward_rows=0)) is None
    assert images_per_second(timing(images=0)) is None
    assert images_per_second(timing(samples_ns=(0, 0))) is None


def test_a_scope_without_samples_is_not_found() -> None:
    outcome = make.record(timings=(timing(samples_ns=()), timing(scope="tokens"))).outcome
    assert find_timing(outcome, "images") is None
    assert find_timing(outcome, "tokens").scope == "tokens"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)
