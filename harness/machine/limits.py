"""Limits of a worker process: threads and memory. Set them once, after the libraries are imported.

Units    _bytes bytes
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator

import torch

from arvbench.errors import HostError
from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.machine.system_files import status_bytes


def set_threads(count: int | None) -> None:
    """Set torch's CPU threads; None takes one per physical core that this process may use."""
    torch.set_num_threads(count or usable_cores())


def set_memory_limit(limit_bytes: int, device: torch.device) -> None:
    """Make allocations beyond `limit_bytes` fail, as on a machine with that much memory.

    On the CPU the limit is for the resident set of this process, libraries included; on CUDA it is for torch's
    allocator on that device. Raises MemoryError when the libraries alone take more, HostError where the system has no
    limit of this kind.
    """
    if device.type == "cuda":
        # This call of torch needs a device number.
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), index)
        return
    if not sys.platform.startswith("linux"):
        raise HostError("memory_limit_bytes on the CPU needs Linux; leave it out, or run on Linux")
    _start_thread_pool()
    status = status_bytes()
    if "VmRSS" not in status or "VmData" not in status:
        raise HostError(
            "memory_limit_bytes on the CPU needs /proc/self/status, which shows no sizes here; leave it out"
        )
    room = limit_bytes - status["VmRSS"]
    if room <= 0:
        raise MemoryError(f"the libraries alone take {status['VmRSS']} bytes")
    # RLIMIT_DATA counts reserved address space, which exceeds resident memory: grant the difference on top.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (status["VmData"] + room, hard))


def lift_memory_limit() -> None:
    """Remove the CPU limit, so that a failure can still be recorded."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


@contextlib.contextmanager
def without_memory_limit() -> Iterator[None]:
    """Lift the CPU limit for the block: for instruments, whose memory is not the case's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _start_thread_pool() -> None:
    """Start torch's threads now: a thread without memory for its stack ends the process instead of raising."""
    side = 512
    torch.mm(torch.zeros(side, side), torch.zeros(side, side))
