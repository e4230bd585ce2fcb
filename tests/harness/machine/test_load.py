"""Load of the machine, from counters like those of /proc/stat."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from arvbench.harness.machine import load
from arvbench.harness.machine.load import LoadMeter

BUSY = "while True: pass"


def counters(path: Path, user: int, steal: int = 0) -> Path:
    path.write_text(f"cpu {user} 0 0 900 0 0 0 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    return path


def test_time_of_others_excludes_the_time_of_this_process(tmp_path):
    stat = counters(tmp_path / "stat", user=1_000)
    meter, begin = LoadMeter(stat), time.perf_counter()
    time.sleep(0.3)
    counters(stat, user=1_060, steal=30)
    measured = meter.read()
    seconds = time.perf_counter() - begin
    assert measured is not None
    # 60 ticks are 0.6 s of CPU time; this process used little of it.
    assert measured.other_cores == pytest.approx(0.6 / seconds, rel=0.1)
    assert measured.stolen_cores == pytest.approx(0.3 / seconds, rel=0.1)


@pytest.mark.parametrize("content", ["", "nothing\n", "cpu a b c d e f g h\n", "cpu 1 2\n"])
def test_counters_of_another_kind_give_no_load(tmp_path, content):
    stat = tmp_path / "stat"
    stat.write_text(content)
    meter = LoadMeter(stat)
    time.sleep(0.25)
    assert meter.read() is None
    assert LoadMeter(tmp_path / "missing").read() is None


def test_probes_of_the_processor_give_its_slowdown(tmp_path):
    meter = LoadMeter(counters(tmp_path / "stat", user=1_000))
    time.sleep(0.25)
    unprobed = meter.read()
    for _ in range(3):
        meter.probe()
    probed = meter.read()
    assert unprobed is not None and unprobed.slowdown is None
    assert probed is not None and probed.slowdown is not None and probed.slowdown >= 1


def test_a_moment_has_no_load():
    assert LoadMeter().read() is None


@pytest.mark.skipif(not load.STAT.exists(), reason="needs /proc/stat of Linux")
def test_a_busy_neighbour_is_seen():
    neighbour = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        meter = LoadMeter()
        time.sleep(1.0)
        measured = meter.read()
    finally:
        neighbour.kill()
        neighbour.wait()
    assert measured is not None
    assert measured.cores >= 1 and measured.load_average >= 0
    assert measured.other_cores > 0.1
