"""Cache policies at the same batch and in the same memory, from records."""

from __future__ import annotations

import numpy as np
import pytest
from records import GPU, capacity, failed, quality_numbers, record

from arvbench.results.equal_memory import comparisons
from arvbench.results.memory import StepPeak, TensorPeaks
from arvbench.results.schema import Record, Status

MIB = 2**20


def traced(policy: str, batch: int, tensors_mib: float, *, number: int, **options) -> Record:
    """A record without a search, whose call held `tensors_mib` beside the weights."""
    plain = record("demo/var", cache=policy, batch=batch, number=number, capacity=None, **options)
    peak = int(tensors_mib * MIB)
    step = StepPeak(step=0, peak_bytes=peak, after_bytes=peak // 2)
    tensors = TensorPeaks(steps=(step,), tokens_peak_bytes=peak, decode_peak_bytes=peak // 2)
    memory = plain.outcome.memory.model_copy(update={"tensors": tensors})
    return plain.model_copy(update={"outcome": plain.outcome.model_copy(update={"memory": memory})})


STATIC = traced("static", 8, 100, number=1)
SMALL = [traced("int8", 8, 60, number=2), traced("int8", 12, 90, number=3), traced("int8", 13, 101, number=4)]


def test_the_same_memory_is_the_largest_batch_whose_tensors_fit():
    (found,) = comparisons([*SMALL, STATIC])
    assert (found.batch, found.counted) == (8, "tensors")
    static, small = found.contenders
    assert (static.policy, small.policy) == ("static", "int8")  # the exact one first, whatever their order
    assert small.same_batch.batch == 8 and small.same_memory is not None and small.same_memory.batch == 12
    assert static.same_memory is not None and static.same_memory.batch == 8
    assert small.same_memory.memory_bytes is not None and small.same_memory.memory_bytes <= found.limit_bytes
    assert small.same_memory.live_per_image == small.same_memory.live_bytes / 12


def test_a_policy_above_the_limit_has_one_row():
    (found,) = comparisons([STATIC, traced("int8", 8, 101, number=2)])
    assert found.contenders[1].same_memory is None


def test_without_traced_tensors_or_searches_there_is_no_same_memory():
    bare = [record(cache=policy, number=n, capacity=None) for n, policy in enumerate(("static", "int8"))]
    (found,) = comparisons(bare)
    assert found.limit_bytes is None and found.counted is None
    assert all(contender.same_memory is None for contender in found.contenders)


def test_searches_under_one_limit_give_their_largest_batches():
    searched = [
        record(cache="static", number=1, capacity=capacity()),
        record(cache="int8", number=2, capacity=capacity(per_image=1_000_000)),
        record(cache="fp8", number=3, capacity=capacity(limit=400_000_000)),
    ]
    (found,) = comparisons(searched)
    assert found.counted == "process" and found.limit_bytes == 300_000_000
    batches = [contender.same_memory and contender.same_memory.batch for contender in found.contenders]
    assert batches == [50, 100, None]  # another limit is another memory
    assert found.contenders[1].same_memory.speed.value == pytest.approx(100 / (0.01 * 108))


def test_quality_is_that_of_a_record_at_the_same_batch():
    asked = traced("int8", 8, 60, number=9, weights="demo")
    others = [traced("static", 8, 100, number=1, weights="demo"), traced("int8", 8, 60, number=2, weights="demo")]
    measured = asked.model_copy(
        update={"outcome": asked.outcome.model_copy(update={"quality": quality_numbers(np.random.default_rng(0))})}
    )
    (found,) = comparisons([*others, measured])
    assert found.contenders[1].same_batch.record is measured


@pytest.mark.parametrize(
    "changes", [{"dtype": "bfloat16"}, {"settings": {"cfg": 3.0}}, {"gpu": GPU}, {"method": "skip:2"}, {"threads": 7}]
)
def test_unlike_cases_are_never_compared(changes):
    other = record("demo/var", cache="int8", number=2, capacity=None, batch=8, **changes)
    assert all(len(found.contenders) == 1 for found in comparisons([STATIC, other]))


def test_failed_cases_and_single_ones_compare_nothing():
    assert comparisons([]) == []
    assert comparisons([failed(Status.OOM, "no", number=1), record(number=2, capacity=None)]) == []


def test_a_policy_at_another_batch_alone_is_left_out():
    (found,) = comparisons([STATIC, traced("int8", 12, 90, number=3), traced("grow", 8, 100, number=4)])
    assert [contender.policy for contender in found.contenders] == ["static", "grow"]
