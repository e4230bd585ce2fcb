"""Roofline: the least time that a piece of work can take on a machine, and which ceiling sets it.

Floor        the longer of FLOPs over the rate of matrix products and bytes over the rate of a copy, and on top the
             launches, each as long as a tiny kernel that waits for the one before it (where that is known)
Units        _ns nanoseconds; intensity FLOPs per byte

Floors of pieces that run one after another add up. A floor counts what every implementation must do: matrix products,
and the traffic of weights, cache and logits once. Activations that stay in caches, sampling and normalisation are free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from arvbench.results.ceilings import Ceilings
from arvbench.results.gpus import StatedGpu
from arvbench.results.schema import Measured, Record, Setup, StepPlan

_NS_PER_S = 1e9
Bound = Literal["compute", "memory", "launches"]


class Piece(NamedTuple):
    """Work of a step or of the decode. A large report has ten thousand, with a floor for each."""

    flops: int
    bytes_moved: int | None
    """None where only the FLOPs are known."""
    dtype: str
    """Data type of its matrix products."""
    fp32_flops: int = 0
    """Of `flops`, those that run in float32 whatever `dtype` is."""
    launches: int = 0
    """Kernels that wait for each other, at least; 0 where they are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Ceilings of one machine."""

    name: str
    flops_per_s: Mapping[str, float]
    """Data type -> rate of matrix products."""
    copies: tuple[tuple[float, float], ...]
    """(bytes, bytes per second) of copies, small to large."""
    launch_ns: float | None = None

    def bytes_per_s(self, size: int) -> float:
        """Return the rate of the smallest copy that moves `size` bytes or more, else that of the largest."""
        for copied, rate in self.copies:
            if copied >= size:
                return rate
        return self.copies[-1][1]


class Floor(NamedTuple):
    """Least time of some work by cause; each cause is that of the pieces it binds."""

    ns: float
    compute_ns: float
    """FLOPs over their ceilings."""
    memory_ns: float
    """Bytes over their ceiling."""
    launch_ns: float
    """Launches, on top of the longer of both."""

    @property
    def bound(self) -> Bound:
        """The cause that takes most of it."""
        times: dict[Bound, float] = {
            "compute": self.compute_ns,
            "memory": self.memory_ns,
            "launches": self.launch_ns,
        }
        return max(times, key=times.__getitem__)


def has_floor(piece: Piece, machine: Machine) -> bool:
    """Return whether the machine has ceilings for the data types of a piece."""
    rates, mixed = machine.flops_per_s, piece.fp32_flops and piece.dtype != "float32"
    return piece.dtype in rates and not (mixed and "float32" not in rates)


def floor_of(piece: Piece, machine: Machine) -> Floor | None:
    """Return the floor of one piece; None where the machine has no ceiling for its data type."""
    if not has_floor(piece, machine):
        return None
    fp32_flops = 0 if piece.dtype == "float32" else piece.fp32_flops
    compute = (piece.flops - fp32_flops) * _NS_PER_S / machine.flops_per_s[piece.dtype]
    if fp32_flops:
        compute += fp32_flops * _NS_PER_S / machine.flops_per_s["float32"]
    moved = piece.bytes_moved or 0
    memory = moved * _NS_PER_S / machine.bytes_per_s(moved)
    launches = piece.launches * (machine.launch_ns or 0.0)
    return Floor(max(compute, memory) + launches, compute, memory, launches)


def total(floors: Iterable[Floor | None]) -> Floor | None:
    """Add up the floors of pieces that run one after another; None when one is not known, or there is none.

    Of a piece that is bound by compute, memory counts nothing, and the other way round.
    """
    count, ns, compute_ns, memory_ns, launch_ns = 0, 0.0, 0.0, 0.0, 0.0
    for floor in floors:
        if floor is None:
            return None
        count += 1
        ns += floor.ns
        launch_ns += floor.launch_ns
        if floor.compute_ns >= floor.memory_ns:
            compute_ns += floor.compute_ns
        else:
            memory_ns += floor.memory_ns
    return Floor(ns, compute_ns, memory_ns, launch_ns) if count else None


def step_piece(plan: StepPlan, dtype: str) -> Piece:
    """Return the work of a planned step of a case with data type `dtype`."""
    return Piece(plan.flops, plan.bytes_moved, dtype, plan.fp32_flops, plan.launches)


def decode_piece(setup: Setup, dtype: str) -> Piece:
    """Return the work of the decode of a case with data type `dtype`."""
    return Piece(flops=setup.decode_flops, bytes_moved=setup.decode_bytes, dtype=setup.decode_dtype or dtype)


def measured_machine(name: str, ceilings: Ceilings) -> Machine:
    """Return the machine that the ceilings were measured on."""
    return Machine(
        name=name,
        flops_per_s={dtype: series.per_second for dtype, series in ceilings.matmul.items()},
        copies=tuple((float(series.work), series.per_second) for series in ceilings.copies),
        launch_ns=ceilings.launch_ns,
    )


def stated_machine(gpu: StatedGpu) -> Machine:
    """Return the machine that the maker's document describes; launches are in none."""
    return Machine(
        name=gpu.name,
        flops_per_s={
            "float32": gpu.float32_tflop_s * 1e12,
            "bfloat16": gpu.bfloat16_tflop_s * 1e12,
            "float16": gpu.float16_tflop_s * 1e12,
        },
        copies=((0.0, gpu.bandwidth_gb_s * 1e9),),
    )


