"""Compare every Triton kernel of the table with its judge in this process, one JSON line per workload and dtype.

    python table_run.py interpreter|interpreter-rest|cuda

Run as a process of its own: Triton decides when a kernel is imported whether it is interpreted, and an illegal access
on a GPU ends the process it happens in.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import torch
from interpreter_modes import interpreter_mode
from torch import Tensor

if TYPE_CHECKING:
    from arvbench.kernels.contract import KernelSpec

GUARD = 64  # elements before and after an allocation


def poison(dtype: torch.dtype) -> float:
    return torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min


def untouched(guard: Tensor) -> bool:
    return bool((guard.isnan() if guard.is_floating_point() else guard == poison(guard.dtype)).all())


@contextmanager
def poisoned_memory() -> Iterator[list[Tensor]]:
    """Make torch.empty and its relatives hand out poison between guards of poison; yield the guards.

    Poison is NaN, of integers the smallest one.

    A kernel that skips an element then fails every time; a kernel that writes outside its result changes a guard.
    """
    allocations: list[tuple[Tensor, Tensor]] = []
    real_empty = torch.empty

    def empty(*size: object, **options: object) -> Tensor:
        meta = real_empty(*size, **{**options, "device": "meta"})
        if meta.dtype == torch.bool:
            return real_empty(*size, **options)
        memory = real_empty(meta.numel() + 2 * GUARD, dtype=meta.dtype, device=options.get("device"))
        memory.fill_(poison(meta.dtype))
        allocations.append((memory[:GUARD], memory[-GUARD:]))
        return memory[GUARD:-GUARD].view(meta.shape)

    def empty_like(like: Tensor, **options: object) -> Tensor:
        return empty(like.shape, **{"dtype": like.dtype, "device": like.device, **options})

    def new_empty(self: Tensor, *size: object, **options: object) -> Tensor:
        return empty(*size, **{"dtype": self.dtype, "device": self.device, **options})

    with (
        mock.patch.object(torch, "empty", empty),
        mock.patch.object(torch, "empty_like", empty_like),
        mock.patch.object(Tensor, "new_empty", new_empty),
    ):
        yield allocations


def main(mode: str) -> None:
    torch.set_num_threads(1)
    from arvbench.kernels import KERNELS
    from arvbench.kernels.dispatch import interpret_kernels

    if mode != "cuda":
        interpret_kernels("optimized")

    device = "cuda" if mode == "cuda" else "cpu"
    for spec in KERNELS.values():
        for workload in spec.workloads:
            for dtype in spec.tolerance:
                if mode != "cuda" and interpreter_mode(spec, workload, dtype) != mode:
                    continue
                for implementation in implementations(spec):
                    print(json.dumps(outcome(spec, workload, dtype, device, implementation)), flush=True)


def implementations(spec: KernelSpec) -> list[str]:
    return [name for name in spec.implementations if name != "torch"]


def outcome(spec: KernelSpec, workload: str, dtype: torch.dtype, device: str, implementation: str) -> dict[str, object]:
    from arvbench.kernels.contract import max_abs_err

    result: dict[str, object] = {"kernel": spec.name, "workload": workload, "dtype": str(dtype)}
    result["implementation"] = implementation
    try:
        reason = spec.unsupported(spec.inputs(workload, dtype=dtype, device=device))
        if reason and implementation == "triton":
            return result | {"unsupported": reason}
        with poisoned_memory() as allocations:
            ok, err = max_abs_err(spec, workload, dtype=dtype, device=device, implementation=implementation)
        kept = all(untouched(guard) for guards in allocations for guard in guards)
        return result | {"ok": ok, "err": err, "allocations": len(allocations), "guards_kept": kept}
    except Exception:
        return result | {"error": traceback.format_exc()}


if __name__ == "__main__":
    main(sys.argv[1])
