"""What a worker may take: threads and memory. Set once, after the libraries are imported.

Units    _bytes bytes
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from arvbench.errors import HostError
from arvbench.harness.machine.cores import usable_cores


def set_threads(count: int | None) -> None:
    """CPU threads of torch; None takes the physical cores that this process may use."""
    torch.set_num_threads(count or usable_cores())


def set_memory_limit(limit_bytes: int, device: torch.device) -> None:
    """Make allocations beyond `limit_bytes` fail as they would on a machine that has no more.

    CPU: the resident set of this process, libraries included, may grow up to the limit. CUDA: torch's allocator on
    that device. Raises MemoryError when the libraries alone take more, HostError where the system cannot do it.
    """
    if device.type == "cuda":
        # torch takes no "cuda" without a number here.
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), index)
        return
    if not sys.platform.startswith("linux"):
        raise HostError("memory_limit_bytes on the CPU needs Linux; leave it out, or run on Linux")
    _start_thread_pool()
    status = _status_bytes()
    room = limit_bytes - status["VmRSS"]
    if room <= 0:
        raise MemoryError(f"the libraries alone take {status['VmRSS']} bytes")
    # RLIMIT_DATA counts reserved address space, which is more than what is resident: grant the difference on top.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (status["VmData"] + room, hard))


def lift_memory_limit() -> None:
    """Take the CPU limit back, so that a failure can still be written down."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _start_thread_pool() -> None:
    """Start torch's threads now: a thread that cannot have its stack ends the process instead of raising."""
    side = 512
    torch.mm(torch.zeros(side, side), torch.zeros(side, side))


def _status_bytes() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
