"""Memory of one sampling call by component, and of its cache after every step.

A cache holds keys and values, or in M-VAR the state or the history of the mixers.

Units    _bytes bytes, the cache's over all layers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.call import Observer, SilentObserver, StepOutput
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.schedule import Schedule, Step
from arvbench.harness.machine.memory import MemoryProbe, allocator_settings
from arvbench.kernels.onednn import stored_bytes
from arvbench.results.memory import CacheStep, Memory, absent_of, counts_of


class MemoryObserver(SilentObserver):
    """Reads the cache's own count of bytes after every step, and the peaks of the loop and of decode."""

    def __init__(self, probe: MemoryProbe, cache: Cache) -> None:
        self._probe, self._cache = probe, cache
        self.cache_steps: list[CacheStep] = []
        self.tokens_peak: int | None = None
        self.decode_peak: int | None = None

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.cache_steps.append(
            CacheStep(
                step=step.index,
                planned_bytes=step.cache_bytes,
                live_bytes=self._cache.live_bytes(),
                allocated_bytes=self._cache.allocated_bytes(),
            )
        )

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
    call: Callable[[Cache, Observer], object],
    probe: MemoryProbe,
) -> tuple[Memory, tuple[CacheStep, ...]]:
    """Return the peaks of one call, and its cache by step.

    The cache is made after the baseline is read, so that it counts in the peak of the loop.
    """
    probe.release_unused()
    before = probe.in_use_bytes()
    probe.begin_phase()
    cache = make_cache()
    observer = MemoryObserver(probe, cache)
    call(cache, observer)
    peaks = [peak for peak in (observer.tokens_peak, observer.decode_peak) if peak is not None]
    memory = Memory(
        weights_bytes=sum(weight_bytes(module) for module in _with_copies(sampler)),
        cache_planned_bytes=schedule.peak_cache_bytes,
        cache_live_bytes=max(step.live_bytes for step in observer.cache_steps),
        cache_allocated_bytes=max(step.allocated_bytes for step in observer.cache_steps),
        tokens_peak_bytes=_above(observer.tokens_peak, before),
        decode_peak_bytes=_above(observer.decode_peak, before),
        source=probe.source,
        peak_bytes=max(peaks, default=None),
        reserved_bytes=probe.reserved_bytes(),
        device_used_bytes=probe.device_used_bytes(),
        machine_used_bytes=probe.machine_used_bytes(),
        counts=counts_of(probe.source) | {"cache_live_bytes": _what_is_live(schedule, observer.cache_steps, probe)},
        absent=absent_of(probe.source),
        allocator_settings=allocator_settings(),
        allocation_retries=probe.allocation_retries(),
    )
    return memory, tuple(observer.cache_steps)


def _with_copies(sampler: Sampler) -> list[nn.Module]:
    """Modules of a sampler, with the copy of its decoder in another dtype."""
    half = sampler.half_decoder
    return [*sampler.modules().values(), *([half.modules()["tokenizer"]] if half else [])]


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of parameters and buffers as they lie in memory; a shared tensor counts once."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.numel()]
    # A packed weight has no address; parameters() names a shared one once.
    by_place = {id(tensor) if tensor.is_mkldnn else tensor.data_ptr(): tensor for tensor in tensors}
    return sum(stored_bytes(tensor) for tensor in by_place.values())


def _what_is_live(schedule: Schedule, steps: Sequence[CacheStep], probe: MemoryProbe) -> str:
    """Say what the live bytes of this call count, with the step of the peak."""
    peak = max(steps, key=lambda step: (step.live_bytes, -step.step))
    rows = max(step.rows for step in schedule)
    where = f"here after step {peak.step} of {len(steps)}, {rows} forward rows of {schedule.images} images"
    return f"{counts_of(probe.source)['cache_live_bytes'].removesuffix('.')}; {where}."


def _above(peak: int | None, before: int | None) -> int | None:
    return None if peak is None or before is None else max(0, peak - before)
