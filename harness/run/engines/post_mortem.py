"""Diagnosis of a worker that died without a result. Its status is out of memory only on evidence."""

from __future__ import annotations

import signal
from pathlib import Path

from arvbench.harness.machine.system_files import lines_of
from arvbench.results.schema import Failed, Status

_BAD_ALLOC = "std::bad_alloc"
"""Text that C++ prints to stderr before it aborts because an allocation failed."""


def explain_death(returncode: int, output: str, oom_kills_before: int, oom_kills_after: int) -> Failed:
    """Return the outcome of a worker that left no result; a negative `returncode` is the signal that killed it.

    `oom_kills_*` are the kernel's counts of processes killed for memory, before and after.
    """
    if returncode >= 0:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "it said nothing")
        reason = f"the worker ended with exit code {returncode} and no result: {last.strip()}"
        return Failed(status=Status.ERROR, reason=reason, detail=output)
    name = _signal_name(-returncode)
    if returncode == -signal.SIGKILL and oom_kills_after > oom_kills_before:
        reason = f"the kernel killed the worker for lack of memory ({name}; its OOM-kill count rose)"
        return Failed(status=Status.OOM, reason=reason, detail=output)
    if returncode == -signal.SIGABRT and _BAD_ALLOC in output:
        return Failed(status=Status.OOM, reason=f"an allocation failed inside a library ({_BAD_ALLOC})", detail=output)
    reason = f"the worker was killed by {name}; nothing shows that memory was the reason"
    return Failed(status=Status.ERROR, reason=reason, detail=output)


def is_lost(returncode: int, died: Failed) -> bool:
    """Return whether a worker was killed from outside, and not for memory: the case is not to blame."""
    return returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP) and died.status is Status.ERROR


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of processes that the kernel killed for lack of memory; 0 where it does not count them.

    Reads this process's memory cgroup (version 2: memory.events, version 1: memory.oom_control) and the count of the
    whole machine in vmstat.
    """
    files = [proc / "vmstat"]
    for line in lines_of(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files.append(cgroups / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(cgroups / "memory" / path.lstrip("/") / "memory.oom_control")
    counts = [line.split() for file in files for line in lines_of(file)]
    return sum(int(words[1]) for words in counts if len(words) == 2 and words[0] == "oom_kill")
