"""Repeated work while energy is measured: whole sampling calls, or the forward pass of one step.

A step lasts milliseconds, less than the counter needs. So one call runs up to the step, and there the transformer
makes the same pass again and again; before each, the cache takes back what it counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.schedule import Step
from arvbench.harness.machine.energy import EnergyMeter, NoEnergy, meter_for
from arvbench.harness.measure.calls import CaseCalls
from arvbench.harness.measure.clocks import clock_for
from arvbench.harness.measure.energy import Clock, measure_energy
from arvbench.results.energy import Energy
from arvbench.results.schema import EnergyRequest

PASSES = ("logits", "masked_logits", "forward")
"""Methods of a transformer that make a forward pass."""


class _StepWatch(SilentObserver):
    """Knows the step that runs."""

    reads_logits = False
    now = -1

    def step_begin(self, step: Step) -> None:
        self.now = step.index


def energy_of_case(
    request: EnergyRequest,
    sampler: Sampler,
    calls: CaseCalls,
    *,
    batch: int,
    open_meter: Callable[[], EnergyMeter] | None = None,
    clock: Clock | None = None,
) -> Energy:
    """Return the energy of whole calls, or of the step that the request names.

    `open_meter` and `clock` replace those of the machine. An Energy without windows has the reason.
    """
    opened, settle = open_meter or (lambda: meter_for(sampler.device)), clock_for(sampler.device).settle

    def measure(work: Callable[[], object]) -> Energy:
        def once() -> int:
            work()
            settle()
            return batch

        return measure_energy(opened, request, once, clock)

    if request.step is None:
        cache = calls.make_cache()
        return measure(lambda: calls(cache, SilentObserver()))
    try:
        return _energy_of_step(request.step, sampler, calls, measure)
    except NoEnergy as error:
        return Energy(source=None, reason=str(error), step=request.step)


def _energy_of_step(
    step: int, sampler: Sampler, calls: CaseCalls, measure: Callable[[Callable[[], object]], Energy]
) -> Energy:
    """Make one call, and `measure` within it the first forward pass of a step. Raises NoEnergy where none repeats."""
    cache, watch, found = calls.make_cache(), _StepWatch(), list[Energy]()
    if not cache.in_place:
        raise NoEnergy(f"a step cannot be repeated with the cache {cache.policy}: it is not written in place")

    def repeated(forward: Callable[[], Any]) -> Any:
        if watch.now != step or found:
            return forward()
        before = cache.progress()

        def again() -> object:
            cache.resume(before)
            return forward()

        found.append(Energy(source=None))  # a pass may call another: the outermost is repeated
        found[0] = measure(again)
        return again()

    with _around_passes(sampler, repeated):
        calls(cache, watch)
    if not found:
        raise NoEnergy(f"a call has no forward pass in step {step}: it has {watch.now + 1} steps")
    return found[0]


@contextmanager
def _around_passes(sampler: Sampler, around: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
    """Have `around` make every forward pass of the transformer. Recorded calls make none, so none is replayed."""
    transformer, graphs = sampler.modules()["transformer"], sampler.graphs
    own = {name: getattr(transformer, name) for name in PASSES if hasattr(transformer, name)}
    sampler.graphs = None
    try:
        for name, method in own.items():
            setattr(transformer, name, _wrapped(method, around))
        yield
    finally:
        for name in own:
            delattr(transformer, name)
        sampler.graphs = graphs


def _wrapped(method: Callable[..., Any], around: Callable[[Callable[[], Any]], Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: around(lambda: method(*arguments, **options))
