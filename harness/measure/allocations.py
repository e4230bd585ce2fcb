"""Tensors of one call, step by step, by the count of torch's allocators: what a step needs beyond what it leaves.

Concatenating a cache takes old and new copy at once, which no count of the cache shows, and the resident set of a
process shows it only where the C library gives pages back. CUDA's allocator counts for itself; the CPU's reports every
block to torch's profiler. Both slow a call down, so this is a pass of its own, after the timed ones.

Units    _bytes bytes, above those before the call
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.call import Observer, SilentObserver, StepOutput
from arvbench.adapters.schedule import Step
from arvbench.results.memory import StepPeak, TensorPeaks

_STEP, _DECODE, _MEMORY = "arvbench step ", "arvbench decode", "[memory]"
_MOST_HISTORY = 100_000
"""Entries of CUDA's allocator history."""

Call = Callable[[Cache, Observer], object]


def trace_tensors(
    device: torch.device, make_cache: Callable[[], Cache], call: Call, *, snapshot: Path | None = None
) -> TensorPeaks:
    """Return the peaks of one call, its cache included.

    `snapshot` is a file for CUDA's allocator history of the step with the largest transient, of one more call.
    """
    if device.type != "cuda":
        return _on_cpu(make_cache, call)
    peaks = _on_cuda(device, make_cache, call)
    if snapshot is not None:
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        call(make_cache(), _Historian(peaks.worst.step, snapshot))
        peaks = peaks.model_copy(update={"snapshot": f"{snapshot.parent.name}/{snapshot.name}"})
    return peaks


def _on_cuda(device: torch.device, make_cache: Callable[[], Cache], call: Call) -> TensorPeaks:
    torch.cuda.synchronize(device)
    observer = _CudaPeaks(device, torch.cuda.memory_allocated(device))
    call(make_cache(), observer)
    return TensorPeaks(
        steps=tuple(observer.steps),
        tokens_peak_bytes=max(step.peak_bytes for step in observer.steps),
        decode_peak_bytes=observer.decode_peak_bytes,
    )


class _CudaPeaks(SilentObserver):
    """Reads the allocator at every event; it counts when memory is asked for, so nothing waits for the device."""

    reads_logits = False

    def __init__(self, device: torch.device, before: int) -> None:
        self._device, self._before = device, before
        self.steps: list[StepPeak] = []
        self.decode_peak_bytes = 0

    def step_begin(self, step: Step) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def step_end(self, step: Step, output: StepOutput) -> None:
        held = torch.cuda.memory_allocated(self._device) - self._before
        self.steps.append(StepPeak(step=step.index, peak_bytes=self._peak(), after_bytes=held))

    def decode_begin(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def decode_end(self, decoded: Tensor) -> None:
        self.decode_peak_bytes = self._peak()

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._before


class _Historian(SilentObserver):
    """Keeps the allocator's history of one step in a file, for https://pytorch.org/memory_viz."""

    reads_logits = False

    def __init__(self, step: int, file: Path) -> None:
        self._step, self._file = step, file

    def step_begin(self, step: Step) -> None:
        if step.index == self._step:
            torch.cuda.memory._record_memory_history(max_entries=_MOST_HISTORY)

    def step_end(self, step: Step, output: StepOutput) -> None:
        if step.index == self._step:
            torch.cuda.memory._dump_snapshot(str(self._file))
            torch.cuda.memory._record_memory_history(enabled=None)


class ProfiledEvent(Protocol):
    """Event of torch's profiler: a marked range, or a block that the CPU's allocator gave out or took back."""

    def name(self) -> str: ...
    def start_ns(self) -> int: ...
    def end_ns(self) -> int: ...
    def nbytes(self) -> int:
        """Size of a block, negative when it was taken back."""
        ...


def _on_cpu(make_cache: Callable[[], Cache], call: Call) -> TensorPeaks:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call(make_cache(), _Marks())
    results: Any = profile.profiler
    return peaks_of(results.kineto_results.events())


class _Marks(SilentObserver):
    """Marks the steps and decode as ranges of the profile."""

    reads_logits = False

    def __init__(self) -> None:
        self._range: Any = None

    def step_begin(self, step: Step) -> None:
        self._open(f"{_STEP}{step.index}")

    def step_end(self, step: Step, output: StepOutput) -> None:
        self._range.__exit__(None, None, None)

    def decode_begin(self) -> None:
        self._open(_DECODE)

    def decode_end(self, decoded: Tensor) -> None:
        self._range.__exit__(None, None, None)

    def _open(self, name: str) -> None:
        self._range = torch.profiler.record_function(name)
        self._range.__enter__()


def peaks_of(events: Sequence[ProfiledEvent]) -> TensorPeaks:
    """Return the peaks of a profiled call."""
    blocks = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == _MEMORY)
    ranges = sorted(
        (event.start_ns(), event.end_ns(), event.name())
        for event in events
        if event.name().startswith(_STEP) or event.name() == _DECODE
    )
    steps, decode_peak, held, place = list[StepPeak](), 0, 0, 0
    for start, end, name in ranges:
        while place < len(blocks) and blocks[place][0] < start:
            held += blocks[place][1]
            place += 1
        peak = held
        while place < len(blocks) and blocks[place][0] <= end:
            held += blocks[place][1]
            peak = max(peak, held)
            place += 1
        if name == _DECODE:
            decode_peak = peak
        else:
            steps.append(StepPeak(step=int(name.removeprefix(_STEP)), peak_bytes=peak, after_bytes=held))
    return TensorPeaks(
        steps=tuple(steps),
        tokens_peak_bytes=max(step.peak_bytes for step in steps),
        decode_peak_bytes=decode_peak,
    )
