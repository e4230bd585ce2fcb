"""Measure one case, in an order that makes its numbers defensible.

speed    load -> correctness -> memory and KV cache (CPU) -> control -> warm-up -> timing -> environment -> control ->
         memory and KV cache (GPU) -> energy (where asked for) -> drift (lossy cases) -> ceilings of the machine
quality  load -> quality -> sample sheet

A case that fails the correctness check ends there. The environment is read right after the timed calls, so that clocks,
power and throttle reasons of the GPU are those under load. The control probe, where asked for, times fixed work around
the calls. One process measures both parts, or one each: the second part needs nothing of the first one's process.

Memory comes first on a CPU: a resident set keeps what earlier calls of this batch left in the heap, which makes peaks
drift by a third, and the first call of a batch, a tenth slower than the others, is then none of the warm-up. On a GPU
it comes after the timed calls, which have recorded and compiled what there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from arvbench.adapters.decoding import HALF_DECODE, decode_in_half
from arvbench.adapters.exactness import lossy_parts
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.schedule import Schedule, Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.work import total_work
from arvbench.errors import HostError, UserError
from arvbench.harness.jobs import Event, EventListener, Job, Part, Result, memory_snapshot
from arvbench.harness.machine.attention import AttentionRecorder
from arvbench.harness.machine.environment import read_environment
from arvbench.harness.machine.failures import is_out_of_memory
from arvbench.harness.machine.limits import without_memory_limit
from arvbench.harness.machine.load import LoadMeter
from arvbench.harness.machine.memory import probe_for
from arvbench.harness.machine.nvml import GpuProbe, probe_gpu
from arvbench.harness.machine.source import source_sha256
from arvbench.harness.measure.allocations import trace_tensors
from arvbench.harness.measure.calls import CaseCalls
from arvbench.harness.measure.ceilings import measure_ceilings
from arvbench.harness.measure.clocks import clock_for
from arvbench.harness.measure.control import ControlProbe
from arvbench.harness.measure.correctness import check_correctness
from arvbench.harness.measure.decoding import choose_decoder
from arvbench.harness.measure.drift import DriftRequest, measure_drift
from arvbench.harness.measure.energy_calls import energy_of_case
from arvbench.harness.measure.memory import measure_memory, weight_bytes
from arvbench.harness.measure.perceptual import load_lpips
from arvbench.harness.measure.sample_sheet import draw_sample_sheet, images_to_show
from arvbench.harness.measure.start import StartClock
from arvbench.harness.measure.timing import judge_warm_up, measure_times, warm_up
from arvbench.harness.quality.images.live import load_case_sampler
from arvbench.harness.suites.recipes import recipe_deviations, recipe_for
from arvbench.kernels.backends import backend_named
from arvbench.results.schema import (
    CaseConfig,
    CaseWork,
    Correctness,
    Energy,
    Finding,
    Incorrect,
    Measured,
    Quality,
    Setup,
    StepPlan,
)


def measure_case(
    job: Job, listener: EventListener, probe: GpuProbe | None = None, *, import_ns: int | None = None
) -> Result:
    """Measure one case, or its part that `job` names, with this process's threads and devices. Every error is raised.

    `probe` reads the GPU in place of the device's own probe. `import_ns` is the time that the imports took.
    """
    listener(Event(phase="load"))
    start = StartClock(job.case, import_ns=import_ns)
    sampler, settings = _loaded(job.case, start)
    start.loaded()
    sampler.check_settings(sampler.spec, settings)
    if job.part is Part.QUALITY:
        result = _speed_of(job, sampler)
        if job.shard is not None:
            _features(job, sampler, settings, listener)
            return result
    else:
        probe = probe or probe_gpu(sampler.device)
        result = _measure_speed(job, sampler, settings, listener, probe, start)
    if job.part is Part.SPEED or not isinstance(result.outcome, Measured):
        return result
    shown = images_to_show(job.case, sampler.spec.num_classes)
    quality, findings = _quality(job, sampler, settings, listener, shown)
    sheet = draw_sample_sheet(job, sampler, settings, listener, shown) if job.case.sample_sheet else None
    more = {"quality": quality, "findings": findings, "sample_sheet": sheet}
    return result.model_copy(update={"outcome": result.outcome.model_copy(update=more)})


def _loaded(case: CaseConfig, start: StartClock) -> tuple[Sampler, SamplingSettings]:
    """Return the case's sampler and settings. Raises MemoryError when the weights do not fit."""
    try:
        return load_case_sampler(case, start.weights_read)
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(f"the weights of {case.model} do not fit") from error
        raise


def _speed_of(job: Job, sampler: Sampler) -> Result:
    """Return the result of the first part. Raises UserError when the source or the weights are others by now."""
    assert job.speed is not None and job.speed.environment is not None
    assert isinstance(job.speed.outcome, Measured)
    # Images of the quality part are those of the timed calls.
    if job.speed.outcome.setup.kernels.get("decode") == HALF_DECODE:
        decode_in_half(sampler)
    now = source_sha256(), dict(sampler.weights.sha256)
    if now != (job.speed.environment.source_sha256, job.speed.outcome.setup.weights_sha256):
        raise UserError(
            "the source or the weights changed after the speed of this case was measured: run the same command again"
        )
    return job.speed


