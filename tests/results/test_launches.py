"""Launches of one case as one record: which belong together, and what is said of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import records as make

from arvbench.results.launches import launches_of, merge_launches, samples_by_launch
from arvbench.results.records import newest_of_each_case, read_records
from arvbench.results.schema import Record, Status, Timing, WarmUp
from arvbench.results.statistics import (
    coverage,
    find_timing,
    images_per_second,
    launch_medians,
    median_interval,
    milliseconds,
    variation,
)

MS = 1_000_000


def timing(*milliseconds: int, scope: str = "images") -> Timing:
    samples = tuple(ms * MS for ms in milliseconds)
    return Timing(scope=scope, samples_ns=samples, images=4, forward_rows=8, clock="wall")


def launch(place: int, *milliseconds: int, **options: Any) -> Record:
    options = {"number": place, "launch": place, "launches": 8, "timings": (timing(*milliseconds),)} | options
    return make.record("demo/var", **options)


def merged(*launches: Record) -> Record:
    (record,) = merge_launches(launches)
    return record


def images(record: Record) -> Timing:
    found = find_timing(record.outcome, "images")
    assert found is not None
    return found


def test_the_value_is_the_median_of_the_launches_medians_and_not_of_all_calls() -> None:
    record = merged(launch(1, 10, 11, 12), launch(2, 20, 21, 90), launch(3, 13, 14, 15, 15, 15, 15, 15))
    assert samples_by_launch(images(record))[1] == (20 * MS, 21 * MS, 90 * MS)
    assert launch_medians(images(record)) == (11 * MS, 21 * MS, 15 * MS)
    found = milliseconds(images(record))
    assert (found.value, found.low, found.high, found.samples, found.launches) == (15, None, None, 3, 3)
    assert images_per_second(images(record)).value == pytest.approx(4 / 0.015)
    assert images(record).samples_ns == tuple(ns for own in samples_by_launch(images(record)) for ns in own)


def test_from_six_launches_on_the_interval_lies_between_two_of_their_medians() -> None:
    medians = (50, 10, 40, 20, 60, 30, 80, 70)
    record = merged(*(launch(place, ms - 1, ms, ms + 500) for place, ms in enumerate(medians, 1)))
    for count, ends in ((8, (10, 80)), (6, (10, 60)), (5, (None, None))):
        found = milliseconds(images(merged(*launches_of(record)[:count])))
        assert (found.low, found.high) == ends
    rate = images_per_second(images(record))
    assert (rate.low, rate.high) == pytest.approx((4 / 0.08, 4 / 0.01)) and rate.level == 1 - 2**-7


def test_one_launch_has_the_interval_of_its_calls_as_before() -> None:
    alone = launch(1, 3, 1, 2, 5, 4, 6)
    assert merged(alone) is alone and launches_of(alone) == (alone,)
    assert milliseconds(images(alone)) == median_interval([3, 1, 2, 5, 4, 6])
    assert milliseconds(images(alone)).launches == 1


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 8, 30])
def test_the_range_covers_the_median_with_the_stated_probability(samples: int) -> None:
    assert coverage(samples) == pytest.approx(1 - 2.0 ** (1 - samples))


def test_the_stated_level_is_the_share_of_draws_that_are_covered() -> None:
    rng = np.random.default_rng(3)
    for samples in (3, 6, 9, 12):
        estimate = median_interval(range(samples))
        rank = 1 if estimate.low is None else int(estimate.low) + 1
        drawn = np.sort(rng.exponential(size=(40_000, samples)), axis=1)
        covered = np.mean((drawn[:, rank - 1] <= np.log(2)) & (drawn[:, -rank] >= np.log(2)))
        level = coverage(samples, rank)
        assert covered == pytest.approx(level, abs=0.01)
        assert estimate.level == (None if samples < 6 else level)


def test_variation_within_and_between_launches() -> None:
    within = variation(images(launch(1, 9, 10, 11)))
    assert within.within == pytest.approx(0.1) and within.between is None
    both = variation(images(merged(launch(1, 9, 10, 11), launch(2, 20, 20, 20))))
    assert both.within == pytest.approx(0.1 / 2**0.5) and both.between == pytest.approx(np.std([10, 20], ddof=1) / 15)
    assert variation(images(launch(1, 5))).within is None
    assert variation(timing(0, 0)).within is None and variation(timing(0, 0)).between is None


def test_what_depends_on_the_launch_is_of_all_and_the_rest_of_the_first() -> None:
    quality = make.quality_numbers(np.random.default_rng(0))
    unsteady = WarmUp(samples_ns=(9, 5, 7), steady=False)
    first, second, third = launch(1, 1, quality=quality), launch(2, 2, warmup=unsteady), launch(3, 3)
    large = second.outcome.memory.model_copy(update={"peak_bytes": 10**12})
    second = second.model_copy(update={"outcome": second.outcome.model_copy(update={"memory": large})})
    record = merged(first, second, third)
    assert record.outcome.quality == quality and record.record_id == first.record_id
    assert record.outcome.memory == large and record.outcome.warmup == unsteady
    assert (record.started, record.finished) == (first.started, third.finished)


def test_launches_are_in_their_order_whatever_the_order_in_the_file() -> None:
    record = merged(launch(3, 30), launch(1, 10), launch(2, 20))
    assert [own.launch for own in launches_of(record)] == [1, 2, 3]
    assert launch_medians(images(record)) == (10 * MS, 20 * MS, 30 * MS)


def test_launches_that_ended_differently_stay_apart() -> None:
    lost = [make.failed(Status.OOM, reason, number=n, launch=n, case_id="c", batch=1) for n, reason in
            ((2, "too large"), (4, "too large"), (5, "other"))]  # fmt: skip
    good = [make.record(number=n, launch=n, case_id="c") for n in (1, 3)]
    found = merge_launches([good[0], lost[0], good[1], lost[1], lost[2]])
    assert [[own.launch for own in launches_of(record)] for record in found] == [[1, 3], [2, 4], [5]]


def test_two_records_of_one_launch_are_not_two_launches() -> None:
    assert len(merge_launches([launch(1, 5), launch(1, 6, number=2)])) == 2


def newest(*records: Record) -> list[str]:
    return [record.record_id for record in newest_of_each_case(records)]


def test_of_every_launch_the_last_record_counts() -> None:
    one, two, again = launch(1, 5), launch(2, 6), launch(1, 7, number=3)
    assert newest(two, one, again) == [again.record_id, two.record_id]


@pytest.mark.parametrize(
    "change",
    [
        {"environment": make.environment(source_sha256="6" * 64)},
        {"environment": make.environment(libraries={"torch": "2.15"})},
        {"repeats": 9},
    ],
)
def test_launches_of_another_measurement_are_older_records(change: dict[str, Any]) -> None:
    old = [launch(1, 5), launch(2, 6)]
    new = launch(1, 7, number=3, **change)
    assert newest(*old, new) == [new.record_id]
    assert newest(new, *old) == [record.record_id for record in old]


@pytest.mark.parametrize("change", [{"launches": 2}, {"environment": make.environment(git_commit="ab" * 20)}])
def test_launches_of_one_source_belong_together_whatever_was_asked_besides(change: dict[str, Any]) -> None:
    one, two = launch(1, 5), launch(2, 6, **change)
    assert newest(one, two) == [one.record_id, two.record_id]


def test_the_number_of_launches_that_were_asked_for_survives_a_rerun_with_more() -> None:
    assert merged(launch(1, 5, launches=1), launch(2, 6)).case.launches == 8


def test_a_record_from_before_there_were_launches_is_of_one(tmp_path) -> None:
    content = make.record().model_dump(mode="json")
    del content["launch"], content["case"]["launches"]
    old = Record.model_validate(content)
    assert (old.launch, old.case.launches) == (1, 1)
    path = make.write_records(tmp_path / "records.jsonl", [old])
    assert merge_launches(newest_of_each_case(read_records(path))) == [old]


@pytest.mark.parametrize("number", [0, -1])
def test_a_launch_has_a_number_from_one(number: int) -> None:
    with pytest.raises(ValueError, match="launch"):
        make.record(launch=number)
