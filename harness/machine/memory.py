"""Memory in use and its peak, from CUDA's caching allocator or from the resident set of this process.

On the CPU no allocator counts bytes. Its numbers are the kernel's for the whole process, and pages that a library keeps
after freeing them count as in use. Records name the source, and the two are never compared.

Units    _bytes bytes
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from arvbench.harness.machine.system_files import kilobytes, status_bytes
from arvbench.results.memory import MemorySource


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

    def machine_used_bytes(self) -> int | None: ...

    def allocation_retries(self) -> int | None: ...


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

    def machine_used_bytes(self) -> None:
        return None

    def allocation_retries(self) -> int:
        return int(torch.cuda.memory_stats(self._device).get("num_alloc_retries", 0))


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

    def machine_used_bytes(self) -> int | None:
        sizes = kilobytes(Path("/proc/meminfo"))
        if "MemTotal" not in sizes or "MemAvailable" not in sizes:
            return None
        return sizes["MemTotal"] - sizes["MemAvailable"]

    def allocation_retries(self) -> None:
        return None


def probe_for(device: torch.device) -> MemoryProbe:
    return CudaMemoryProbe(device) if device.type == "cuda" else ProcessMemoryProbe()


ALLOCATOR_VARIABLES = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)
"""Variables that change peaks: settings of CUDA's allocator, of the C library's, or another one in its place."""
_LONGEST_SETTING = 200


def allocator_settings(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return those of `ALLOCATOR_VARIABLES` that are set; of files, the names alone."""
    found = {name: variables[name] for name in ALLOCATOR_VARIABLES if variables.get(name)}
    if "LD_PRELOAD" in found:
        found["LD_PRELOAD"] = ":".join(Path(file).name for file in found["LD_PRELOAD"].replace(":", " ").split())
    return {name: value[:_LONGEST_SETTING] for name, value in found.items()}
