"""The suite kvcache has every policy at the same batch, and the batches of the same memory are the ones that fit."""

from __future__ import annotations

from functools import cache

import pytest

from arvbench.harness.measure.footprint import predict
from arvbench.harness.suites.suite import load_suite
from arvbench.results.schema import CaseConfig

CASES = [case.config for case in load_suite("kvcache").cases]
COMMON = 16
LARGER = [case for case in CASES if case.batch != COMMON]


@cache
def predicted(policy: str, batch: int) -> int:
    return predict(CaseConfig(model="demo/var", weights="demo", cache=policy, batch=batch)).total_bytes


def test_every_larger_batch_belongs_to_a_policy_that_is_also_at_the_same_batch():
    at_common = {(case.model, case.cache) for case in CASES if case.batch == COMMON}
    assert {(case.model, case.cache) for case in LARGER} <= at_common
    assert all(case.trace_memory for case in CASES)
    assert all((case.quality is not None) == (case.batch == COMMON) for case in CASES)


def larger():
    """Larger batches of VAR; a prediction takes a second, and by default every kind of policy has one."""
    for case in LARGER:
        if case.model == "demo/var":
            # Its bytes are counted as those of int8, or its tokens chosen as those of scalekv.
            alike = case.cache == "fp8" or case.cache.startswith("hack")
            yield pytest.param(case, marks=[pytest.mark.slow] * alike, id=case.cache)


@pytest.mark.parametrize("case", list(larger()))
def test_the_batch_of_the_same_memory_is_the_largest_that_fits(case):
    limit = predicted("static", COMMON)
    assert predicted(case.cache, case.batch) <= limit < predicted(case.cache, case.batch + 1)
