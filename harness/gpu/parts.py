"""Parts that run in a child process: `python -m arvbench.harness.gpu.parts`, the job as JSON on stdin.

Every row is appended to a file the moment it is known, so that a child which is stopped, or dies on an illegal address,
costs the rows after it and no others.

Units    _s seconds, _ms milliseconds
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from arvbench.harness.gpu.plan import PartName
from arvbench.harness.gpu.rows import Row
from arvbench.harness.jobs import MessagePath
from arvbench.harness.machine.processes import receive

if TYPE_CHECKING:
    import torch

    from arvbench.kernels.contract import KernelSpec

_DRY_WORKLOADS = 2
"""Workloads of a kernel in a rehearsal: the interpreter takes a millisecond per program."""
_DTYPES = ("float32", "bfloat16", "float16")


class PartJob(BaseModel):
    """Order to a child."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: PartName
    dry: bool
    rows: MessagePath
    """File to append rows to."""
    fixtures: MessagePath
    """Folder of fixtures."""
    process: int = 1
    """Number of this process among those of its part."""

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"


def main() -> int:
    """Run one part."""
    job = PartJob.model_validate_json(receive())
    if job.dry:
        from arvbench.kernels.dispatch import interpret_kernels

        interpret_kernels("optimized")
    with Path(job.rows).open("a", encoding="utf-8") as file:
        for row in _WORK[job.part](job):
            file.write(row.model_dump_json() + "\n")
            file.flush()
    return 0


def attempt(part: str, name: str, work: Callable[[], dict[str, float]]) -> Row:
    """Return the row of one piece of work; every exception is a status."""
    from arvbench.errors import HostError
    from arvbench.harness.machine.failures import one_line

    try:
        return Row(part=part, name=name, status="ok", values=work())
    except HostError as error:
        return Row(part=part, name=name, status="unsupported", note=one_line(str(error)))
    except Exception as error:
        return Row(part=part, name=name, status="failed", note=one_line(f"{type(error).__name__}: {error}"))


def _ceilings(job: PartJob) -> Iterator[Row]:
    """Measure products of matrices by dtype, and a copy: what this machine can do now."""
    import torch

    side, elements = (256, 2**20) if job.dry else (8192, 2**29)
    for name in _DTYPES:

        def product(name: str = name) -> dict[str, float]:
            a = torch.randn(side, side, device=job.device, dtype=getattr(torch, name))
            return {"TFLOP/s": 2 * side**3 / best_s(lambda: a @ a, job.device) / 1e12}

        yield attempt(job.part, f"matmul {side} {name}", product)

    def copy() -> dict[str, float]:
        source = torch.empty(elements, device=job.device)
        target = torch.empty_like(source)
        return {"GB/s": 2 * 4 * elements / best_s(lambda: target.copy_(source), job.device) / 1e9}

    yield attempt(job.part, f"copy {4 * elements >> 20} MiB", copy)


def best_s(work: Callable[[], Any], device: str, *, calls: int = 10, before: Callable[[], Any] | None = None) -> float:
    """Return the median time of `calls` calls after three unmeasured ones; `before` runs unmeasured ahead of each."""
    import torch

    from arvbench.harness.measure.clocks import clock_for

    clock = clock_for(torch.device(device))
    times = []
    for number in range(3 + calls):
        if before is not None:
            before()
        clock.settle()
        begin = clock.mark()
        work()
        end = clock.mark()
        clock.settle()
        if number >= 3:
            times.append(clock.between_ns(begin, end) / 1e9)
    return median(times)


def _specs(job: PartJob, *, official: bool = False) -> Iterator[tuple[str, KernelSpec, str, torch.dtype]]:
    """Yield operation, spec, workload and dtype; `official` leaves out edge cases, which are small."""
    import torch

    from arvbench.kernels import KERNELS

    for operation, spec in KERNELS.items():
        loads = [name for name, load in spec.workloads.items() if not official or not load.interpret]
        if job.dry:
            loads = [name for name, load in spec.workloads.items() if load.interpret][:_DRY_WORKLOADS]
        for load in loads:
            for dtype in [torch.float32] if job.dry else spec.tolerance:
                yield operation, spec, load, dtype


def _contract(job: PartJob) -> Iterator[Row]:
    """Compare every kernel with its judge on every workload and dtype."""
    from arvbench.errors import ContractError
    from arvbench.kernels.contract import max_abs_err

    for operation, spec, load, dtype in _specs(job):

        def compare(spec: KernelSpec = spec, load: str = load, dtype: torch.dtype = dtype) -> dict[str, float]:
            found = max_abs_err(spec, load, dtype=dtype, device=job.device)
            if not found.ok:
                raise ContractError(f"max |err| {found.max_abs_err:.2e} is beyond {spec.tolerance[dtype]}")
            return {"max |err|": found.max_abs_err}

        yield attempt(job.part, f"{operation} {load} {str(dtype).removeprefix('torch.')}", compare)


