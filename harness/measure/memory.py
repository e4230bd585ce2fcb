"""Memory of one sampling call by component, and the cache after every step.

What is kept between steps is keys and values, or in M-VAR the mixers' state or history.

Units    _bytes bytes, the cache's over all layers
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.sampler import Observer, Sampler, SilentObserver, StepOutput
from arvbench.adapters.schedule import Schedule, Step
from arvbench.harness.machine.memory import MemoryProbe
from arvbench.results.schema import CacheStep, Memory


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


class CacheObserver(SilentObserver):
    """Reads the cache's own books at the end of every step."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.steps: list[CacheStep] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(
            CacheStep(
                step=step.index,
                planned_bytes=step.cache_bytes,
                live_bytes=self._cache.live_bytes(),
                allocated_bytes=self._cache.allocated_bytes(),
            )
        )


class Observers:
    """Passes every event on; begin events in the order given, end events in reverse."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def step_begin(self, step: Step) -> None:
        for observer in self._observers:
            observer.step_begin(step)

    def step_end(self, step: Step, output: StepOutput) -> None:
        for observer in reversed(self._observers):
            observer.step_end(step, output)

    def decode_begin(self) -> None:
        for observer in self._observers:
            observer.decode_begin()

    def decode_end(self, decoded: Tensor) -> None:
        for observer in reversed(self._observers):
            observer.decode_end(decoded)


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
