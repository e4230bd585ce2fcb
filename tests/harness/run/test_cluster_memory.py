"""A real kill by Ray's memory monitor: it ends in a status, not in a wait, and is not lost: nobody tries it again.

The monitor's threshold is 2.5 GiB above what this machine uses when the cluster starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import psutil
import pytest
from run_helpers import SilentListener, workers_of, write_suite

from arvbench.harness.run.engines.cluster import Cluster, Ended, Need
from arvbench.harness.run.engines.ray import RayEngine
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import load_suite
from arvbench.results.schema import Status

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")]
GIB = 2**30


@pytest.fixture
def watched() -> Iterator[None]:
    from ray_cluster import one_node

    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 2.5 * GIB) / memory.total
    with one_node(RAY_memory_usage_threshold=f"{threshold:.4f}", RAY_memory_monitor_refresh_ms="100"):
        yield


def test_a_task_that_takes_too_much_is_out_of_memory(watched):
    def takes(begun, post):
        taken = []
        while len(taken) < 64:
            taken.append(os.urandom(GIB // 8))

    with pytest.raises(Ended) as end:
        Cluster("auto").run(takes, ("",), Need(cpus=1), lambda event: None, 300)
    assert (end.value.status, end.value.lost) == (Status.OOM, False)
    assert "Ray's memory monitor killed the worker" in end.value.reason


def test_a_case_that_takes_too_much_is_out_of_memory_and_the_others_are_measured(watched, tmp_path):
    """The monitor kills the worker of a whole case, whose images need 8 GiB; the case after it runs as usual."""
    usual = {"model": "demo/var", "threads": 1, "repeats": 1, "max_warmup": 1}
    cases = [usual | {"weights": "demo", "batch": 4_000}, usual | {"weights": "demo", "batch": 2}]
    store = RecordStore(tmp_path / "run")
    store.prepare()
    suite = load_suite(str(write_suite(tmp_path / "s.yaml", cases=cases)))
    large, small = run_suite(suite, store, RayEngine(), SilentListener(), options=RunOptions(retries=2))
    assert (large.status, small.status) == (Status.OOM, Status.OK)
    assert "Ray's memory monitor killed the worker" in large.outcome.reason
    assert len(store.records()) == 2
    assert not workers_of(os.getpid())
