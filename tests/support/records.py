"""Records for tests, made up in the shape of a real run of a VAR-like model with ten scales."""

from __future__ import annotations

import hashlib
import io
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from drifts import drift
from PIL import Image

from arvbench.results.capacity import Capacity, Probe
from arvbench.results.ceilings import Ceilings, Series
from arvbench.results.energy import Energy, EnergyWindow
from arvbench.results.schema import (
    CacheStep,
    CaseConfig,
    Correctness,
    Environment,
    Failed,
    Finding,
    Gpu,
    Incorrect,
    Measured,
    Memory,
    Quality,
    Record,
    SampleSheet,
    Setup,
    Status,
    StepPlan,
    Timing,
    WarmUp,
)

SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
LAYERS, WIDTH = 16, 1024
START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

GPU = Gpu(
    name="NVIDIA H200",
    memory_bytes=150_754_820_096,
    compute_capability="9.0",
    driver="575.57.08",
    sm_clock_mhz=1980,
    memory_clock_mhz=3201,
    temperature_c=41,
    power_w=412.5,
    throttle_reasons=(),
)


def environment(*, gpu: Gpu | None = None, **changes: Any) -> Environment:
    fields: dict[str, Any] = {
        "arvbench_version": "0.1.0",
        "source_sha256": "5f" * 32,
        "git_commit": "c0ffee" * 6 + "c0ff",
        "git_dirty": False,
        "python": "3.11.9",
        "libraries": {"torch": "2.14.1", "triton": "3.8.0", "torch-fidelity": "0.4.0", "numpy": "2.4.6"},
        "os": "Linux 6.8.0 x86_64",
        "cpu": "AMD EPYC 9554",
        "cores": 64,
        "memory_bytes": 256 * 2**30,
        "gpu": gpu,
        "cuda": "13.0" if gpu else None,
        "tf32": False,
    }
    return Environment(**(fields | changes))


def plan(batch: int) -> tuple[StepPlan, ...]:
    steps, context = [], 0
    for index, side in enumerate(SIDES):
        context += side * side
        steps.append(
            StepPlan(
                index=index,
                name=f"scale {side}x{side}",
                kind="scale",
                new_tokens=side * side,
                context_tokens=context,
                cached_tokens=context,
                rows=2 * batch,
                flops=2 * batch * side * side * 400_000_000,
                bytes_moved=600_000_000,
                cache_bytes=2 * LAYERS * WIDTH * 4 * 2 * batch * context,
            )
        )
    return tuple(steps)


def timings(rng: np.random.Generator, batch: int, speed: float, clock: str) -> tuple[Timing, ...]:
    def samples(base_ms: float) -> tuple[int, ...]:
        return tuple(int(1e6 * base_ms * factor) for factor in 1 + 0.03 * rng.random(7))

    steps_ms = [speed * (4 + 0.02 * batch * side * side) for side in SIDES]
    decode_ms = speed * 9 * batch
    rows = 2 * batch * len(SIDES)
    made = [
        Timing(scope=f"step[{i}]", samples_ns=samples(ms), images=batch, forward_rows=2 * batch, clock=clock)
        for i, ms in enumerate(steps_ms)
    ]
    for scope, ms, n in (
        ("tokens", sum(steps_ms), rows),
        ("decode", decode_ms, 0),
        ("images", sum(steps_ms) + decode_ms, rows),
    ):
        made.append(Timing(scope=scope, samples_ns=samples(ms), images=batch, forward_rows=n, clock=clock))
    return tuple(made)


def quality_numbers(rng: np.random.Generator, protocol: str = "a1") -> tuple[Quality, ...]:
    return tuple(
        Quality(
            metric=metric,
            value=(made := value * (1 + 0.2 * float(rng.random()))),
            spread=spread,
            interval=(0.98 * made, 1.03 * made) if metric == "fid" else None,
            protocol=f"digits-cnn: {metric} (digits-cnn, 64) against digits, torch-fidelity 0.4.0",
            protocol_id=hashlib.sha256(f"{protocol}/{metric}".encode()).hexdigest()[:12],
            n_samples=1000,
            note="small samples bias FID upwards" if metric == "fid" else "",
        )
        for metric, value, spread in (
            ("fid", 3.1, None),
            ("isc", 8.4, 0.12),
            ("kid", 0.0021, 0.0004),
            ("precision", 0.78, None),
            ("recall", 0.61, None),
            ("label-accuracy", 0.82, None),
        )
    )


