"""Locked clocks are restored on every exit path; the driver is a fake that logs its calls."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fake_nvml
import pytest

from arvbench.harness.machine.clock_lock import locked_clocks
from arvbench.harness.machine.processes import this_python

HELD = ["lock GPU-1 1755 1755", "reset GPU-1"]
PARENT = """
import sys
from arvbench.harness.machine.clock_lock import locked_clocks
with locked_clocks("GPU-1") as locked:
    print(locked, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    shutil.copy(fake_nvml.__file__, tmp_path / "pynvml.py")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("FAKE_NVML_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_clocks_are_held_inside_the_block_only(log):
    with locked_clocks("GPU-1") as locked:
        assert locked is True
        assert lines(log) == HELD[:1]
    assert lines(log) == HELD


def test_an_error_inside_the_block_restores_the_clocks(log):
    with pytest.raises(RuntimeError, match="case"), locked_clocks("GPU-1"):
        raise RuntimeError("case")
    assert lines(log) == HELD


def test_a_driver_that_refuses_is_said(log, monkeypatch):
    monkeypatch.setenv("FAKE_NVML_DENIED", "1")
    with locked_clocks("GPU-1") as locked:
        assert locked == "denied"
    assert lines(log) == []


def test_a_gpu_without_a_default_clock_is_held_below_its_highest(log, monkeypatch):
    monkeypatch.setenv("FAKE_NVML_NO_DEFAULT", "1")
    with locked_clocks("GPU-1"):
        assert lines(log) == ["lock GPU-1 1500 1500"]


def test_no_gpu_and_no_driver_lock_nothing(log):
    for uuid in (None, "GPU-none"):
        with locked_clocks(uuid) as locked:
            assert locked is False
    assert lines(log) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_killed_leaves_no_locked_clocks(log, number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,  # the holder's own goes to the null device
        env=this_python().environment(),
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"True\n"
    parent.send_signal(number)
    parent.communicate(timeout=60)
    with subprocess.Popen([sys.executable, "-c", WAIT, str(log)]) as waiting:
        assert waiting.wait(timeout=60) == 0
    assert lines(log) == HELD


WAIT = """
import sys, time
from pathlib import Path
while "reset" not in Path(sys.argv[1]).read_text():
    time.sleep(0.02)
"""
