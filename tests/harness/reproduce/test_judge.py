"""The rule by which a number is reproduced."""

from __future__ import annotations

import math
from typing import Any

import pytest

from arvbench.harness.reproduce.judge import judge, judged, whole
from arvbench.harness.reproduce.targets import _tolerance
from arvbench.results.reproduction import EXIT_CODES, Outcome, Target
from arvbench.results.schema import Quality

HALF = 0.07


def target(**changes: Any) -> Target:
    fields: dict[str, Any] = {
        "metric": "fid", "value": 3.55, "rounding": 0.005, "tolerance": None, "images": 50_000, "protocol": "ADM",
        "protocol_id": None, "source": "README", "seen": "first-hand", "note": "",
    }  # fmt: skip
    return Target(**(fields | changes))


def number(value: float, **changes: Any) -> Quality:
    fields: dict[str, Any] = {
        "metric": "fid", "value": value, "interval": (value - HALF, value + HALF), "protocol": "adm-v1",
        "protocol_id": "id", "n_samples": 50_000,
    }  # fmt: skip
    return Quality(**(fields | changes))


ALLOWED = 0.005 + math.sqrt(2) * HALF


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (3.55, Outcome.REPRODUCED),
        (3.55 + 0.99 * ALLOWED, Outcome.REPRODUCED),
        (3.55 - 0.99 * ALLOWED, Outcome.REPRODUCED),
        (3.55 + 1.01 * ALLOWED, Outcome.NOT_REPRODUCED),
        (3.55 - 1.01 * ALLOWED, Outcome.NOT_REPRODUCED),
    ],
)
def test_two_draws_may_differ_by_their_spread_and_the_rounding(value, outcome):
    found = judged(target(), number(value))
    assert found.outcome is outcome and found.allowed == pytest.approx(ALLOWED)
    assert found.difference == pytest.approx(value - 3.55) and "is allowed" in found.reason


def test_the_side_of_the_interval_that_lies_towards_the_published_number_counts():
    lopsided = number(3.70, interval=(3.60, 3.90))
    assert judged(target(), lopsided).allowed == pytest.approx(0.005 + math.sqrt(2) * 0.10)


def test_a_stated_tolerance_decides_without_an_interval():
    stated = target(tolerance=0.3)
    assert judged(stated, number(3.84, interval=None)).outcome is Outcome.REPRODUCED
    assert judged(stated, number(3.86, interval=None)).outcome is Outcome.NOT_REPRODUCED
    assert _tolerance("README says metrics vary up to 0.3 between runs; more") == 0.3 and _tolerance("0.3") is None


@pytest.mark.parametrize(
    ("of_target", "of_number", "reason"),
    [
        ({}, {"n_samples": 5000}, "of 5,000 images: a verdict needs the published 50,000"),
        ({}, {"interval": None}, "no interval"),
        ({}, {"interval": (3.0, 4.2)}, "may be off by more than 10%"),
        ({"protocol_id": "other"}, {}, "of another protocol: id here, other there"),
    ],
)
def test_what_decides_nothing_is_inconclusive_however_near(of_target, of_number, reason):
    found = judged(target(**of_target), number(3.55, **of_number))
    assert found.outcome is Outcome.INCONCLUSIVE and reason in found.reason


def test_the_whole_is_decided_by_the_first_number():
    other = target(metric="precision", value=0.84)
    numbers = judge([target(), other, target(metric="recall")], [number(3.55), number(0.5, metric="precision",
                    interval=(0.49, 0.51))])  # fmt: skip
    assert [one.target.metric for one in numbers] == ["fid", "precision"]
    assert [one.outcome for one in numbers] == [Outcome.REPRODUCED, Outcome.NOT_REPRODUCED]
    assert whole(numbers)[0] is Outcome.REPRODUCED and whole(())[0] is Outcome.INCONCLUSIVE


def test_every_outcome_has_an_exit_code():
    assert {outcome: int(code) for outcome, code in EXIT_CODES.items()} == {
        Outcome.REPRODUCED: 0,
        Outcome.NOT_REPRODUCED: 1,
        Outcome.INCONCLUSIVE: 5,
    }
