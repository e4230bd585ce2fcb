"""Memory by component during the token loop and during decode, as stacked bars.

Units    MiB 2**20 bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arvbench.reports.cases import conditions, group_by, has_random_weights, measured
from arvbench.reports.data import make_data
from arvbench.reports.figures.case_rows import case_rows
from arvbench.reports.figures.drawing import PAPER, SERIES, Drawing, first_of, label, legend, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import MEMORY_SOURCES, MIB, significant
from arvbench.results.schema import Memory, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

_COMPONENTS = ("weights", "cache (allocated)", "token loop, all else", "decode, all else")
_PHASES = ("token loop", "decode")
_HATCHES = ("", "////", "", r"\\\\\\\\")
"""Lines alone: a pattern of dots takes 300 kB of SVG."""
_CASE_IN = 0.62
_BAR = 0.36
"""Height of a bar; a case has height 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bars:
    """Bars of one case, from top to bottom; each has the MiB of every component."""

    record_id: str
    name: str
    where: tuple[str, str]
    phases: tuple[tuple[float, ...], ...]


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw two bars for every case, token loop and decode; one panel for each hardware, data type and source."""
    cases = _cases(records)
    groups, left_out = first_of(group_by(cases, lambda case: case.where), "cases")
    if not groups:
        return None
    names = {where: [case.name for case in members] for where, members in groups.items()}
    figure, axes = case_rows(names, "Memory (MiB)", _CASE_IN)
    for ax, members in zip(axes, groups.values(), strict=True):
        _draw_bars(ax, members)
        ax.set_ylim(len(members) - 0.5, -0.5)
    legend(figure, [_swatch(number) for number in range(len(_COMPONENTS))], _COMPONENTS)
    maxima = listed(
        f"{case.name}: {significant(max(map(sum, case.phases)))} MiB at most"
        for members in groups.values()
        for case in members
    )
    return Drawing(
        figure=figure,
        title="Memory by component",
        caption="Upper bar of a case: the most that is held in the token loop; lower bar: in decode. Where the machine "
        "cannot tell working memory, the bar ends without it. A CUDA allocator's numbers and a process's resident set "
        f"(RSS) never share a panel. 1 MiB is 1,048,576 bytes.{left_out}",
        alt=f"Stacked bars of memory in MiB. {maxima}.",
        data=make_data(
            ("Record", "Case", "Hardware", "Conditions", "Phase", *(f"{part} (MiB)" for part in _COMPONENTS)),
            (
                (case.record_id, case.name, *case.where, phase, *sizes)
                for case in cases
                for phase, sizes in zip(_PHASES, case.phases, strict=False)
            ),
        ),
    )


def _draw_bars(ax: Axes, cases: Sequence[_Bars]) -> None:
    places, parts = [], []
    for case_place, case in enumerate(cases):
        for phase_place, phase in enumerate(case.phases):
            places.append(case_place + _BAR * (phase_place - (len(case.phases) - 1) / 2))
            parts.append(phase)
    left = [0.0] * len(places)
    for number in range(len(_COMPONENTS)):
        sizes = [part[number] for part in parts]
        ax.barh(places, sizes, _BAR, left=left, **_look(number))
        left = [start + size for start, size in zip(left, sizes, strict=True)]


def _look(number: int) -> dict[str, Any]:
    return {"facecolor": SERIES[number], "hatch": _HATCHES[number], "edgecolor": PAPER, "linewidth": 0.6}


def _swatch(number: int) -> Patch:
    from matplotlib.patches import Patch

    return Patch(**_look(number))


def _cases(records: Sequence[Record]) -> list[_Bars]:
    names = short_names(records)
    cases: list[_Bars] = []
    for record, outcome in measured(records):
        where, source = conditions(record), MEMORY_SOURCES[outcome.memory.source]
        cases.append(
            _Bars(
                record_id=record.record_id,
                name=label(names[record.record_id], random=has_random_weights(record)),
                where=(where.hardware, f"{where.arithmetic}, {source}"),
                phases=tuple(tuple(size / MIB for size in sizes) for sizes in _phases(outcome.memory)),
            )
        )
    return cases


def _phases(memory: Memory) -> list[tuple[int, int, int, int]]:
    """Return the bytes of each component in the token loop and, if known, in decode."""
    weights, cache = memory.weights_bytes, memory.cache_allocated_bytes
    # Both peaks contain the cache, but a process's resident set may have held its pages before the call: hence max().
    work = 0 if memory.tokens_peak_bytes is None else max(0, memory.tokens_peak_bytes - cache)
    phases = [(weights, cache, work, 0)]
    if memory.decode_peak_bytes is not None:
        phases.append((weights, cache, 0, max(0, memory.decode_peak_bytes - cache)))
    return phases
