"""GPU clocks that stay at one value while something is timed, restored on every exit path.

A locked clock outlives the process that locked it. So a small process of its own holds the lock, `python -m
arvbench.harness.machine.clock_lock UUID`: it restores the clocks when its stdin ends, which happens however its parent
ends, kill -9 included. It imports NVML and nothing else of weight.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

Locked = bool | Literal["denied"]

_LOCKED, _DENIED = "locked", "denied"
_SHARE_OF_MOST = 0.75
"""Clock of a GPU without a default one for applications, as a share of its highest: one that it can sustain."""


@contextlib.contextmanager
def locked_clocks(uuid: str | None) -> Iterator[Locked]:
    """Hold the clocks of a GPU inside `with`; yields True, "denied", or False for no GPU (None) or one without NVML."""
    if uuid is None:
        yield False
        return
    # Here, so that `python -m` of this file does not import the whole harness.
    from arvbench.harness.machine.processes import this_python

    python = this_python()
    command = [python.executable, "-P", "-m", "arvbench.harness.machine.clock_lock", uuid]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C in the terminal is for the parent
        env=python.environment(),
        text=True,
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        said = holder.stdout.readline().strip()
        try:
            yield True if said == _LOCKED else "denied" if said == _DENIED else False
        finally:
            # On exit, Popen waits for the holder, so for the clocks.
            with contextlib.suppress(BrokenPipeError):
                holder.stdin.close()


def hold(uuid: str) -> None:
    """Lock, say so on stdout, and restore when stdin ends."""
    import pynvml

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    try:
        clock = _sustained_mhz(handle)
        pynvml.nvmlDeviceSetGpuLockedClocks(handle, clock, clock)
    except pynvml.NVMLError:
        print(_DENIED, flush=True)  # noqa: T201
        return
    try:
        print(_LOCKED, flush=True)  # noqa: T201
        sys.stdin.read()
    finally:
        pynvml.nvmlDeviceResetGpuLockedClocks(handle)


def _sustained_mhz(handle: Any) -> int:
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetDefaultApplicationsClock(handle, pynvml.NVML_CLOCK_SM))
    except pynvml.NVMLError:
        return round(_SHARE_OF_MOST * int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)))


if __name__ == "__main__":
    hold(sys.argv[1])
