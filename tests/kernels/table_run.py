"""Compare every Triton kernel of the table with its judge in this process, one JSON line per workload and dtype.

    python table_run.py interpreter|cuda

Run as a process of its own: Triton decides when a kernel is imported whether it is interpreted, and an illegal access
on a GPU ends the process it happens in.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

GUARD = 64  # elements before and after an allocation


@contextmanager
def poisoned_memory() -> Iterator[list[Tensor]]:
    """Make torch.empty and its relatives hand out NaN between guards of NaN; yield the whole allocations.

    A kernel that skips an element then fails every time; a kernel that writes outside its result changes a guard.
    """
    allocations: list[tuple[Tensor, Tensor]] = []
    real_empty = torch.empty

    def empty(*size: object, **options: object) -> Tensor:
        meta = real_empty(*size, **{**options, "device": "meta"})
        if not meta.is_floating_point():
            return real_empty(*size, **options)
        memory = real_empty(meta.numel() + 2 * GUARD, dtype=meta.dtype, device=options.get("device"))
        memory.fill_(torch.nan)
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
    from arvbench.kernels.contract import max_abs_err

    device = "cuda" if mode == "cuda" else "cpu"
    for name, spec in KERNELS.items():
        for workload in spec.workloads:
            if mode == "interpreter" and not spec.workloads[workload].interpret:
                continue
            for dtype in spec.tolerance:
                result: dict[str, object] = {"kernel": name, "workload": workload, "dtype": str(dtype)}
                try:
                    with poisoned_memory() as allocations:
                        ok, err = max_abs_err(spec, workload, dtype=dtype, device=device)
                    kept = all(bool(guard.isnan().all()) for guards in allocations for guard in guards)
                    result |= {"ok": ok, "err": err, "allocations": len(allocations), "guards_kept": kept}
                except Exception:
                    result["error"] = traceback.format_exc()
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "interpreter":
        os.environ["TRITON_INTERPRET"] = "1"
    main(sys.argv[1])