def _measure_speed(
    job: Job,
    sampler: Sampler,
    settings: SamplingSettings,
    listener: EventListener,
    probe: GpuProbe | None,
    start: StartClock,
) -> Result:
    case = job.case
    listener(Event(phase="correctness"))
    watch = start.first_call(attention := AttentionRecorder())
    correctness = check_correctness(sampler, settings, cache_policy=case.cache, batch=case.batch, watch=watch)
    schedule = sampler.schedule(settings, batch=case.batch, cache=case.cache)
    setup = _setup(case, sampler, settings, schedule, attention.description)
    if not correctness.passed:
        incorrect = Incorrect(setup=setup, correctness=correctness)
        return Result(outcome=incorrect, environment=read_environment(sampler.device, probe))

    setup, correctness = _decoder(case, sampler, settings, setup, correctness)
    calls = CaseCalls(job, sampler, settings)
    early = sampler.device.type == "cpu" and not case.trace_memory  # a trace leaves memory behind
    memory = _memory(job, sampler, schedule, calls, listener) if early else {}
    control = ControlProbe(sampler.device, asked=job.control).begin()
    timed, clock, load = partial(calls, calls.make_cache()), clock_for(sampler.device), LoadMeter()
    progress = _counter(listener, "warm-up", case.max_warmup, load)
    warmup = warm_up(timed, clock, most=case.max_warmup, progress=progress)
    progress = _counter(listener, "timing", case.repeats, load)
    timings = measure_times(timed, clock, schedule, repeats=case.repeats, progress=progress)
    calls.check(schedule)
    host_load, environment = load.read(), read_environment(sampler.device, probe)
    control_times = control.end()
    calls.hand_over()
    del timed  # and its cache: the memory pass makes one of its own
    memory = memory or _memory(job, sampler, schedule, calls, listener)
    _tell_of_quality(case, sampler, listener)
    outcome = Measured(
        setup=_with_calls(setup, sampler),
        correctness=correctness,
        **_drift(job, sampler, settings, listener),
        work=_work(case, sampler, settings),
        warmup=judge_warm_up(warmup, timings),
        host_load=host_load,
        start=start.times(),
        control=control_times,
        ceilings=measure_ceilings(sampler.device, (sampler.dtype, torch.float32)),
        timings=timings,
        **memory,
        energy=_energy(case, sampler, calls, listener),
    )
    return Result(outcome=outcome, environment=environment)


def _memory(
    job: Job, sampler: Sampler, schedule: Schedule, calls: CaseCalls, listener: EventListener
) -> dict[str, Any]:
    """Return `memory`, the peaks of a call with the tensors of another one where asked for, and `cache`, by step."""
    listener(Event(phase="memory"))
    probe = probe_for(sampler.device)
    memory, steps = measure_memory(sampler, schedule, make_cache=calls.make_cache, call=calls, probe=probe)
    if not job.case.trace_memory:
        return {"memory": memory, "cache": steps}
    file = memory_snapshot(job.folder, job.record_id)
    with without_memory_limit():  # the profiler alone takes 100 MB
        traced = trace_tensors(sampler.device, calls.make_cache, calls, snapshot=file)
    return {"memory": memory.model_copy(update={"tensors": traced}), "cache": steps}


def _tell_of_quality(case: CaseConfig, sampler: Sampler, listener: EventListener) -> None:
    if case.quality is not None and sampler.weights.random:
        listener(Event(phase="quality", note="random weights have no quality: none is reported"))


def _energy(case: CaseConfig, sampler: Sampler, calls: CaseCalls, listener: EventListener) -> Energy | None:
    """Return the energy of repeated calls; None for a case that does not ask for it."""
    if case.energy is None:
        return None
    listener(Event(phase="energy"))
    energy = energy_of_case(case.energy, sampler, calls, batch=case.batch)
    if energy.source is None:
        listener(Event(phase="energy", note=f"energy is absent: {energy.reason}"))
    return energy


def _drift(job: Job, sampler: Sampler, settings: SamplingSettings, listener: EventListener) -> dict[str, Any]:
    """Return the `drift` of a lossy case, or as `drift_note` the reason why it has none; neither for an exact one."""
    case = job.case
    parts = lossy_parts(sampler.spec, cache=case.cache, dtype=case.dtype)
    if not parts:
        return {}
    if case.drift_images < 2:
        return {"drift_note": f"drift_images is {case.drift_images}: none was asked for"}
    listener(Event(phase="drift"))
    lpips, note = None, ""
    try:
        lpips = load_lpips(job.extractor_files, sampler.image_shape(settings), sampler.device)
    except (UserError, HostError) as error:
        note = f"LPIPS is absent: {error}"
    try:
        judge = None
        if all(part.startswith("dtype") for part in parts):
            judge, _ = load_case_sampler(case.model_copy(update={"dtype": "float32"}))
        request = DriftRequest(cache_policy=case.cache, batch=case.batch, images=case.drift_images)
        drift = measure_drift(sampler, settings, request, judge=judge, lpips=lpips)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {"drift_note": "out of memory: the exact model and this one do not fit together"}
    return {"drift": drift.model_copy(update={"lpips_note": note})}


