"""Ceilings of a machine, measured on the spot: the rate of a copy and of matrix products by data type.

Units    _ns nanoseconds; bytes of a copy are those read and those written; a multiply-add is two FLOPs
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from arvbench.results.machine import Frozen

_NS_PER_S = 1e9


class Series(Frozen):
    """Runs of one piece of fixed work, in the order taken, warm-up not included."""

    work: int = Field(gt=0)
    """Bytes, FLOPs or kernels of one run."""
    samples_ns: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)

    @property
    def per_second(self) -> float:
        """Rate of the fastest run: the machine can do it, whatever its average is."""
        return self.work * _NS_PER_S / min(self.samples_ns)


class Ceilings(Frozen):
    """Rates that the machine reached right after the timed calls, with the threads and the TF32 switch of the case."""

    method: str
    """Sizes, device, threads and number of runs."""
    copies: tuple[Series, ...] = Field(min_length=1)
    """Copies of a buffer, small to large: caches are faster than memory."""
    matmul: dict[str, Series] = Field(min_length=1)
    """Data type -> product of two square matrices."""
    kernels: Series | None = None
    """Replays of a graph of tiny kernels that wait for each other; None on the CPU, and where nothing was recorded."""

    @property
    def launch_ns(self) -> float | None:
        """Least time of a kernel that waits for the one before it; None where it is not known."""
        return None if self.kernels is None else _NS_PER_S / self.kernels.per_second
