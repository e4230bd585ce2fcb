"""CPU seconds of a call beside its peer, for benchmarks: both take turns, so that they meet the same machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

from pytest_benchmark.fixture import BenchmarkFixture


def cpu_s(call: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, with those of the processes that it started and that have ended."""
    start = _used_s()
    call()
    return _used_s() - start


def _used_s() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def in_turn(
    benchmark: BenchmarkFixture, ours: Callable[[], object], peer: Callable[[], object], *, bar: str, rounds: int = 3
) -> None:
    """Time `ours` and `peer` in turn; note the medians of their CPU seconds, the ratio, and the bar in words."""
    pairs: list[tuple[float, float]] = []
    rounds = rounds if benchmark.enabled else 1
    benchmark.pedantic(lambda: pairs.append((cpu_s(ours), cpu_s(peer))), rounds=rounds, warmup_rounds=0)
    our_s, peer_s = (median(values) for values in zip(*pairs, strict=True))
    benchmark.extra_info |= {"cpu_s": our_s, "peer_cpu_s": peer_s, "peer_over_ours": peer_s / our_s, "bar": bar}
