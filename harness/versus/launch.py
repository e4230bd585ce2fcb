"""One fresh process of a comparison: `python -m arvbench.harness.versus.launch --result PATH`.

Sides  parity    one call of each side in float32 from one random stream, without times: are the ids equal?
       official  the official sampler, timed
       ours      our sampler, timed

The job is one line of JSON on stdin (machine/processes.py). Both timed sides do the work of a case of `arvbench run`:
warm-up until steady, then the calls, each from labels to uint8 images with all that belongs to it.

Units  _ns nanoseconds, _bytes bytes
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from arvbench.files import write_whole
from arvbench.harness.jobs import MessagePath
from arvbench.harness.machine.processes import receive
from arvbench.results.schema import CaseConfig

SideName = Literal["parity", "official", "ours"]
Variant = Literal["as-is", "quiet"]
"""`quiet` takes the official code's own empty_cache and synchronize out of the timed calls."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VersusJob(_Message):
    """Work of one process."""

    side: SideName
    case: CaseConfig
    root: MessagePath
    variant: Variant = "as-is"
    seed: int = 0


class Parity(_Message):
    """Agreement of one call of both sides in float32."""

    tokens: int
    equal_reference: int
    """Tokens of our reference backend that equal the official ones."""
    equal_backend: int
    """Tokens of the timed backend that equal the official ones."""
    images_max_diff: float
    """Largest difference of decoded images (reference backend), nominally in [0, 1]."""
    official_cache_bytes: int
    """Most live bytes of the official cache; 0 without one."""
    our_cache_bytes: int


class Times(_Message):
    """Times and memory of one launch."""

    scopes_ns: dict[str, tuple[int, ...]]
    """`tokens`, `decode` and `images`, one value per call."""
    warmup_calls: int
    steady: bool
    weights_bytes: int
    peak_bytes: int | None
    """Above what was in use before the call."""
    decoder: str = ""
    """Our decoder, or why it is the tokenizer's own; "" for the official side, and where there is no choice."""


