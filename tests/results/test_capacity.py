"""Results of a capacity search: largest batch, line and knee."""

from __future__ import annotations

import pytest
from records import capacity

from arvbench.results.capacity import Capacity, Probe, best_of, knee_of


def test_line_maximum_and_knee_of_batches_on_a_line():
    found = capacity()
    line = found.line()
    assert line is not None and line.bytes_per_image == pytest.approx(2_000_000)
    assert line.fixed_bytes == pytest.approx(200_000_000) and line.error_bytes < 1
    assert (found.max_batch, found.too_large, found.verdict(line)) == (50, 51, "maximum")
    knee, best = knee_of(found.rates()), best_of(found.rates())
    assert best is not None and best.probe.batch == 50
    assert knee is not None and knee.probe.batch == 48  # 85.7 images/s of 86.2; 32 images have 80.0


def test_a_maximum_off_the_line_is_not_called_one():
    found = capacity()
    early = [probe for probe in found.probes if probe.batch <= 16] + [Probe(batch=17, status="oom")]
    lost = found.model_copy(update={"probes": tuple(early)})
    assert lost.max_batch == 16 and lost.miss(lost.line()) > 1
    assert lost.verdict(lost.line()).startswith("not called a maximum: the line misses it by")
    retried = (*early[:-1], early[-1].model_copy(update={"allocation_retries": 7}))
    assert "7 allocation retries" in lost.model_copy(update={"probes": retried}).verdict(lost.line())


def test_few_batches_have_no_line_and_a_falling_line_no_batch():
    two = Capacity(limit_bytes=10, ended="found", probes=(Probe(batch=1, status="ok", held_bytes=5),))
    assert two.line() is None and two.verdict(None).endswith("too few batches for a line")
    falling = tuple(Probe(batch=b, status="ok", held_bytes=9 - b) for b in (1, 2, 3))
    never = Capacity(limit_bytes=10, ended="most", probes=falling)
    assert never.miss(never.line()) is None


@pytest.mark.parametrize(("ended", "says"), [("most", "the search ended there"), ("stopped", "batch 51 ended with")])
def test_a_search_without_a_limit_found_says_at_least(ended, says):
    found = capacity(ended=ended)
    verdict = found.verdict(found.line())
    assert verdict.startswith("at least") and says in verdict


def test_without_times_there_is_no_knee():
    bare = Capacity(limit_bytes=None, ended="most", probes=(Probe(batch=1, status="ok"),))
    assert bare.rates() == [] and knee_of([]) is None and best_of([]) is None and bare.max_batch == 1