class ScopeWork(NamedTuple):
    """Pieces of a measured scope, with their floor."""

    scope: str
    pieces: tuple[Piece, ...]
    floor: Floor
    compute_ns: float
    """FLOPs of all pieces over their ceilings, whatever binds each piece."""

    @property
    def flops(self) -> int:
        return sum([piece.flops for piece in self.pieces])

    @property
    def bytes_moved(self) -> int:
        return sum([piece.bytes_moved or 0 for piece in self.pieces])

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte; None where a piece's bytes are not known."""
        moved = self.bytes_moved
        known = moved > 0 and None not in [piece.bytes_moved for piece in self.pieces]
        return self.flops / moved if known else None


def machine_of(record: Record, outcome: Measured) -> Machine | None:
    """Return the machine of a record by its own ceilings; None for a record without."""
    gpu = record.environment.gpu
    name = record.environment.cpu if gpu is None else gpu.name
    return None if outcome.ceilings is None else measured_machine(name, outcome.ceilings)


def timed_pieces(record: Record, outcome: Measured) -> dict[str, Piece]:
    """Return the work of every step and of the decode by scope."""
    dtype = record.case.dtype
    pieces = {f"step[{plan.index}]": step_piece(plan, dtype) for plan in outcome.setup.plan}
    return pieces | {"decode": decode_piece(outcome.setup, dtype)}


def scope_works(record: Record, outcome: Measured, *, steps: bool = True) -> dict[str, ScopeWork]:
    """Return floors by scope: every step, unless without `steps`, then tokens, decode and images.

    Empty for a record without ceilings.
    """
    machine, setup = machine_of(record, outcome), outcome.setup
    if machine is None:
        return {}
    pieces = [step_piece(plan, record.case.dtype) for plan in setup.plan]
    floors = [floor_of(piece, machine) for piece in pieces]
    decode = decode_piece(setup, record.case.dtype)
    decode_floor = floor_of(decode, machine)
    scopes: dict[str, tuple[Sequence[Piece], Sequence[Floor | None]]] = {}
    if steps:
        scopes |= {
            f"step[{plan.index}]": ([piece], [floor])
            for plan, piece, floor in zip(setup.plan, pieces, floors, strict=True)
        }
    scopes |= {
        "tokens": (pieces, floors),
        "decode": ([decode], [decode_floor]),
        "images": ([*pieces, decode], [*floors, decode_floor]),
    }
    works: dict[str, ScopeWork] = {}
    for scope, (own, own_floors) in scopes.items():
        if (floor := total(own_floors)) is not None:
            compute = sum([known.compute_ns for known in own_floors if known is not None])
            works[scope] = ScopeWork(scope, tuple(own), floor, compute)
    return works
