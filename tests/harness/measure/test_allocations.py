"""Tensors of a call, step by step."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from arvbench.adapters import PerImageNoise
from arvbench.adapters.loading import load_sampler
from arvbench.harness.measure.allocations import peaks_of, trace_tensors
from arvbench.results.memory import StepPeak


class Event(NamedTuple):
    """Event of a made-up profile."""

    label: str
    start: int
    end: int = 0
    size: int = 0

    def name(self):
        return self.label

    def start_ns(self):
        return self.start

    def end_ns(self):
        return self.end

    def nbytes(self):
        return self.size


def test_peaks_and_what_a_step_leaves_follow_from_the_order_of_blocks():
    blocks = [(5, 100), (12, 40), (14, -40), (16, 10), (22, 300), (24, -100), (26, -200), (32, 50)]
    events = [Event("[memory]", at, at, size) for at, size in reversed(blocks)]
    events += [Event("arvbench step 1", 20, 29), Event("arvbench step 0", 10, 19), Event("arvbench decode", 30, 39)]
    peaks = peaks_of([*events, Event("aten::cat", 11, 13)])
    assert peaks.steps == (
        StepPeak(step=0, peak_bytes=140, after_bytes=110),
        StepPeak(step=1, peak_bytes=410, after_bytes=110),
    )
    assert (peaks.tokens_peak_bytes, peaks.decode_peak_bytes) == (410, 160)
    assert (peaks.worst.step, peaks.worst.transient_bytes) == (1, 300)


def traced(sampler, policy: str, batch: int):
    settings = sampler.spec.settings

    def call(cache, observer) -> None:
        noise = PerImageNoise(0, range(batch))
        sampler.sample([0] * batch, settings, noise=noise, cache=cache, observer=observer)

    return trace_tensors(torch.device("cpu"), lambda: sampler.make_cache(policy, settings, batch=batch), call)


@pytest.mark.parametrize("name", ["demo/var", "demo/llamagen"])
def test_concatenation_takes_a_copy_that_the_static_cache_does_not(name):
    sampler = load_sampler(name, weights="demo")
    schedule = sampler.schedule(sampler.spec.settings, batch=2, cache="grow")
    grow, static = traced(sampler, "grow", 2), traced(sampler, "static", 2)
    assert len(grow.steps) == len(static.steps) == len(schedule)
    last = schedule.steps[-1]
    # Keys of one layer, old and new: the least that torch.cat holds beside the cache.
    copy = last.cache_bytes // 2 // sampler.cache_shape("grow", sampler.spec.settings, batch=2).layers
    assert static.steps[-1].after_bytes >= last.cache_bytes
    if name == "demo/llamagen":  # one new token: all of the transient is the copy
        assert grow.worst.step == last.index and grow.worst.transient_bytes >= copy
        assert grow.tokens_peak_bytes - static.tokens_peak_bytes >= copy // 2


def test_the_count_is_equal_in_every_run(reference):
    assert traced(reference, "static", 2) == traced(reference, "static", 2)
