"""CPU time of one sample of the machine: `pytest tests/bench/test_telemetry.py --benchmark-enable`.

Bar     0.5 % of one core at a sample every 200 ms: 1 ms
"""

from __future__ import annotations

import os
import sys
import time

import fake_nvml
import pytest

from arvbench.harness.machine.nvml import GpuSampler, open_gpu
from arvbench.harness.machine.telemetry import INTERVAL_S, Watch

READING = {"utilization": 98, "sm": 1900, "memory": 2619, "power_mw": 6e5, "temperature": 60, "throttle": 0, "pids": ()}


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.benchmark(group="telemetry")
def test_a_sample(benchmark, monkeypatch, gpu):
    """The driver is a fake: the calls into NVML are counted without the driver's own time."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml)
    fake_nvml.replay([READING])
    watch = Watch(GpuSampler(open_gpu("GPU-1")) if gpu else None)
    watch.is_worker(os.getppid())
    watch.switch(on=True)
    begin, rounds = time.process_time(), 100 if benchmark.enabled else 1
    benchmark.pedantic(watch.sample, rounds=rounds, warmup_rounds=0)
    share = (time.process_time() - begin) / rounds / INTERVAL_S
    benchmark.extra_info["percent_of_a_core"] = 100 * share
