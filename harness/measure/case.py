"""Measuring one case, in an order that a number can be defended with.

load -> correctness -> warm-up -> timing -> environment -> memory and KV cache -> quality -> sample sheet. A case that
fails the correctness check ends there. The environment is read right after the timed calls: clocks, power and what
holds the GPU back are then those of the times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.sampler import Observer, Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.schedule import Schedule, Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.jobs import Event, EventListener, Job, Result
from arvbench.harness.machine.attention import AttentionRecorder
from arvbench.harness.machine.environment import read_environment
from arvbench.harness.machine.memory import probe_for
from arvbench.harness.machine.nvml import GpuProbe, probe_gpu
from arvbench.harness.measure.clocks import Clock, clock_for
from arvbench.harness.measure.correctness import check_correctness, spread_labels
from arvbench.harness.measure.memory import measure_memory
from arvbench.harness.measure.sample_sheet import draw_sample_sheet
from arvbench.harness.measure.timing import SamplingCall, measure_times, warm_up
from arvbench.harness.quality.images.live import load_case_sampler
from arvbench.harness.suites.recipes import recipe_deviations, recipe_for
from arvbench.results.schema import (
    CaseConfig,
    Correctness,
    Finding,
    Incorrect,
    Measured,
    Quality,
    Setup,
    StepPlan,
    Timing,
    WarmUp,
)

TIMING_SEED = 0
"""Run seed of the noise in timed calls: every repetition draws the same images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A case whose model is loaded and whose schedule is known."""

    job: Job
    sampler: Sampler
    settings: SamplingSettings
    schedule: Schedule
    probe: GpuProbe | None
    listener: EventListener


def measure_case(job: Job, listener: EventListener, probe: GpuProbe | None = None) -> Result:
    """Measure one case on this process's threads and devices. Every error is raised.

    `probe` reads the GPU in place of the device's own probe.
    """
    case = job.case
    listener(Event(phase="load"))
    sampler, settings = load_case_sampler(case)
    sampler.check_settings(sampler.spec, settings)
    listener(Event(phase="correctness"))
    attention = AttentionRecorder()
    correctness = check_correctness(sampler, settings, cache_policy=case.cache, batch=case.batch, watch=attention)
    loaded = _Loaded(
        job=job,
        sampler=sampler,
        settings=settings,
        schedule=sampler.schedule(settings, batch=case.batch, cache=case.cache),
        probe=probe or probe_gpu(sampler.device),
        listener=listener,
    )
    setup = _describe(loaded, attention.description)
    if not correctness.passed:
        outcome = Incorrect(setup=setup, correctness=correctness)
        return Result(outcome=outcome, environment=read_environment(sampler.device, loaded.probe))
    return _measure(loaded, setup, correctness)


def _measure(loaded: _Loaded, setup: Setup, correctness: Correctness) -> Result:
    job, sampler, settings, listener = loaded.job, loaded.sampler, loaded.settings, loaded.listener
    case = job.case
    labels = spread_labels(case.batch, sampler.spec.num_classes)

    def make_cache() -> Cache:
        return sampler.make_cache(case.cache, settings, batch=case.batch)

    def call(cache: Cache, observer: Observer) -> None:
        """Labels in, uint8 images out: making the noise is part of it."""
        noise = PerImageNoise(TIMING_SEED, range(case.batch))
        sampler.sample(labels, settings, noise=noise, cache=cache, observer=observer)

    # The cache of the timed calls is gone after this line: the memory pass makes one of its own.
    warmup, times = _times(case, partial(call, make_cache()), clock_for(sampler.device), loaded.schedule, listener)
    environment = read_environment(sampler.device, loaded.probe)
    listener(Event(phase="memory"))
    memory, cache_steps = measure_memory(
        sampler, loaded.schedule, make_cache=make_cache, call=call, probe=probe_for(sampler.device)
    )
    quality, findings = _quality(job, sampler, settings, listener)
    outcome = Measured(
        setup=setup,
        correctness=correctness,
        warmup=warmup,
        timings=times,
        memory=memory,
        cache=cache_steps,
        quality=quality,
        findings=findings,
        sample_sheet=draw_sample_sheet(job, sampler, settings, listener) if case.sample_sheet else None,
    )
    return Result(outcome=outcome, environment=environment)


def _times(
    case: CaseConfig, call: SamplingCall, clock: Clock, schedule: Schedule, listener: EventListener
) -> tuple[WarmUp, tuple[Timing, ...]]:
    warming, timing = _counter(listener, "warm-up", case.max_warmup), _counter(listener, "timing", case.repeats)
    warmup = warm_up(call, clock, most=case.max_warmup, progress=warming)
    return warmup, measure_times(call, clock, schedule, repeats=case.repeats, progress=timing)


def _quality(
    job: Job, sampler: Sampler, settings: SamplingSettings, listener: EventListener
) -> tuple[tuple[Quality, ...], tuple[Finding, ...]]:
    """Numbers, and what a reader must know about the images behind them."""
    if job.case.quality is None:
        return (), ()
    if sampler.weights.random:
        listener(Event(phase="quality", note="random weights have no quality: none is reported"))
        return (), ()
    # Only a case that asks for quality pays for its libraries.
    from arvbench.harness.measure.case_quality import measure_case_quality

    evaluation = measure_case_quality(job, sampler, settings, listener)
    return evaluation.numbers, evaluation.findings


def _counter(listener: EventListener, phase: str, total: int) -> Callable[[int], None]:
    return lambda done: listener(Event(phase=phase, done=done, total=total))


def _describe(loaded: _Loaded, attention: str) -> Setup:
    sampler, settings, schedule = loaded.sampler, loaded.settings, loaded.schedule
    spec, chosen = sampler.spec, settings.model_dump(mode="json")
    height, width = sampler.image_shape(settings)
    official = spec.settings.model_dump(mode="json")
    case = loaded.job.case
    return Setup(
        model=spec.name,
        family=spec.family,
        image_px=height,
        image_width_px=None if width == height else width,
        transformer_parameters=_parameters(sampler, "transformer"),
        tokenizer_parameters=_parameters(sampler, "tokenizer"),
        weights_source=sampler.weights.source,
        weights_random=sampler.weights.random,
        weights_sha256=dict(sampler.weights.sha256),
        settings=chosen,
        settings_source=spec.settings_source,
        settings_deviations={key: value for key, value in chosen.items() if value != official[key]},
        recipe=case.recipe,
        recipe_deviations=recipe_deviations(case, chosen),
        recipe_notes=recipe_for(case.model, case.recipe).notes if case.recipe else (),
        cache_policy=sampler.make_cache(case.cache, settings, batch=1).policy,
        kernels=dict(sampler.kernels),
        attention=attention,
        threads=torch.get_num_threads(),
        plan=tuple(_plan(step) for step in schedule),
        decode_flops=schedule.decode_flops,
    )


def _parameters(sampler: Sampler, part: str) -> int:
    return sum(parameter.numel() for parameter in sampler.modules()[part].parameters())


def _plan(step: Step) -> StepPlan:
    fields: dict[str, Any] = {key: value for key, value in asdict(step).items() if key in StepPlan.model_fields}
    return StepPlan(name=step.name, **fields)
