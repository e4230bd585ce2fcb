"""Ceilings of the machine, measured right after a case: copies, matrix products by data type, tiny kernels.

They take about 0.1 s on a CPU, more on a slow one: every series has two runs that are not counted and at least three
that are, and ends after BUDGET_NS. The process, its threads and its TF32 switch are those of the case.

Units    _ns nanoseconds, _bytes bytes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from arvbench.adapters.graphs import Capture, CudaCapture
from arvbench.harness.machine.failures import is_out_of_memory
from arvbench.harness.measure.clocks import Clock, clock_for
from arvbench.results.ceilings import Ceilings, Series

BUDGET_NS = 20_000_000
"""A series ends after this time, or after MOST_RUNS."""
LEAST_RUNS, MOST_RUNS = 3, 20
SHORT_NS = 200_000
"""A shorter product does not fill the machine: the next size is tried as well."""
CHAIN = 256
"""Kernels of one graph."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the fixed work; `Ceilings.method` names them all."""

    sides: tuple[int, ...]
    """A product is of two square matrices of one of these sides, small to large."""
    buffers_bytes: tuple[int, ...]
    """A copy reads a buffer and writes one of the same size."""


CPU = Sizes(sides=(256, 1024, 4096), buffers_bytes=(2**18, 2**22, 2**25))
CUDA = Sizes(sides=(2048, 8192), buffers_bytes=(2**23, 2**30))


def measure_ceilings(
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    *,
    sizes: Sizes | None = None,
    clock: Clock | None = None,
    capture: Callable[[], Capture] | None = None,
) -> Ceilings | None:
    """Return the ceilings for `dtypes`; None where their buffers find no room.

    `sizes`, `clock` and `capture` (recorder of the tiny kernels) replace the device's own.
    """
    sizes = sizes or (CPU if device.type == "cpu" else CUDA)
    if capture is None and device.type == "cuda":
        capture = partial(CudaCapture, device)
    try:
        return _Probe(device, sizes, clock or clock_for(device)).ceilings(dtypes, capture)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class _Probe:
    device: torch.device
    sizes: Sizes
    clock: Clock

    def ceilings(self, dtypes: Sequence[torch.dtype], capture: Callable[[], Capture] | None) -> Ceilings:
        return Ceilings(
            method=self._method(),
            copies=tuple(self._copy(size) for size in self.sizes.buffers_bytes),
            matmul={str(dtype).removeprefix("torch."): self._product(dtype) for dtype in dict.fromkeys(dtypes)},
            kernels=None if capture is None else self._chain(capture()),
        )

    def _method(self) -> str:
        threads = f", threads {torch.get_num_threads()}" if self.device.type == "cpu" else ""
        sides, buffers = (", ".join(map(str, sizes)) for sizes in (self.sizes.sides, self.sizes.buffers_bytes))
        return (
            f"{self.device.type}{threads}: products of matrices of side {sides} (the next one after runs below "
            f"{SHORT_NS // 1000} us), copies of buffers of {buffers} bytes; two runs not counted, then {LEAST_RUNS} to "
            f"{MOST_RUNS} within {BUDGET_NS // 1_000_000} ms; a ceiling is the fastest run"
        )

    def _copy(self, size_bytes: int) -> Series:
        source = torch.ones(size_bytes // 4, dtype=torch.float32, device=self.device)
        return self._series(2 * size_bytes, partial(torch.empty_like(source).copy_, source))

    def _product(self, dtype: torch.dtype) -> Series:
        """Time products of growing size, as long as they are short, and return the series of the highest rate."""
        tried: list[Series] = []
        for side in self.sizes.sides:
            left, right = self._matrix(side, dtype), self._matrix(side, dtype)
            tried.append(self._series(2 * side**3, partial(torch.mm, left, right, out=torch.empty_like(left))))
            if min(tried[-1].samples_ns) >= SHORT_NS:
                break
        return max(tried, key=lambda series: series.per_second)

    def _matrix(self, side: int, dtype: torch.dtype) -> Tensor:
        """Return values that differ from each other: a GPU multiplies equal ones with less power, thus faster."""
        values = torch.arange(side * side, device=self.device).remainder(251).sub(125).div(251)
        return values.to(dtype).view(side, side)

    def _chain(self, capture: Capture) -> Series | None:
        """Time a recorded chain of tiny kernels; None where it cannot be recorded."""
        value = torch.zeros(1, device=self.device)
        value.add_(1)
        try:
            with capture.aside():
                capture.begin()
                for _ in range(CHAIN):
                    value.add_(1)
                replay = capture.end()
        except RuntimeError:
            capture.abort()
            return None
        return self._series(CHAIN, replay)

    def _series(self, work: int, run: Callable[[], Any]) -> Series:
        for _ in range(2):
            run()
        self.clock.settle()
        pairs: list[tuple[Any, Any]] = []
        wall = self.clock.wall
        start = wall.mark()
        while len(pairs) < LEAST_RUNS or (len(pairs) < MOST_RUNS and wall.between_ns(start, wall.mark()) < BUDGET_NS):
            begin = self.clock.mark()
            run()
            pairs.append((begin, self.clock.mark()))
        self.clock.settle()
        return Series(work=work, samples_ns=tuple(max(1, self.clock.between_ns(a, b)) for a, b in pairs))
