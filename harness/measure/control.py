"""Control probe: fixed work around the timed calls, which shows whether the machine or the code became slower.

No commit changes this work. It is a matrix product, a copy beyond the caches and a loop of the interpreter, together
about 0.1 s before and 0.1 s after the calls. What the times mean is decided where records are compared
(harness/check/control.py).

Units    _ns nanoseconds
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from arvbench.harness.machine.failures import is_out_of_memory
from arvbench.harness.machine.load import LOOP_TURNS, fixed_loop
from arvbench.harness.measure.clocks import Clock, clock_for
from arvbench.results.machine import Control, ControlTimes


@dataclass(frozen=True, slots=True)
class _Work:
    """Sizes of the fixed work; a change of them needs no version, since `ControlProbe.work` names them all."""

    side: int
    """The product is of two square matrices of this side."""
    dtype: torch.dtype
    copied_bytes: int
    runs: int
    """Samples of each kind."""


_CPU = _Work(side=512, dtype=torch.float32, copied_bytes=16 * 2**20, runs=9)
_CUDA = _Work(side=4096, dtype=torch.bfloat16, copied_bytes=256 * 2**20, runs=32)


class ControlProbe:
    """Times the fixed work on one device, with this process's threads. It draws no random numbers."""

    def __init__(self, device: torch.device, clock: Clock | None = None, *, asked: bool = True) -> None:
        """`clock` replaces the device's own. A probe that is not `asked` for does nothing."""
        self._asked, self._device, self._sizes = asked, device, _CPU if device.type == "cpu" else _CUDA
        self._clock = clock or clock_for(device)
        self._before: ControlTimes | None = None

    @property
    def work(self) -> str:
        sizes = self._sizes
        threads = f", threads {torch.get_num_threads()}" if self._device.type == "cpu" else ""
        return (
            f"{self._device.type}: {str(sizes.dtype).removeprefix('torch.')} product of side {sizes.side}, copy of "
            f"{sizes.copied_bytes} bytes, loop of {LOOP_TURNS} turns{threads}"
        )

    def begin(self) -> Self:
        """Time the work before the calls."""
        self._before = self._times()
        return self

    def end(self) -> Control | None:
        """Time the work after the calls; None when it was not asked for, or found no room for its buffers."""
        after = self._times()
        if self._before is None or after is None:
            return None
        return Control(work=self.work, before=self._before, after=after)

    def _times(self) -> ControlTimes | None:
        if not self._asked:
            return None
        try:
            return self._timed()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return None
            raise
        finally:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()  # the case shall find the memory as it left it

    def _timed(self) -> ControlTimes:
        sizes = self._sizes
        left, right = self._matrix(), self._matrix()
        product = torch.empty_like(left)
        source = torch.ones(sizes.copied_bytes // 4, dtype=torch.float32, device=self._device)
        return ControlTimes(
            gemm_ns=_series(partial(torch.mm, left, right, out=product), self._clock, sizes.runs),
            copy_ns=_series(partial(torch.empty_like(source).copy_, source), self._clock, sizes.runs),
            host_ns=_series(fixed_loop, self._clock.wall, sizes.runs),
        )

    def _matrix(self) -> Tensor:
        """Return values that differ from each other: a GPU multiplies equal ones with less power, thus faster."""
        side = self._sizes.side
        values = torch.arange(side * side, device=self._device).remainder(251).sub(125).div(251)
        return values.to(self._sizes.dtype).view(side, side)


def _series(work: Callable[[], Any], clock: Clock, runs: int) -> tuple[int, ...]:
    """Return the times of `runs` calls in a row, after one more that is not counted."""
    work()
    pairs = []
    for _ in range(runs):
        begin = clock.mark()
        work()
        pairs.append((begin, clock.mark()))
    clock.settle()
    return tuple(clock.between_ns(begin, end) for begin, end in pairs)