class LaunchResult(_Message):
    """Findings of one process; either `failure` or the part of its side."""

    failure: str = ""
    status: Literal["ok", "unsupported", "error"] = "ok"
    parity: Parity | None = None
    times: Times | None = None
    shims: tuple[str, ...] = ()
    versions: dict[str, str] = {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read a job, run it, and write its result."""
    parser = argparse.ArgumentParser(prog="arvbench.harness.versus.launch", description=__doc__)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args(arguments)
    job = VersusJob.model_validate_json(receive())
    if not job.case.device.startswith("cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # official code takes a GPU wherever it sees one
    sys.dont_write_bytecode = True  # the checkout is the user's
    write_whole(options.result, run_launch(job).model_dump_json())
    return 0


def run_launch(job: VersusJob) -> LaunchResult:
    """Run a job in this process; every failure becomes its result."""
    from arvbench.errors import HostError
    from arvbench.harness.machine.failures import one_line
    from arvbench.harness.machine.limits import set_threads

    try:
        set_threads(job.case.threads)
        return _parity(job) if job.side == "parity" else _timed(job)
    except HostError as error:
        return LaunchResult(failure=one_line(str(error)), status="unsupported")
    except Exception as error:
        return LaunchResult(failure=one_line(f"{type(error).__name__}: {error}"), status="error")


def _parity(job: VersusJob) -> LaunchResult:
    import torch

    from arvbench.adapters.call import Samples, SilentObserver
    from arvbench.adapters.sampling import UpstreamNoise
    from arvbench.harness.measure.correctness import spread_labels

    case = job.case.model_copy(update={"dtype": "float32"})
    official, sampler, settings = _official(job, case)
    labels = spread_labels(case.batch, sampler.spec.num_classes)

    def ours(backend: str) -> tuple[Samples, int]:
        chosen, _ = _sampler(case, backend)
        cache = chosen.make_cache(case.cache, settings, batch=case.batch)
        noise = UpstreamNoise(job.seed, sampler.device)
        samples = chosen.sample(labels, settings, noise=noise, cache=cache, observer=SilentObserver())
        return samples, max(step.cache_bytes for step in chosen.schedule(settings, batch=case.batch, cache=case.cache))

    with official.recording():
        theirs = official.sample(labels, settings, seed=job.seed, observer=SilentObserver())
    reference, _ = ours("reference")
    backend, cache_bytes = ours(case.backend)

    def equal(samples: Samples) -> int:
        pairs = zip(theirs.tokens, samples.tokens, strict=True)
        return sum(int((one == other).sum()) for one, other in pairs if one.shape == other.shape)

    parity = Parity(
        tokens=sum(ids.numel() for ids in theirs.tokens),
        equal_reference=equal(reference),
        equal_backend=equal(backend),
        images_max_diff=float((theirs.decoded.clamp(0, 1) - reference.decoded.clamp(0, 1)).abs().max()),
        official_cache_bytes=official.cache_bytes,
        our_cache_bytes=cache_bytes,
    )
    return LaunchResult(parity=parity, shims=tuple(official.shims), versions={"torch": torch.__version__})


def _timed(job: VersusJob) -> LaunchResult:
    from arvbench.harness.machine.memory import probe_for
    from arvbench.harness.measure.clocks import clock_for
    from arvbench.harness.measure.memory import weight_bytes
    from arvbench.harness.measure.timing import time_once, warm_up

    case = job.case
    shims: Sequence[str] = ()
    decoder = ""
    if job.side == "official":
        official, sampler, settings = _official(job, case)
        modules, shims = [official.transformer, official.tokenizer], official.shims
        call = _official_call(official, case, settings, job)
    else:
        sampler, settings = _sampler(case, case.backend)
        modules = list(sampler.modules().values())
        decoder = _decoder(sampler, settings, case)
        modules += [sampler.half_decoder.modules()["tokenizer"]] if sampler.half_decoder else []
        call = _our_call(sampler, case, settings, job)
    clock = clock_for(sampler.device)
    warmup = warm_up(call, clock, most=case.max_warmup, progress=lambda _: None)
    calls = [time_once(call, clock) for _ in range(case.repeats)]
    probe = probe_for(sampler.device)
    probe.release_unused()
    before = probe.in_use_bytes()
    probe.begin_phase()
    call(_silent())
    peak = probe.peak_bytes()
    times = Times(
        scopes_ns={scope: tuple(one[scope] for one in calls) for scope in ("tokens", "decode", "images")},
        warmup_calls=len(warmup.samples_ns),
        steady=warmup.steady,
        weights_bytes=sum(weight_bytes(module) for module in modules),
        peak_bytes=None if peak is None or before is None else max(0, peak - before),
        decoder=decoder,
    )
    return LaunchResult(times=times, shims=tuple(shims))


def _decoder(sampler: Any, settings: Any, case: CaseConfig) -> str:
    """Decode in bfloat16 where the check of images allows it, as a case of `arvbench run` does; return what is used."""
    from arvbench.harness.measure.decoding import choose_decoder
    from arvbench.kernels.backends import backend_named

    if not backend_named(sampler.backend).half_decode_on(sampler.device.type):
        return ""
    return choose_decoder(sampler, settings, batch=case.batch).used


def _silent() -> Any:
    from arvbench.adapters.call import SilentObserver

    return SilentObserver()


def _sampler(case: CaseConfig, backend: str) -> tuple[Any, Any]:
    from arvbench.harness.quality.images.live import load_case_sampler

    return load_case_sampler(case.model_copy(update={"backend": backend}))


def _official(job: VersusJob, case: CaseConfig) -> tuple[Any, Any, Any]:
    """Return the official model, our reference sampler whose weights it has, and the settings."""
    import torch

    from arvbench.harness.versus.official import OFFICIALS

    # Autocast wraps fp32 weights; a cast transformer gets them rounded.
    sampler, settings = _sampler(case.model_copy(update={"dtype": "float32"}), "reference")
    official = OFFICIALS[sampler.spec.family](sampler, job.root, getattr(torch, case.dtype))
    official.check(settings)
    return official, sampler, settings


def _official_call(official: Any, case: CaseConfig, settings: Any, job: VersusJob) -> Callable[[Any], Any]:
    from arvbench.harness.measure.correctness import spread_labels

    labels, seed = spread_labels(case.batch, official.sampler.spec.num_classes), job.seed

    def call(observer: Any) -> Any:
        nonlocal seed
        seed += 1
        with _variant(job.variant):
            return official.sample(labels, settings, seed=seed, observer=observer)

    return call


def _our_call(sampler: Any, case: CaseConfig, settings: Any, job: VersusJob) -> Callable[[Any], Any]:
    from arvbench.adapters.sampling import UpstreamNoise
    from arvbench.harness.measure.correctness import spread_labels

    labels, seed = spread_labels(case.batch, sampler.spec.num_classes), job.seed
    cache = sampler.make_cache(case.cache, settings, batch=case.batch)

    def call(observer: Any) -> Any:
        nonlocal seed
        seed += 1
        noise = UpstreamNoise(seed, sampler.device)
        return sampler.sample(labels, settings, noise=noise, cache=cache, observer=observer)

    return call


@contextlib.contextmanager
def _variant(variant: Variant) -> Iterator[None]:
    """Let the official code's own empty_cache and synchronize do nothing in the block, where asked for."""
    import torch

    if variant == "as-is":
        yield
        return
    kept = torch.cuda.empty_cache, torch.cuda.synchronize
    torch.cuda.empty_cache, torch.cuda.synchronize = lambda: None, lambda *_: None
    try:
        yield
    finally:
        torch.cuda.empty_cache, torch.cuda.synchronize = kept


if __name__ == "__main__":
    sys.exit(main())
