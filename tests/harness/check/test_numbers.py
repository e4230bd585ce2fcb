"""From records to gated numbers: which ones, in which units, and what is missing is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from records import GPU, correctness, failed, incorrect, measured, quality_numbers, record

from arvbench.harness.check.decide import decide
from arvbench.harness.check.gated import Judgement
from arvbench.harness.check.numbers import calibrated, gated_numbers, other_cases
from arvbench.harness.check.rule import Rule
from arvbench.results.schema import CaseConfig, QualityRequest, Status, Timing
from arvbench.results.verdict import Verdict

TIMES = ["images", "tokens", "decode", "steps[0:3]", "steps[3:7]", "steps[7:10]"]


def launches(count=10, *, first=0, **options):
    return [record(number=first + k, launch=k + 1, **options) for k in range(count)]


def numbers(records, side="head", **options):
    """Return the numbers by name; there must be no fault."""
    found = gated_numbers(records, side=side, **options)
    assert not found.faults
    return {one.number: one for one in found.series}


def test_a_case_on_a_cpu():
    found = numbers(launches(3))
    assert list(found) == ["correct", "equal tokens", *TIMES, "peak_bytes", "weights_bytes", "cache_live_bytes",
                           "cache_allocated_bytes"]  # fmt: skip
    assert {one.judgement for one in found.values() if one.kind == "time"} == {Judgement.LAUNCHES}
    assert found["peak_bytes"].judgement is Judgement.LAUNCHES
    assert found["weights_bytes"].judgement is Judgement.EXACT
    assert {one.unit for one in found.values()} == {"ns", "bytes", "share"}
    assert all(len(one.values) == 3 for one in found.values())


def test_a_case_on_a_gpu_has_exact_peaks():
    found = numbers(launches(2, gpu=GPU, dtype="bfloat16"))
    peaks = [one for name, one in found.items() if "peak" in name]
    assert len(peaks) == 3 and {one.judgement for one in peaks} == {Judgement.EXACT}
    assert "equal tokens" not in found, "in half precision, some tokens differ on every machine"
    assert found["images"].floor < numbers(launches(2))["images"].floor


def test_a_launch_is_the_median_of_its_calls_and_a_third_the_median_of_its_sums():
    times = {"step[0]": (5, 1, 2), "step[1]": (1, 9, 2), "images": (30, 10, 20)}
    names = [f"step[{i}]" for i in range(2, 6)]
    made = tuple(
        Timing(scope=scope, samples_ns=samples, images=4, forward_rows=8, clock="wall")
        for scope, samples in (times | dict.fromkeys(names, (1, 1, 1))).items()
    )
    found = numbers([record(timings=made, batch=4)])
    assert found["images"].values == (20,)
    assert found["steps[0:2]"].values == (6,)
    assert found["steps[0:2]"].floor == 2 * found["images"].floor
    assert found["images"].basis == "4 images per call, wall clock"


def test_few_steps_are_not_divided():
    timing = Timing(scope="step[0]", samples_ns=(1,), images=1, forward_rows=2, clock="wall")
    made = (*(timing.model_copy(update={"scope": f"step[{i}]"}) for i in range(5)),
            timing.model_copy(update={"scope": "images"}))  # fmt: skip
    assert [one for one in numbers([record(timings=made)]) if one.startswith("steps")] == []


def test_many_steps_are_three_numbers():
    timing = Timing(scope="step[0]", samples_ns=(1,), images=1, forward_rows=2, clock="wall")
    made = tuple(timing.model_copy(update={"scope": f"step[{i}]"}) for i in range(576))
    found = [one for one in numbers([record(timings=made)]) if one.startswith("steps")]
    assert found == ["steps[0:192]", "steps[192:384]", "steps[384:576]"]


def test_quality_has_a_value_per_run_seed():
    def seeded(seed, launch, best=0):
        request = QualityRequest(protocols=("digits-cnn",), reference="digits", images=1000, seed=seed)
        case = CaseConfig(model="demo/var", weights="demo", quality=request)
        rng = np.random.default_rng(seed + best)
        outcome = measured("demo/var", case, seed=launch, speed=1.0, gpu=None, quality=quality_numbers(rng))
        made = record("demo/var", number=launch, launch=launch, outcome=outcome)
        return made.model_copy(update={"case": case})

    found = numbers([seeded(2, 1), seeded(0, 2), seeded(1, 3), seeded(1, 4)])
    quality = {name: one for name, one in found.items() if one.judgement is Judgement.SEEDS}
    assert [one.split()[0] for one in quality] == ["fid", "label-accuracy"]
    fid, accuracy = quality.values()
    assert len(fid.values) == 3 and fid.basis.endswith("run seeds 0-2")
    assert fid.lower_is_better and not accuracy.lower_is_better


def test_a_case_without_a_cache_has_no_cache_numbers():
    memory = launches(1)[0].outcome.memory.model_copy(update={"cache_planned_bytes": 0, "cache_live_bytes": 0})
    assert not [name for name in numbers(launches(2, memory=memory)) if name.startswith("cache")]


def test_an_empty_cache_where_one_was_planned_is_unusable():
    memory = launches(1)[0].outcome.memory.model_copy(update={"cache_live_bytes": 0})
    changes = decide(
        gated_numbers(launches(), side="base").series,
        gated_numbers(launches(memory=memory), side="head").series,
        Rule(),
    )
    (change,) = [one for one in changes if one.number == "cache_live_bytes"]
    assert change.verdict is Verdict.UNUSABLE and "0" in change.reason


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT, Status.ERROR, Status.UNSUPPORTED, Status.SKIPPED])
def test_a_launch_that_failed_is_a_fault(status):
    found = gated_numbers([*launches(3), failed(status, "no luck", launch=4, number=3)], side="head")
    assert found.faults == (f"head, {launches(1)[0].case_id}, launch 4: {status}, no luck",)
    assert {len(one.values) for one in found.series} == {3}


def test_an_incorrect_backend_is_a_regression_and_a_fault():
    base = gated_numbers(launches(), side="base")
    head = gated_numbers([incorrect(number=k, launch=k + 1) for k in range(10)], side="head")
    assert len(head.faults) == 10 and "disagrees with its judge" in head.faults[0]
    found = {one.number: one.verdict for one in decide(base.series, head.series, Rule())}
    assert found["correct"] is found["equal tokens"] is Verdict.REGRESSION
    assert found["images"] is Verdict.UNUSABLE


def test_a_lost_token_is_seen():
    fewer = correctness().model_copy(update={"equal_tokens": 0.9995})
    sides = [gated_numbers(records, side="").series for records in (launches(), launches(correctness=fewer))]
    found = {one.number: one.verdict for one in decide(*sides, Rule())}
    assert found["equal tokens"] is Verdict.REGRESSION and found["correct"] is Verdict.PASS


def test_cases_that_were_expected_are_named():
    found = gated_numbers(launches(2), side="base", cases=["another case"])
    assert found.faults == ("base has no record of another case.",)


def test_records_of_another_run_are_named_and_do_not_count():
    mine = [one.model_copy(update={"record_id": f"run1-{one.record_id}"}) for one in launches(2)]
    found = gated_numbers([*mine, launches(3)[2]], side="head", run_id="run1")
    assert len(found.faults) == 1 and "another run" in found.faults[0]
    assert {len(one.values) for one in found.series} == {2}


def test_the_last_record_of_a_launch_counts():
    again = record(number=7, launch=1, speed=2.0)
    assert numbers([*launches(2), again])["images"].values[0] > 1.5 * numbers(launches(2))["images"].values[0]


def test_a_case_that_became_another_is_named_setting_by_setting():
    base, head = launches(1), launches(1, settings={"cfg": 4.0})
    assert other_cases(base, head) == (f"{base[0].case_id}: cfg is 1.5 in base and 4.0 in head.",)
    assert other_cases(base, launches(1)) == ()


def test_other_images_per_call_are_another_scope():
    more = [one.model_copy(update={"case_id": launches(1)[0].case_id}) for one in launches(batch=2)]
    sides = [gated_numbers(records, side="").series for records in (launches(), more)]
    found = {one.number: one for one in decide(*sides, Rule())}
    assert found["images"].verdict is Verdict.UNUSABLE
    assert "1 images per call, wall clock in base, 2 images per call" in found["images"].reason


def test_a_calibration_adds_its_scatter():
    series = gated_numbers(launches(2), side="").series
    found = {one.number: one for one in calibrated(series, {series[2].key: 0.04})}
    assert found["images"] == replace(series[2], calibrated=0.04)
    assert found["decode"].calibrated is None


def test_a_slower_head_is_found_from_records():
    sides = [
        gated_numbers(launches(first=start, speed=speed), side="").series for start, speed in ((0, 1.0), (50, 1.1))
    ]
    changes = decide(*sides, Rule())
    found = {one.number: one.verdict for one in changes if one.kind == "time"}
    assert found == dict.fromkeys(TIMES, Verdict.REGRESSION)
    assert {one.verdict for one in changes if one.kind != "time"} == {Verdict.PASS}
