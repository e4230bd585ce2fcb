"""The audit: how often the rule would blame launches of one commit."""

from __future__ import annotations

import numpy as np
import pytest

from arvbench.errors import UserError
from arvbench.harness.check.audit import audit
from arvbench.harness.check.gated import Judgement, Series
from arvbench.harness.check.rule import Rule

RULE = Rule()


def launches(values, number="images", **changes):
    return Series(case="demo", number=number, kind="time", unit="ns", basis="8 images", values=tuple(values), **changes)


def drawn(count=20, numbers=4, spread=0.015, **changes):
    rng = np.random.default_rng(5)
    return [launches(3e7 * (1 + rng.normal(0, spread, count)), f"n{i}", **changes) for i in range(numbers)]


def test_quiet_launches_raise_no_alarm():
    found = audit(drawn(), RULE, splits=400)
    assert (found.splits, found.launches, found.numbers) == (400, 10, 4)
    assert found.regression.value <= 0.02 and found.improvement.value <= 0.02
    assert found.regression.low == pytest.approx(0, abs=0.02) and 0 < found.regression.high < 0.04
    assert found.inconclusive.value < 0.05


def test_noisy_launches_are_inconclusive():
    assert audit(drawn(spread=0.2), RULE, splits=100).inconclusive.value == 1


def test_a_rule_without_a_level_alarms_and_the_audit_says_so():
    careless = Rule(level=1.0, superiority=0.5, least_change=0.001, share_of_detectable=0.0)
    found = audit(drawn(numbers=2), careless, splits=200)
    assert found.regression.value > 0.3 and found.improvement.value > 0.3


def test_the_same_seed_makes_the_same_splits():
    assert audit(drawn(), RULE, splits=300) == audit(drawn(), RULE, splits=300)


def test_an_odd_launch_is_left_out_of_each_split():
    assert audit(drawn(count=21), RULE, splits=10).launches == 10


@pytest.mark.parametrize(("series", "message"), [
    ([], "nothing to audit"),
    ([launches([1e6] * 20, judgement=Judgement.EXACT)], "nothing to audit"),
    ([launches([1e6] * 20), launches([1e6] * 18, "tokens")], "18 to 20 launches"),
    (drawn(count=8), "4 numbers need 12 launches for an audit; there are 8"),
    ([launches([0.0] + [1e6] * 19)], "no measurement"),
    ([launches([float("nan")] + [1e6] * 19)], "no measurement"),
])  # fmt: skip
def test_launches_that_cannot_be_audited(series, message):
    with pytest.raises(UserError, match=message):
        audit(series, RULE)
