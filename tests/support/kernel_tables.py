"""Tables of docs/kernels.md: `python tests/support/kernel_tables.py contract` or `compile` prints one.

`compile` needs Triton and no GPU: of every operation it compiles the launches of one workload, in bfloat16, for three
generations of GPUs. A test holds the limits of all workloads and data types (tests/kernels/test_aot.py).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator

import torch

from arvbench.kernels import KERNELS
from arvbench.kernels.contract import KernelSpec

CAPABILITIES = (80, 90, 100)


def contract_rows() -> Iterator[tuple[str, ...]]:
    """Yield operation, what it computes, its workloads, tolerances, written operands and fallback."""
    yield "operation", "computes", "workloads (interpreted)", "tolerance: atol, rtol", "writes", "else"
    for name, spec in KERNELS.items():
        interpreted = sum(load.interpret for load in spec.workloads.values())
        tolerances = "; ".join(
            f"{str(dtype).removeprefix('torch.')} {tol.atol:.1g}, {tol.rtol:.1g}"
            for dtype, tol in spec.tolerance.items()
        )
        count = f"{len(spec.workloads)} ({interpreted})"
        yield f"`{name}`", _computes(spec), count, tolerances, ", ".join(spec.mutates) or "-", spec.fallback


def _computes(spec: KernelSpec) -> str:
    """Return the first sentence of the documentation of the reference."""
    module, _, attribute = spec.reference.partition(":")
    text = " ".join((getattr(importlib.import_module(module), attribute).__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".").replace("|", "\\|").removeprefix("Return ")


def compile_rows() -> Iterator[tuple[str, ...]]:
    """Yield a row per launch: registers per thread, spilled bytes, shared bytes per block, tensor-core instructions."""
    from arvbench.kernels.aot import compile_workload

    yield "operation", "workload", "kernel", *(f"sm_{capability}" for capability in CAPABILITIES)
    for name, spec in KERNELS.items():
        load = next(load for load, workload in spec.workloads.items() if workload.compile)
        by_capability = [
            compile_workload(spec, load, dtype=torch.bfloat16, capability=capability) for capability in CAPABILITIES
        ]
        for launches in zip(*by_capability, strict=True):
            cells = (
                f"{launch.registers}, {launch.stack_bytes + launch.local_bytes}, {launch.shared_bytes:,}, "
                f"{launch.tensor_core_instructions}"
                for launch in launches
            )
            yield f"`{name}`", load, f"`{launches[0].kernel}`", *cells


def markdown(rows: Iterable[tuple[str, ...]]) -> str:
    """Return rows as a Markdown table, the first as its heading."""
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    print(markdown({"contract": contract_rows, "compile": compile_rows}[sys.argv[1]]()))