ENERGY = Energy(
    source="nvml",
    counts="the board",
    rule="repeat until 10 s have passed",
    windows=tuple(
        EnergyWindow(kind=kind, duration_ns=10**10, images=images, counter_j=joules, power_j=1.02 * joules)
        for kind, images, joules in (("idle", 0, 500.0), ("work", 20, 2000.0))
    ),
)
FINDINGS = (
    Finding(code="few-samples", severity="note", text="1,000 samples: FID is biased upwards by about 0.4"),
    Finding(
        code="label-histogram",
        severity="warning",
        text="classes have 28 to 77 samples each, the official ones 50: IS and FID are of another mix of classes",
    ),
)


def adm_numbers(case: CaseConfig) -> tuple[Quality, ...]:
    """All metrics of adm-v1, for 50,000 images."""
    numbers = {
        "fid": (3.55, (3.49, 3.62), None), "sfid": (8.41, (8.30, 8.55), None), "is": (274.4, (270.1, 278.9), 4.2),
        "is-shuffled": (275.0, (271.0, 279.2), 4.0), "precision": (0.843, (0.840, 0.846), None),
        "recall": (0.512, (0.508, 0.516), None), "precision-fp32": (0.841, (0.838, 0.844), None),
        "recall-fp32": (0.510, (0.506, 0.514), None), "fid-infinity": (3.31, (3.2, 3.42), None),
    }  # fmt: skip
    return tuple(
        Quality(
            metric=metric,
            value=value,
            spread=spread,
            interval=interval,
            protocol=f"adm-v1: {metric} (adm-inception, pool) against VIRTUAL_imagenet256_labeled.npz, arvbench",
            protocol_id=hashlib.sha256(f"adm/{metric}/{case.quality}".encode()).hexdigest()[:12],
            n_samples=50_000,
            detail={"parameters": {"k": 3, "arithmetic": "fp16-blocks"}} if metric == "precision" else {},
        )
        for metric, (value, interval, spread) in numbers.items()
    )


def setup(model: str, case: CaseConfig, **changes: Any) -> Setup:
    random = case.weights.startswith("random:")
    official = {"cfg": 1.5, "top_k": 900, "top_p": 0.96, "more_smooth": False, "uint8_rule": "truncate"}
    fields: dict[str, Any] = {
        "model": model,
        "family": "var",
        "image_px": 256,
        "transformer_parameters": 310_283_520,
        "tokenizer_parameters": 108_952_675,
        "weights_source": case.weights,
        "weights_random": random,
        "weights_sha256": {} if random else {"transformer.safetensors": "ab" * 32, "tokenizer.safetensors": "cd" * 32},
        "settings": official | case.settings,
        "settings_source": "VAR README, demo_sample.ipynb",
        "settings_deviations": case.settings,
        "recipe": case.recipe,
        "recipe_deviations": {
            f"settings.{key}": {"used": value, "official": official.get(key, "not stated")}
            for key, value in case.settings.items()
            if case.recipe
        },
        "recipe_notes": (
            "seeds: officially “not stated”; here each image has its own noise, made from quality.seed",
            "not stated, so taken: uint8_rule (the model's own)",
        )
        if case.recipe
        else (),
        "cache_policy": case.cache or "static",
        "kernels": {"adaln": "triton", "gated_residual": "torch"},
        "attention": "flash",
        "threads": 2,
        "plan": plan(case.batch),
        "decode_flops": case.batch * 10**11,
        "decode_bytes": 200_000_000,
        "decode_dtype": case.dtype,
    }
    return Setup(**(fields | changes))


def correctness(*, passed: bool = True) -> Correctness:
    return Correctness(
        judge="reference backend",
        images=4,
        max_abs_diff=3.1e-6 if passed else 0.37,
        tolerance=1e-4,
        equal_tokens=1.0 if passed else 0.412,
        required_equal_tokens=0.99,
        passed=passed,
    )


def capacity(*, per_image: int = 2_000_000, limit: int = 300_000_000, **changes: Any) -> Capacity:
    """Make a search whose held bytes lie on a line from 200 MB, and whose throughput levels off at 8 images."""

    def probe(batch: int) -> Probe:
        held = 200_000_000 + per_image * batch
        if held > limit:
            return Probe(batch=batch, status="oom", reason="out of memory on cpu: made up")
        call_ns = 10_000_000 * (8 + batch)
        return Probe(
            batch=batch, status="ok", held_bytes=held, cache_live_bytes=1000 * batch, samples_ns=(call_ns,) * 3
        )

    most = (limit - 200_000_000) // per_image
    fields: dict[str, Any] = {
        "limit_bytes": limit,
        "ended": "found",
        "probes": tuple(probe(batch) for batch in (1, 2, 4, 8, 16, 32, 64, 48, most, most + 1)),
    }
    return Capacity(**(fields | changes))


