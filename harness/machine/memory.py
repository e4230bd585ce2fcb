"""Memory in use and its peak, from CUDA's caching allocator or from the resident set of this process.

On the CPU no allocator counts bytes. Its numbers are the kernel's for the whole process, and pages that a library keeps
after freeing them count as in use. Records name the source, and the two are never compared.

Units    _bytes bytes
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Literal, Protocol

import torch

from arvbench.harness.machine.system_files import status_bytes

MemorySource = Literal["cuda-allocator", "process-rss"]


class MemoryProbe(Protocol):
    """Reads bytes in use and their peak since `begin_phase`; None where the system does not count them."""

    source: MemorySource

    def release_unused(self) -> None:
        """Release unused memory, so that the next peak shows the need of a call."""
        ...

    def in_use_bytes(self) -> int | None: ...

    def begin_phase(self) -> None:
        """Reset the peak."""
        ...

    def peak_bytes(self) -> int | None: ...

    def reserved_bytes(self) -> int | None: ...

    def device_used_bytes(self) -> int | None: ...


class CudaMemoryProbe:
    """The caching allocator's own count, exact to the byte."""

    source: MemorySource = "cuda-allocator"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def release_unused(self) -> None:
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()

    def in_use_bytes(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def begin_phase(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)

    def reserved_bytes(self) -> int:
        return torch.cuda.max_memory_reserved(self._device)

    def device_used_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


class ProcessMemoryProbe:
    """Resident set of this process, from Linux's /proc; None on other systems or where the kernel refuses."""

    source: MemorySource = "process-rss"

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc
        self._peak_known = False

    def release_unused(self) -> None:
        gc.collect()
        # glibc keeps freed blocks, which count as in use and would hide the need of the next call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    def in_use_bytes(self) -> int | None:
        return status_bytes(self._proc).get("VmRSS")

    def begin_phase(self) -> None:
        try:
            (self._proc / "clear_refs").write_text("5")  # 5 resets the peak of the resident set (proc(5))
            self._peak_known = True
        except OSError:
            self._peak_known = False

    def peak_bytes(self) -> int | None:
        return status_bytes(self._proc).get("VmHWM") if self._peak_known else None

    def reserved_bytes(self) -> None:
        return None

    def device_used_bytes(self) -> None:
        return None


def probe_for(device: torch.device) -> MemoryProbe:
    return CudaMemoryProbe(device) if device.type == "cuda" else ProcessMemoryProbe()
