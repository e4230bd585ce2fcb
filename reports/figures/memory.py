"""Memory by component: what is held during the token loop and during decode, as stacked bars.

Units    MiB 2**20 bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arvbench.reports.cases import RANDOM_WEIGHTS, case_names, conditions, group_by, has_random_weights, measured
from arvbench.reports.figures.drawing import PAPER, SERIES, WIDTH_IN, Drawing, label, legend, listed
from arvbench.reports.numbers import MEMORY_SOURCES, MIB, significant
from arvbench.results.schema import Memory, Record

_COMPONENTS = ("weights", "KV cache (allocated)", "token loop, all else", "decode, all else")
_HATCHES = ("", "////", "", "....")
_BAR_IN = 0.42
_PANEL_IN = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    name: str
    where: str
    parts: tuple[float, ...]
    """MiB of each of `_COMPONENTS`."""


def draw(records: Sequence[Record]) -> Drawing | None:
    """Two bars for every case: the token loop and decode; one panel for each hardware, data type and source."""
    from matplotlib.figure import Figure

    bars = _bars(records)
    if not bars:
        return None
    groups = group_by(bars, lambda bar: bar.where)
    heights = [_PANEL_IN + _BAR_IN * len(members) for members in groups.values()]
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.3), layout="constrained")
    grid = figure.add_gridspec(len(groups), 1, height_ratios=heights)
    for place, (where, members) in enumerate(groups.items()):
        ax = figure.add_subplot(grid[place, 0])
        ax.set_title("\n".join(label(line) for line in where.split("\n")))
        ax.set_xlabel("Memory (MiB)")
        ax.set_yticks(range(len(members)), [label(bar.name) for bar in members])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        left = [0.0] * len(members)
        for number, hatch in enumerate(_HATCHES):
            sizes = [bar.parts[number] for bar in members]
            ax.barh(
                range(len(members)), sizes, 0.7, left=left, color=SERIES[number], hatch=hatch, edgecolor=PAPER, lw=0.6
            )
            left = [start + size for start, size in zip(left, sizes, strict=True)]
    handles = [figure.axes[0].containers[number] for number in range(len(_COMPONENTS))]
    legend(figure, handles, _COMPONENTS, columns=len(_COMPONENTS))  # type: ignore[arg-type]
    told = listed(f"{bar.name}: {significant(sum(bar.parts))} MiB" for bar in bars)
    return Drawing(
        figure=figure,
        title="Memory by component",
        caption="Two bars for each case: the most that is held in the token loop, and in decode. Where the machine "
        "cannot tell working memory, the bar ends without it. A CUDA allocator's numbers and a process's resident set "
        "(RSS) never share a panel. MiB: 2**20 bytes.",
        alt=f"Stacked bars of memory in MiB. {told}.",
    )


def _bars(records: Sequence[Record]) -> list[_Bar]:
    names = case_names(records)
    bars: list[_Bar] = []
    for record, outcome in measured(records):
        mark = f" ({RANDOM_WEIGHTS})" if has_random_weights(record) else ""
        where = conditions(record)
        bars.extend(
            _Bar(
                name=f"{names[record.record_id]}{mark}, {phase}",
                where=f"{where.hardware}\n{where.arithmetic}, {MEMORY_SOURCES[outcome.memory.source]}",
                parts=tuple(size / MIB for size in sizes),
            )
            for phase, sizes in _phases(outcome.memory)
        )
    return bars


def _phases(memory: Memory) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Bytes of each component in the token loop and in decode."""
    cache = memory.cache_allocated_bytes
    # Both peaks contain the cache; a process's resident set may have held the pages before the call.
    work = 0 if memory.tokens_peak_bytes is None else max(0, memory.tokens_peak_bytes - cache)
    phases = [("tokens", (memory.weights_bytes, cache, work, 0))]
    if memory.decode_peak_bytes is not None:
        phases.append(("decode", (memory.weights_bytes, cache, 0, max(0, memory.decode_peak_bytes - cache))))
    return phases
