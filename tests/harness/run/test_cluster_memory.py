"""A real kill by Ray's memory monitor: it ends in a status, not in a wait, and is not lost: nobody tries it again.

The monitor's threshold is 2.5 GiB above what this machine uses when the cluster starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import psutil
import pytest

from arvbench.harness.run.engines.cluster import Cluster, Ended, Need
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