def _quality(
    job: Job,
    sampler: Sampler,
    settings: SamplingSettings,
    listener: EventListener,
    shown: dict[int, torch.Tensor | None],
) -> tuple[tuple[Quality, ...], tuple[Finding, ...]]:
    """Return the numbers, and findings about the images behind them; none for random weights."""
    if job.case.quality is None or sampler.weights.random:
        return (), ()
    # Only a case that asks for quality pays for its libraries.
    from arvbench.harness.measure.case_quality import measure_case_quality

    evaluation = measure_case_quality(job, sampler, settings, listener, shown)
    return evaluation.numbers, evaluation.findings


def _features(job: Job, sampler: Sampler, settings: SamplingSettings, listener: EventListener) -> None:
    from arvbench.harness.measure.case_quality import measure_case_features

    measure_case_features(job, sampler, settings, listener)


def _counter(listener: EventListener, phase: str, total: int, load: LoadMeter) -> Callable[[int], None]:
    """Return a function to call after each of `total` calls: it reports progress and probes the processor."""

    def done(count: int) -> None:
        load.probe()
        listener(Event(phase=phase, done=count, total=total))

    return done


def _setup(case: CaseConfig, sampler: Sampler, settings: SamplingSettings, schedule: Schedule, attention: str) -> Setup:
    """Describe the model, its settings and its plan. `attention` names the attention kernels that ran."""
    spec = sampler.spec
    height, width = sampler.image_shape(settings)
    used, official = settings.model_dump(mode="json"), spec.settings.model_dump(mode="json")
    parameters = {part: sum(p.numel() for p in module.parameters()) for part, module in sampler.modules().items()}
    return Setup(
        model=spec.name,
        family=spec.family,
        image_px=height,
        image_width_px=None if width == height else width,
        transformer_parameters=sum(count for part, count in parameters.items() if part != "tokenizer"),
        tokenizer_parameters=parameters["tokenizer"],
        weights_source=sampler.weights.source,
        weights_random=sampler.weights.random,
        weights_sha256=dict(sampler.weights.sha256),
        settings=used,
        settings_source=spec.settings_source,
        settings_deviations={key: value for key, value in used.items() if value != official[key]},
        recipe=case.recipe,
        recipe_deviations=recipe_deviations(case, used),
        recipe_notes=recipe_for(case.model, case.recipe).notes if case.recipe else (),
        cache_policy=sampler.make_cache(case.cache, settings, batch=1).policy,
        lossy=lossy_parts(spec, cache=case.cache, dtype=case.dtype),
        kernels=dict(sampler.kernels) | sampler.products(schedule),
        attention=attention,
        threads=torch.get_num_threads(),
        plan=tuple(_step_plan(step) for step in schedule),
        decode_flops=schedule.decode_flops,
        decode_bytes=schedule.decode_bytes,
        decode_dtype=schedule.decode_dtype,
    )


def _work(case: CaseConfig, sampler: Sampler, settings: SamplingSettings) -> CaseWork | None:
    """Return the work of one call; None for a family that does not state it."""
    steps = sampler.work(sampler.cache_policy(case.cache, settings), settings, batch=case.batch)
    return CaseWork(**asdict(total_work(steps))) if steps else None


def _with_calls(setup: Setup, sampler: Sampler) -> Setup:
    """Add what the timed calls told: kernels that could not take them, and how they were recorded and replayed."""
    graphs = {"graphs": sampler.graphs.describe()} if sampler.graphs else {}
    return setup.model_copy(update={"kernels": setup.kernels | dict(sampler.kernels) | graphs})


def _decoder(
    case: CaseConfig, sampler: Sampler, settings: SamplingSettings, setup: Setup, correctness: Correctness
) -> tuple[Setup, Correctness]:
    """Choose the decoder of a checked sampler; return its description with that, and the check with its images."""
    if not backend_named(sampler.backend).half_decode_on(sampler.device.type):
        return setup, correctness
    choice = choose_decoder(sampler, settings, batch=case.batch)
    update: dict[str, Any] = {"kernels": setup.kernels | {"decode": choice.used}}
    if sampler.half_decoder is not None:
        differences = [d for d in (correctness.image_diff, choice.image_diff) if d is not None]
        correctness = correctness.model_copy(update={"image_diff": max(differences)})
        images = case.batch * 3 * math.prod(sampler.image_shape(settings))
        weights = weight_bytes(sampler.half_decoder.modules()["tokenizer"])
        update |= {"decode_dtype": "bfloat16", "decode_bytes": weights + images * torch.float32.itemsize}
    return setup.model_copy(update=update), correctness


def _step_plan(step: Step) -> StepPlan:
    fields = {key: value for key, value in asdict(step).items() if key in StepPlan.model_fields}
    return StepPlan(name=step.name, **fields)
