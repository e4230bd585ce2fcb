"""Floors of all models (`arvbench models --floors`): the least time of a call on this machine, or on a stated GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from arvbench.adapters.schedule import Schedule
    from arvbench.results.roofline import Floor, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorRow:
    """Floors of one model with its official settings, one image."""

    name: str
    steps: int
    gflop: float
    """Of the whole call."""
    megabytes: float
    """Compulsory traffic of the whole call, 10^6 bytes."""
    tokens: Floor
    decode: Floor
    images: Floor


def print_floors(gpu: str | None) -> None:
    """Print the table: bfloat16 on the GPU `gpu` of the table, float32 on this machine's processor for None.

    Raises UserError for a GPU that is not in the table, which lists the known ones.
    """
    import torch

    from arvbench.results.gpus import gpu_named
    from arvbench.results.roofline import stated_machine

    if gpu is None:
        machine, dtype = processor(), torch.float32
        how = "measured just now"
    else:
        stated = gpu_named(gpu)
        machine, dtype, how = (
            stated_machine(stated),
            torch.bfloat16,
            f"{stated.source}; without launches",
        )
    name = str(dtype).removeprefix("torch.")
    _print(list(floor_rows(machine, dtype)), f"Least time of one image in {name}: {machine.name}", how)


def processor() -> Machine:
    """Return this machine's processor, its ceilings measured now. Raises HostError where they find no room."""
    import torch

    from arvbench.errors import HostError
    from arvbench.harness.machine.installed import cpu_identity
    from arvbench.harness.measure.ceilings import measure_ceilings
    from arvbench.results.roofline import measured_machine

    ceilings = measure_ceilings(torch.device("cpu"), (torch.float32,))
    if ceilings is None:
        raise HostError("there is no room for the buffers of which copies are timed (64 MiB)")
    return measured_machine(str(cpu_identity()["cpu"]), ceilings)


def floor_rows(machine: Machine, dtype: torch.dtype) -> Iterator[FloorRow]:
    """Yield the floors of every model that can be built; modules are on the meta device, without memory."""
    from arvbench.adapters.loading import known_specs
    from arvbench.harness.measure.forecast import pieces
    from arvbench.results.roofline import floor_of, total

    name = str(dtype).removeprefix("torch.")
    for model, _ in known_specs():
        schedule = planned(model, dtype)
        *steps, last = pieces(schedule, name)
        tokens, decode = total(floor_of(step, machine) for step in steps), floor_of(last, machine)
        images = total((tokens, decode))
        if tokens is None or decode is None or images is None:
            continue
        yield FloorRow(
            name=model,
            steps=len(steps),
            gflop=sum(piece.flops for piece in (*steps, last)) / 1e9,
            megabytes=sum(piece.bytes_moved or 0 for piece in (*steps, last)) / 1e6,
            tokens=tokens,
            decode=decode,
            images=images,
        )


def planned(model: str, dtype: torch.dtype) -> Schedule:
    """Return the plan of one image of a model with its official settings and the default cache, without weights."""
    import torch

    from arvbench.adapters.loading import meta_modules
    from arvbench.adapters.registry import MODELS
    from arvbench.adapters.sampler import Sampler, WeightsInfo

    spec = MODELS[model]
    sampler: Sampler = spec.sampler(
        spec,
        meta_modules(spec),
        weights=WeightsInfo(source="none", random=True),
        backend="optimized",
        device=torch.device("meta"),
        dtype=dtype,
    )
    return sampler.schedule(spec.settings, batch=1)


def _print(rows: Sequence[FloorRow], title: str, how: str) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from arvbench.reports.numbers import significant

    numbers = ("steps", "GFLOP", "MB", "tokens ms", "decode ms", "images/s")
    table = Table(
        Column("model", no_wrap=True),
        *(Column(heading, justify="right", no_wrap=True) for heading in numbers),
        Column("bound by", no_wrap=True),
        title=title,
        caption=f"Official settings, batch 1; images/s: at most; bound by: the token loop. Ceilings: {how}.",
        padding=(0, 1, 0, 0),
        box=None,
    )
    for row in rows:
        values = (row.gflop, row.megabytes, row.tokens.ns / 1e6, row.decode.ns / 1e6, 1e9 / row.images.ns)
        table.add_row(row.name, str(row.steps), *map(significant, values), row.tokens.bound)
    Console().print(table)
