"""Memory of one sampling call by component, from two probes: CUDA's caching allocator, or the process's resident set.

The CPU has no allocator that keeps books, so that its numbers are what the kernel says about the process: pages that
a library keeps after freeing them count as in use. They are told apart by `Memory.source` and never compared.

Units    _bytes bytes
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from arvbench.adapters.base import Sampler, SilentObserver
from arvbench.adapters.cache.base import Cache
from arvbench.adapters.schedule import Schedule
from arvbench.harness.measure.kv_cache import CacheObserver
from arvbench.harness.measure.observers import Observers
from arvbench.results.schema import CacheStep, Memory

MemorySource = Literal["cuda-allocator", "process-rss"]


class MemoryProbe(Protocol):
    """What is in use, and the peak since `begin_phase`. None where this machine cannot tell."""

    source: MemorySource

    def release_unused(self) -> None:
        """Give back what is held and not used, so that the next peak shows what is needed."""
        ...

    def in_use_bytes(self) -> int | None: ...

    def begin_phase(self) -> None:
        """Forget the peak so far."""
        ...

    def peak_bytes(self) -> int | None: ...

    def reserved_bytes(self) -> int | None: ...

    def device_used_bytes(self) -> int | None: ...


class CudaMemoryProbe:
    """The caching allocator's books, exact to the byte."""

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
        # glibc keeps freed blocks, which would hide the next call's need inside what already counts as in use.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    def in_use_bytes(self) -> int | None:
        return self._status("VmRSS")

    def begin_phase(self) -> None:
        try:
            (self._proc / "clear_refs").write_text("5")  # 5 resets the peak of the resident set (proc(5))
            self._peak_known = True
        except OSError:
            self._peak_known = False

    def peak_bytes(self) -> int | None:
        return self._status("VmHWM") if self._peak_known else None

    def reserved_bytes(self) -> None:
        return None

    def device_used_bytes(self) -> None:
        return None

    def _status(self, field: str) -> int | None:
        try:
            lines = (self._proc / "status").read_text().splitlines()
        except OSError:
            return None
        found = (line.split() for line in lines if line.startswith(f"{field}:"))
        return next((int(words[1]) * 1024 for words in found), None)


def probe_for(device: torch.device) -> MemoryProbe:
    return CudaMemoryProbe(device) if device.type == "cuda" else ProcessMemoryProbe()


class MemoryObserver(SilentObserver):
    """Reads the probe's peak at the end of the loop and at the end of decode."""

    def __init__(self, probe: MemoryProbe) -> None:
        self._probe = probe
        self.tokens_peak: int | None = None
        self.decode_peak: int | None = None

    def decode_begin(self) -> None:
        self.tokens_peak = self._probe.peak_bytes()
        self._probe.begin_phase()

    def decode_end(self, decoded: Tensor) -> None:
        self.decode_peak = self._probe.peak_bytes()


def measure_memory(
    sampler: Sampler,
    schedule: Schedule,
    *,
    make_cache: Callable[[], Cache],
    call: Callable[[Cache, Observers], None],
    probe: MemoryProbe,
) -> tuple[Memory, tuple[CacheStep, ...]]:
    """One call with a fresh cache, so that the cache is part of the loop's peak; and its KV cache per step."""
    probe.release_unused()
    before = probe.in_use_bytes()
    probe.begin_phase()
    cache = make_cache()
    peaks, cache_steps = MemoryObserver(probe), CacheObserver(cache)
    call(cache, Observers(peaks, cache_steps))
    memory = Memory(
        weights_bytes=sum(weight_bytes(module) for module in sampler.modules().values()),
        cache_planned_bytes=schedule.peak_cache_bytes,
        cache_live_bytes=max(step.live_bytes for step in cache_steps.steps),
        cache_allocated_bytes=max(step.allocated_bytes for step in cache_steps.steps),
        tokens_peak_bytes=_above(peaks.tokens_peak, before),
        decode_peak_bytes=_above(peaks.decode_peak, before),
        source=probe.source,
        peak_bytes=max((peak for peak in (peaks.tokens_peak, peaks.decode_peak) if peak is not None), default=None),
        reserved_bytes=probe.reserved_bytes(),
        device_used_bytes=probe.device_used_bytes(),
    )
    return memory, tuple(cache_steps.steps)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers; a tensor that is shared counts once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.numel()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _above(peak: int | None, before: int | None) -> int | None:
    return None if peak is None or before is None else max(0, peak - before)
