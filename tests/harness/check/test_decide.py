"""The rule of the gate on made-up launches: every verdict, both stages, and what nothing may pass by."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arvbench.errors import ContractError, UserError
from arvbench.harness.check.decide import conclude, decide, screen, verdict_of
from arvbench.harness.check.gated import Judgement, Series, keep
from arvbench.harness.check.rule import Rule, can_alarm, launches_needed
from arvbench.results.verdict import Change, Verdict

RULE = Rule()


QUIET = (0.991, 1.004, 0.997, 1.008, 1.001, 0.994, 1.011, 0.999, 1.003, 0.987)
"""Ten launches of 0.7 % scatter."""
AGAIN = (1.002, 0.993, 1.006, 0.996, 1.009, 0.989, 1.0005, 1.0045, 0.998, 0.9955)
NOISY = (0.8, 1.3, 1.0, 0.7, 1.25, 0.9, 1.1, 0.85, 1.2, 0.95)


def time(values=QUIET, *, factor=1.0, number="images", case="demo", **changes):
    """Make the times of ten launches of 30 ms."""
    fields = {"case": case, "number": number, "kind": "time", "unit": "ns", "basis": "8 images, wall"}
    return Series(values=tuple(30e6 * factor * value for value in values), **(fields | changes))


def exact(*values, number="cache_live_bytes", kind="cache", unit="bytes", **changes):
    return Series(case="demo", number=number, kind=kind, unit=unit, basis="process-rss", values=values,
                  judgement=Judgement.EXACT, **changes)  # fmt: skip


def quality(*values, lower_is_better=True):
    return Series(case="demo", number="fid digits-cnn", kind="quality", unit="", basis="a1, 1000 samples",
                  values=values, judgement=Judgement.SEEDS, lower_is_better=lower_is_better)  # fmt: skip


def only(base, head, **options):
    (change,) = decide([base], [head], RULE, **options)
    return change


def test_equal_code_passes_and_says_what_would_be_found():
    change = only(time(), time(AGAIN))
    assert change.verdict is Verdict.PASS
    assert change.smallest_detectable is not None and 0.03 <= change.smallest_detectable < 0.05
    assert change.interval is not None and change.interval[0] < 1 < change.interval[1]
    assert change.p is not None and change.slow_share is None


@pytest.mark.parametrize(("factor", "verdict", "word"), [
    (1.1, Verdict.REGRESSION, "slower"), (1 / 1.1, Verdict.IMPROVEMENT, "faster"),
])  # fmt: skip
def test_both_directions_are_found_alike(factor, verdict, word):
    change = only(time(), time(AGAIN, factor=factor))
    assert change.verdict is verdict
    assert word in change.reason
    assert change.p is not None and change.p < 0.001
    assert only(time(AGAIN, factor=factor), time()).verdict is not verdict


def test_a_number_of_which_more_is_better_regresses_downwards():
    rates = {"number": "images/s", "lower_is_better": False}
    assert only(time(**rates), time(AGAIN, factor=0.9, **rates)).verdict is Verdict.REGRESSION


def test_a_change_below_three_percent_or_the_floor_does_not_count():
    assert only(time(), time(AGAIN, factor=1.02)).verdict is Verdict.PASS
    assert only(time(floor=4e6), time(AGAIN, factor=1.1, floor=4e6)).verdict is Verdict.PASS


def test_noise_that_hides_ten_percent_never_passes():
    change = only(time(NOISY), time(NOISY[::-1]))
    assert change.verdict is Verdict.INCONCLUSIVE
    assert change.smallest_detectable is not None and change.smallest_detectable > 0.1


def test_the_scatter_of_a_calibration_counts_when_it_is_larger():
    assert only(time(calibrated=0.001), time(AGAIN)).verdict is Verdict.PASS
    assert only(time(calibrated=0.05), time(AGAIN)).verdict is Verdict.INCONCLUSIVE


def test_two_modes_are_inconclusive_and_their_shares_are_reported():
    base = [value + 0.12 * (place % 2) for place, value in enumerate(QUIET)]
    head = [value + 0.12 * (place % 5 == 0) for place, value in enumerate(AGAIN)]
    change = only(time(base), time(head))
    assert change.verdict is Verdict.INCONCLUSIVE
    assert change.slow_share == pytest.approx((0.5, 0.2))
    assert "two modes" in change.reason


def test_two_modes_are_judged_by_the_second_fastest_of_ten():
    slow = [value + 0.5 * (place in (2, 5)) for place, value in enumerate(QUIET)]
    change = only(time(slow), time(AGAIN, factor=1.1))
    assert change.verdict is Verdict.REGRESSION
    assert "second-fastest" in change.reason


def test_one_family_shares_the_level():
    """Six launches blame one number of nine, and not one of ten, which is refused."""
    few = {name: (time(QUIET[:6], number=name), time(AGAIN[:6], number=name, factor=1.2)) for name in "abcdefghi"}
    base, head = zip(*few.values(), strict=True)
    assert {change.verdict for change in decide(base, head, RULE)} == {Verdict.REGRESSION}
    more = time(QUIET[:6], number="j")
    with pytest.raises(UserError, match=r"10 gated numbers need 7 launches per side .* base has 6 and head has 6"):
        decide([*base, more], [*head, more], RULE)


@pytest.mark.parametrize(("numbers", "launches"), [
    (1, 5), (2, 5), (3, 6), (9, 6), (10, 7), (34, 7), (35, 8), (128, 8), (129, 9), (486, 9), (487, 10),
])  # fmt: skip
def test_launches_needed(numbers, launches):
    assert launches_needed(numbers, RULE) == launches


@pytest.mark.parametrize("launches", [100, 515, 1000, 100_000])
def test_more_launches_than_a_float_can_count_the_ways_of_are_enough(launches):
    assert can_alarm(launches, launches, 1_000, RULE)
    assert not can_alarm(launches, 1, 1_000, RULE)


def test_a_number_with_fewer_launches_than_the_others_is_unusable():
    base, head = [time(), time(number="decode")], [time(AGAIN), time(AGAIN[:2], number="decode")]
    changes = decide(base, head, RULE)
    assert [change.verdict for change in changes] == [Verdict.PASS, Verdict.UNUSABLE]
    assert "head has 2 launches" in changes[1].reason


@pytest.mark.parametrize("value", [0.0, nan, inf, -inf, -3e6])
@pytest.mark.parametrize("side", ["base", "head"])
def test_a_value_that_is_no_measurement_is_unusable(value, side):
    good, bad = time(), replace(time(AGAIN), values=(*time(AGAIN).values[:-1], value))
    change = only(bad, good) if side == "base" else only(good, bad)
    assert change.verdict is Verdict.UNUSABLE
    assert change.reason.lower().startswith(f"{side} has the value {value:g}")


@pytest.mark.parametrize(("changes", "reason"), [
    ({"unit": "us"}, "The unit changed: ns in base, us in head."),
    ({"basis": "8 images, cuda-event"}, "The scope changed: 8 images, wall in base, 8 images, cuda-event in head."),
    ({"judgement": Judgement.EXACT}, "The judgement changed: launches in base, exact in head."),
    ({"lower_is_better": False}, "The lower is better changed: True in base, False in head."),
])  # fmt: skip
def test_a_number_that_became_another_is_unusable(changes, reason):
    change = only(time(), time(AGAIN, **changes))
    assert (change.verdict, change.reason) == (Verdict.UNUSABLE, reason)


def test_a_number_that_one_side_lacks_is_unusable_and_named():
    changes = decide([time(), time(number="decode")], [time(AGAIN), time(number="tokens")], RULE)
    found = {change.number: (change.verdict, change.reason) for change in changes}
    assert found["decode"] == (Verdict.UNUSABLE, "Head does not have this number.")
    assert found["tokens"] == (Verdict.UNUSABLE, "Base does not have this number.")
    assert found["images"][0] is Verdict.PASS


def test_a_number_twice_on_one_side_is_a_bug():
    with pytest.raises(ContractError, match="twice"):
        decide([time(), time()], [time()], RULE)


@pytest.mark.parametrize(("head", "verdict"), [
    (1_000_000, Verdict.PASS), (1_001_000, Verdict.PASS), (1_001_001, Verdict.REGRESSION),
    (998_999, Verdict.IMPROVEMENT),
])  # fmt: skip
def test_exact_bytes_need_no_statistics(head, verdict):
    change = only(exact(1_000_000), exact(head))
    assert change.verdict is verdict
    assert (change.p, change.smallest_detectable) == (None, None)


def test_bytes_that_differ_between_launches_are_judged_as_noise():
    values = [10_000_000 * value for value in QUIET]
    assert only(exact(*values), exact(*[10_000_000 * v for v in AGAIN])).verdict is Verdict.PASS
    assert only(exact(*values), exact(*[11_000_000 * v for v in AGAIN])).verdict is Verdict.REGRESSION


def test_any_lost_token_is_a_regression():
    tokens = {"number": "equal tokens", "kind": "quality", "unit": "share", "lower_is_better": False,
              "may_be_zero": True}  # fmt: skip
    assert only(exact(1.0, 1.0, **tokens), exact(1.0, 1.0, **tokens)).verdict is Verdict.PASS
    assert only(exact(1.0, 1.0, **tokens), exact(1.0, 0.9999, **tokens)).verdict is Verdict.REGRESSION
    assert only(exact(1.0, **tokens), exact(0.0, **tokens)).verdict is Verdict.REGRESSION


@pytest.mark.parametrize(("head", "verdict"), [
    ((3.10, 3.14, 3.08, 3.12, 3.06), Verdict.PASS),
    ((3.11, 3.15, 3.09, 3.12, 3.05), Verdict.PASS),
    ((3.40, 3.44, 3.38, 3.42, 3.36), Verdict.REGRESSION),
    ((2.80, 2.84, 2.78, 2.82, 2.76), Verdict.IMPROVEMENT),
    ((2.0, 4.4, 3.1, 2.6, 3.9), Verdict.INCONCLUSIVE),
    ((3.40, 3.44, 3.38, 3.42), Verdict.INCONCLUSIVE),
])  # fmt: skip
def test_quality_has_a_window_of_seeds_in_both_directions(head, verdict):
    change = only(quality(3.10, 3.14, 3.08, 3.12, 3.06), quality(*head))
    assert change.verdict is verdict, change.reason


def test_a_quality_of_one_seed_passes_only_when_it_is_equal():
    assert only(quality(3.1), quality(3.1)).verdict is Verdict.PASS
    assert only(quality(3.1), quality(3.1001)).verdict is Verdict.INCONCLUSIVE


def test_a_machine_that_moved_voids_times_and_nothing_else():
    base, head = [time(), exact(1000)], [time(AGAIN, factor=1.3), exact(2000)]
    changes = decide(base, head, RULE, machine=("a fixed matrix product took 12 % longer in head",))
    assert [change.verdict for change in changes] == [Verdict.MACHINE, Verdict.REGRESSION]


def test_the_first_stage_clears_quiet_numbers_and_decides_exact_ones():
    base = [time(QUIET[:4]), time(QUIET[:4], number="decode"), exact(1000), time(QUIET[:4], number="tokens")]
    head = [time(AGAIN[:4]), time(AGAIN[:4], number="decode", factor=1.05), exact(2000)]
    screening = screen(base, head, RULE)
    assert set(screening.suspected) == {("demo", "decode")}
    assert {key[1]: change.verdict for key, change in screening.changes.items()} == {
        "images": Verdict.PASS, "cache_live_bytes": Verdict.REGRESSION, "tokens": Verdict.UNUSABLE,
    }  # fmt: skip
    assert screening.family == 2


def test_the_second_stage_alone_decides_about_a_suspected_number():
    base, head = [time(QUIET[:4])], [time(AGAIN[:4], factor=1.2)]
    screening = screen(base, head, RULE)
    (unchanged,) = conclude(screening, [time()], [time(AGAIN)], RULE)
    (changed,) = conclude(screening, [time()], [time(AGAIN, factor=1.2)], RULE)
    (missing,) = conclude(screening, [], [], RULE)
    assert [unchanged.verdict, changed.verdict] == [Verdict.PASS, Verdict.REGRESSION]
    assert unchanged.head == time(AGAIN).values
    assert (missing.verdict, missing.reason) == (Verdict.UNUSABLE, "The second stage does not have this number.")


@pytest.mark.parametrize(("head", "verdict"), [
    ((3.11, 3.15, 3.09, 3.12, 3.05), Verdict.PASS), ((3.40, 3.44, 3.38, 3.42, 3.36), Verdict.REGRESSION),
    ((3.11,), Verdict.INCONCLUSIVE),
])  # fmt: skip
def test_quality_that_no_fresh_launch_has_is_judged_by_the_seeds_of_the_first_stage(head, verdict):
    base = quality(*(3.10, 3.14, 3.08, 3.12, 3.06)[: len(head)])
    (change,) = conclude(screen([base], [quality(*head)], RULE), [], [], RULE)
    assert change.verdict is verdict


def test_what_the_first_stage_cannot_clear_is_measured_again():
    noisy = screen([time(NOISY[:4])], [time(NOISY[:4])], RULE)
    moved = screen([time(QUIET[:4])], [time(AGAIN[:4])], RULE, machine=("the machine moved",))
    seeds = screen([quality(3.1, 3.2, 3.0, 3.1)], [quality(3.1, 3.2, 3.0, 3.11)], RULE)
    assert all(screening.suspected and not screening.changes for screening in (noisy, moved, seeds))


def test_the_second_stage_keeps_the_order_and_the_family_of_the_first():
    names = [f"n{place}" for place in range(12)]
    base = [time(QUIET[:4], number=name) for name in names]
    head = [time(AGAIN[:4], number=name, factor=1.2 if name == "n5" else 1.0) for name in names]
    screening = screen(base, head, RULE)
    fresh = keep([time(number=name) for name in names], screening.suspected)
    slower = keep([time(AGAIN, number=name, factor=1.2) for name in names], screening.suspected)
    changes = conclude(screening, fresh, slower, RULE)
    assert [change.number for change in changes] == names
    assert [change.number for change in changes if change.verdict is Verdict.REGRESSION] == ["n5"]
    assert changes[5].p == pytest.approx(12 / 184_756)


def test_a_second_stage_that_cannot_alarm_is_refused_before_anything_is_measured():
    base, head = [[time(values, number=f"n{i}") for i in range(600)] for values in (QUIET[:4], AGAIN[:4])]
    with pytest.raises(UserError, match=r"600 gated numbers need 10 launches per side"):
        screen(base, head, replace(RULE, launches=9))


def test_the_whole_is_as_bad_as_its_worst_number_and_never_passes_without_one():
    passed = only(time(), time(AGAIN))
    slower = only(time(), time(AGAIN, factor=1.2))
    assert verdict_of([passed]) is Verdict.PASS
    assert verdict_of([passed, slower]) is Verdict.REGRESSION
    assert verdict_of([passed], unusable=["case demo was skipped"]) is Verdict.UNUSABLE
    assert verdict_of([slower], unusable=["case demo was skipped"]) is Verdict.REGRESSION
    assert verdict_of([]) is Verdict.UNUSABLE


SIDES_SWAPPED = {Verdict.REGRESSION: Verdict.IMPROVEMENT, Verdict.IMPROVEMENT: Verdict.REGRESSION}
POSITIVE = st.one_of(st.sampled_from([1.0, 1.03, 1.1, 2.0]), st.floats(1e-6, 1e18), st.floats(0.9, 1.1))


@given(st.lists(POSITIVE, min_size=6, max_size=6), st.lists(POSITIVE, min_size=10, max_size=10))
def test_any_launches_have_a_verdict_that_turns_with_the_sides(base, head):
    one, other = (only(replace(time(), values=tuple(b)), replace(time(), values=tuple(h)))
                  for b, h in ((base, head), (head, base)))  # fmt: skip
    assert other.verdict is SIDES_SWAPPED.get(one.verdict, one.verdict)
    assert one.verdict is not Verdict.PASS or (one.smallest_detectable or 1) <= RULE.blind
    assert Change.model_validate_json(one.model_dump_json()) == one
