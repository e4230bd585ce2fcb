"""CPU seconds of starts: `pytest tests/bench/test_starts.py --benchmark-enable`; each beside its peer, in turn.

A start is a process of its own, so its CPU time is that of the children of this process that have ended. Disabled,
nothing but the cheapest start runs, beside an empty program: the others are held by tests of what they import.

Bars     `--help` <= 0.5 s, `models` <= 1.5 s, a forked worker at its first call in a tenth of a fresh one's CPU time
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import psutil
import pytest
from run_helpers import workers_of

import arvbench
from arvbench.harness.jobs import Event, Job
from arvbench.harness.machine.forks import CAN_FORK
from arvbench.harness.run.engines import ENGINES
from arvbench.harness.run.engines.engine import Engine
from arvbench.results.schema import CaseConfig

SOURCE = str(Path(arvbench.__file__).parents[1])
IMPORT_TORCH = ("-c", "import torch")
STARTS = {
    "--help": ("-m", "arvbench", "--help"),
    "models": ("-m", "arvbench", "models"),
    "first load of demo/var": (
        "-c",
        "from arvbench.adapters import load_sampler; load_sampler('demo/var', weights='demo')",
    ),
}
"""Name -> arguments of Python."""
BARS = {"--help": "<= 0.5 CPU s", "models": "<= 1.5 CPU s"}
CASE = CaseConfig(model="demo/var", weights="demo", repeats=1, max_warmup=1, threads=1)


def cpu_s(*arguments: str) -> float:
    """Return the CPU seconds of a run of Python."""
    before = os.times()
    environment = os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def in_turn(benchmark, ours: Callable[[], float], peer: Callable[[], float], bar: str) -> None:
    """Time `ours` and `peer` in turn; note the medians of their CPU seconds, the ratio, and the bar in words."""
    pairs: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: pairs.append((ours(), peer())), rounds=3 if benchmark.enabled else 1, warmup_rounds=0)
    our_s, peer_s = (median(values) for values in zip(*pairs, strict=True))
    benchmark.extra_info |= {"cpu_s": our_s, "peer_cpu_s": peer_s, "peer_over_ours": peer_s / our_s, "bar": bar}


@pytest.mark.parametrize("name", STARTS)
def test_starts_beside_an_import_of_torch(benchmark, name):
    if not benchmark.enabled and name != "--help":
        pytest.skip("takes seconds; tests of imports hold it")
    benchmark.group = "starts, peer: import torch"
    peer = IMPORT_TORCH if benchmark.enabled else ("-c", "")
    in_turn(benchmark, lambda: cpu_s(*STARTS[name]), lambda: cpu_s(*peer), BARS.get(name, ""))


class WorkerClock:
    """CPU seconds of a worker when its first sampling call begins."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def __call__(self, event: Event) -> None:
        if event.phase == "correctness":
            self.cpu_s = sum(sum(_times(worker)) for worker in workers_of(os.getpid()))


def _times(worker: psutil.Process) -> tuple[float, float]:
    times = worker.cpu_times()
    return times.user, times.system


@pytest.fixture
def engines() -> Iterator[dict[str, Engine]]:
    with closing(ENGINES["local"]()) as local, closing(ENGINES["spawn"]()) as spawn:
        yield {"local": local, "spawn": spawn}


@pytest.mark.skipif(not CAN_FORK, reason="needs Linux")
def test_start_of_a_case_forked_and_fresh(benchmark, engines, tmp_path):
    if not benchmark.enabled:
        pytest.skip("takes seconds; tests of the engines hold it")
    benchmark.group = "start of a case, peer: a fresh process"

    def start_s(name: str) -> float:
        clock = WorkerClock()
        engines[name].run(Job(record_id="r1", case=CASE, folder=tmp_path), clock)
        return clock.cpu_s

    start_s("local")  # starts the warm process
    in_turn(benchmark, lambda: start_s("local"), lambda: start_s("spawn"), ">= 10")