def ceilings(dtype: str, *, gpu: bool) -> Ceilings:
    """Make ceilings: 60 GFLOP/s, 50 and 10 GB/s; on a GPU 600 TFLOP/s, 6 and 4 TB/s, kernels of 1 us."""
    products = {dtype: 600_000 if gpu else 60} | {"float32": 50_000 if gpu else 60}
    copies = [(2**24, 6000), (2**31, 4000)] if gpu else [(2**23, 50), (2**26, 10)]
    return Ceilings(
        method="made up",
        copies=tuple(Series(work=size, samples_ns=(size // rate, size // rate + 5)) for size, rate in copies),
        matmul={name: Series(work=rate * 10**6, samples_ns=(1_000_000,)) for name, rate in products.items()},
        kernels=Series(work=256, samples_ns=(256_000,)) if gpu else None,
    )


def measured(model: str, case: CaseConfig, *, seed: int, speed: float, gpu: Gpu | None, **changes: Any) -> Measured:
    rng = np.random.default_rng(seed)
    steps = plan(case.batch)
    peak = steps[-1].cache_bytes
    static = (case.cache or "static") == "static"
    fields: dict[str, Any] = {
        "setup": setup(model, case),
        "correctness": correctness(),
        "ceilings": ceilings(case.dtype, gpu=gpu is not None),
        "warmup": WarmUp(samples_ns=(900_000_000, 310_000_000, 305_000_000), steady=True),
        "timings": timings(rng, case.batch, speed, "cuda-event" if gpu else "wall"),
        "memory": Memory(
            weights_bytes=1_676_944_780,
            cache_planned_bytes=peak,
            cache_live_bytes=peak,
            cache_allocated_bytes=peak,
            tokens_peak_bytes=peak + 210_000_000 * case.batch,
            decode_peak_bytes=peak + 330_000_000 * case.batch,
            source="cuda-allocator" if gpu else "process-rss",
            peak_bytes=1_676_944_780 + peak + 330_000_000 * case.batch,
            reserved_bytes=3 * 2**30 if gpu else None,
            device_used_bytes=5 * 2**30 if gpu else None,
        ),
        "cache": tuple(
            CacheStep(
                step=step.index,
                planned_bytes=step.cache_bytes,
                live_bytes=step.cache_bytes,
                allocated_bytes=peak if static else step.cache_bytes,
            )
            for step in steps
        ),
        "capacity": capacity(),
    }
    return Measured(**(fields | changes))


# `quality`, `sample_sheet`, `capacity` and `energy` are fields of a case and of its outcome: as options they are of
# the outcome.
# `cache` means the policy of the case, `cache_steps` the measured cache.
_CASE_FIELDS = CaseConfig.model_fields.keys() - {"quality", "sample_sheet", "capacity", "energy"}


def record(model: str = "var-d16", *, number: int = 0, gpu: Gpu | None = None, **options: Any) -> Record:
    """Make a record. `options`: case fields, `speed`, `outcome` (replaces the measured one) and fields of Measured."""
    case_fields = {k: options.pop(k) for k in list(options) if k in _CASE_FIELDS}
    case_fields = {"weights": "random:0", "device": "cuda" if gpu else "cpu"} | case_fields
    case = CaseConfig(model=model, **case_fields)
    names = {k: options.pop(k) for k in list(options) if k in Record.model_fields and k != "outcome"}
    outcome = options.pop("outcome", None)
    if "cache_steps" in options:
        options["cache"] = options.pop("cache_steps")
    if outcome is None:
        outcome = measured(model, case, seed=number, speed=options.pop("speed", 1.0), gpu=gpu, **options)
    fields: dict[str, Any] = {
        "record_id": f"{number:04d}-{hashlib.sha256(str(number).encode()).hexdigest()[:12]}",
        "suite": "imagenet256",
        "case_id": f"{model} {case.device} {case.backend} {case.cache or 'auto'} {case.dtype} b{case.batch}",
        "fingerprint": hashlib.sha256(f"fingerprint {number}".encode()).hexdigest(),
        "started": START + timedelta(minutes=number),
        "finished": START + timedelta(minutes=number, seconds=42),
        "case": case,
        "environment": environment(gpu=gpu),
        "outcome": outcome,
    }
    return Record(**(fields | names))


def failed(status: Status, reason: str, *, detail: str = "", **options: Any) -> Record:
    return record(outcome=Failed(status=status, reason=reason, detail=detail), **options)


def incorrect(model: str = "var-d16", **options: Any) -> Record:
    case = CaseConfig(model=model, weights="random:0")
    return record(model, outcome=Incorrect(setup=setup(model, case), correctness=correctness(passed=False)), **options)


def sheet_png(rows: int = 10, columns: int = 8, px: int = 32) -> bytes:
    """Draw a PNG of `rows` x `columns` discs, no two of them equal."""
    y, x = np.mgrid[0 : rows * px, 0 : columns * px]
    row, column = y // px, x // px
    distance = np.hypot(y % px - px / 2, x % px - px / 2)
    disc = np.abs(distance - 4 - row) < 2 + column / 3
    stream = io.BytesIO()
    Image.fromarray(np.where(disc, 235, 20 + 3 * row).astype(np.uint8)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def sample_sheet(folder: Path, *, path: str = "samples/var.png", **changes: Any) -> SampleSheet:
    """Write a picture below `folder` and describe it."""
    png = sheet_png()
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png)
    fields: dict[str, Any] = {
        "path": path,
        "sha256": hashlib.sha256(png).hexdigest(),
        "classes": tuple(range(10)),
        "columns": 8,
        "image_px": 32,
    }
    return SampleSheet(**(fields | changes))


def many_records(folder: Path) -> list[Record]:
    """Make a whole run: two models, batches, policies, a GPU, quality, a sample sheet, and every way to fail."""
    rng = np.random.default_rng(0)
    trained = {"weights": "demo", "quality": quality_numbers(rng), "sample_sheet": sample_sheet(folder),
               "findings": FINDINGS}  # fmt: skip
    by_recipe = {"gpu": GPU, "speed": 0.2, "dtype": "float16", "weights": "hub", "recipe": "official", "batch": 32,
                 "settings": {"cfg": 2.0}}  # fmt: skip
    grow = {"cache": "grow", "backend": "reference"}
    changed = {"cfg": 4.0, "top_k": 600}
    unsteady = WarmUp(samples_ns=(9, 5, 7), steady=False)
    return [
        record("demo/var", number=0, **trained),
        record("demo/var", number=1, **(trained | grow | {"quality": quality_numbers(rng), "speed": 1.6})),
        record(number=2, batch=1, **grow),
        record(number=3, batch=1, speed=0.8, settings=changed, energy=ENERGY),
        record(number=4, batch=16, speed=0.8, settings=changed, drift=drift()),
        record(number=5, batch=1, gpu=GPU, speed=0.1, dtype="bfloat16", warmup=unsteady),
        record("var-d30", number=6, gpu=GPU, speed=0.25, dtype="bfloat16"),
        record("var-d30", number=7, gpu=GPU, speed=0.3, dtype="bfloat16", batch=16, weights="hub",
               quality=quality_numbers(rng, "b2")),
        failed(Status.OOM, "out of memory: needs 9.1 GiB more than the limit of 8 GiB", number=8, batch=64),
        incorrect(number=9, dtype="bfloat16"),
        failed(Status.ERROR, "NaN in the weights of layer blocks.3.ffn.fc1", number=10, batch=2,
               detail="Traceback (most recent call last):\n  File \"worker.py\", line 88\nValueError: NaN"),
        failed(Status.UNSUPPORTED, "float16 is not supported on the CPU", number=11, dtype="float16"),
        record(number=12, quality=adm_numbers(CaseConfig(model="var-d16", weights="hub")), **by_recipe),
    ]  # fmt: skip


def sweep(count: int) -> list[Record]:
    """Make `count` cases of a sweep over models, batches, cache policies and two machines, about 11 kB each."""
    rng, adm = np.random.default_rng(0), adm_numbers(CaseConfig(model="var-d16", weights="hub"))
    settings = tuple(itertools.product(("demo/var", "var-d16", "var-d20", "var-d30"), ("grow", "static"), (None, GPU)))
    made = []
    for number in range(count):
        batch, (model, cache, gpu) = 1 + number // len(settings), settings[number % len(settings)]
        quality = quality_numbers(rng) + (adm if model != "demo/var" else ())
        options = {"weights": "hub", "speed": 0.2 if gpu else 1.0, "quality": quality, "findings": FINDINGS}
        made.append(record(model, number=number, batch=batch, cache=cache, gpu=gpu, **options))
    return made


def write_records(path: Path, records: list[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(r.model_dump_json() + "\n" for r in records), encoding="utf-8")
    return path