def _fixtures(job: PartJob) -> Iterator[Row]:
    """Replay recordings of the official code with both backends."""
    from arvbench.errors import ContractError
    from arvbench.harness.verify import verify

    paths: Sequence[Path] = sorted(Path(job.fixtures).glob("*_tiny_a.json" if job.dry else "*.json"))
    if not paths:
        yield Row(part=job.part, name="fixtures", status="unsupported", note=f"no fixtures in {job.fixtures}")
    # The rehearsal has one fixture: Triton's interpreter takes minutes for some.
    for path in paths[-1:] if job.dry else paths:
        for backend in ("reference", "optimized"):
            kernels: Any = "interpreter" if job.dry and backend == "optimized" else "backend"

            def replay(path: Path = path, backend: str = backend, kernels: Any = kernels) -> dict[str, float]:
                checks = verify(path, backend=backend, device=job.device, kernels=kernels)
                if wrong := [check.check for check in checks if check.passed is False]:
                    raise ContractError(f"{len(wrong)} of {len(checks)} outputs differ: {', '.join(wrong[:5])}")
                used = [c.max_abs_diff / c.tolerance for c in checks if c.tolerance and c.max_abs_diff is not None]
                return {"outputs": len(checks), "most of a tolerance used": max(used, default=0.0)}

            yield attempt(job.part, f"{path.stem} {backend}", replay)


def _dtypes(job: PartJob) -> Iterator[Row]:
    """Compare the optimized backend with the reference in every dtype, on the trained demo models."""
    from arvbench.adapters.loading import demo_models
    from arvbench.errors import ContractError
    from arvbench.harness.measure.correctness import check_correctness
    from arvbench.harness.quality.images.live import load_case_sampler
    from arvbench.results.schema import CaseConfig

    for model in demo_models()[:1] if job.dry else demo_models():
        for dtype in _DTYPES[:1] if job.dry else _DTYPES:

            def check(model: str = model, dtype: Any = dtype) -> dict[str, float]:
                case = CaseConfig(model=model, weights="demo", device=job.device, dtype=dtype, batch=4)
                sampler, settings = load_case_sampler(case)
                found = check_correctness(sampler, settings, cache_policy=None, batch=4)
                if not found.passed:
                    raise ContractError(f"differs from the reference: {found}")
                return {} if found.equal_tokens is None else {"equal tokens": found.equal_tokens}

            yield attempt(job.part, f"{model} {dtype}", check)


def _kernels(job: PartJob) -> Iterator[Row]:
    """Time every implementation in turns, with a warm and a cold L2 cache; torch.compile, which takes long, last."""
    import torch

    scratch = torch.empty(2**20 if job.dry else 2 * _l2_bytes() // 4, device=job.device)
    for compiled in (False, True):
        for operation, spec, load, dtype in _specs(job, official=True):
            names = ["triton", "compiled"] if compiled else list(spec.implementations)
            name = (
                f"{operation} {load} {str(dtype).removeprefix('torch.')}{' beside torch.compile' if compiled else ''}"
            )
            work = partial(_in_turns, job, spec, load, dtype, names=names, flush=scratch.zero_)
            yield attempt(job.part, f"{name} (process {job.process})", work)


def _in_turns(
    job: PartJob, spec: KernelSpec, load: str, dtype: torch.dtype, *, names: Sequence[str], flush: Callable[[], Any]
) -> dict[str, float]:
    """Time the implementations `names` in turns; Triton's beside the best of the others."""
    from arvbench.errors import HostError
    from arvbench.kernels.contract import verified_call

    if job.dry:
        raise HostError("the interpreter has no speed")
    calls = {n: verified_call(spec, load, dtype=dtype, device=job.device, implementation=n) for n in names}
    found: dict[str, list[float]] = {}
    for order in (names, names[::-1]):
        for name in order:
            warm = best_s(calls[name], job.device)
            cold = best_s(calls[name], job.device, before=flush)
            found.setdefault(f"{name} warm ms", []).append(warm * 1e3)
            found.setdefault(f"{name} cold ms", []).append(cold * 1e3)
    times = {name: median(values) for name, values in found.items()}
    for heat in ("warm", "cold"):
        peers = [times[f"{name} {heat} ms"] for name in names if name != "triton"]
        times[f"best peer / triton {heat}"] = min(peers) / times[f"triton {heat} ms"]
    return times


def _l2_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).L2_cache_size)


_WORK: dict[str, Callable[[PartJob], Iterator[Row]]] = {
    "ceilings before": _ceilings,
    "contract": _contract,
    "fixtures": _fixtures,
    "dtypes": _dtypes,
    "kernels": _kernels,
    "ceilings after": _ceilings,
}

if __name__ == "__main__":
    sys.exit(main())
