"""Memory of one run by every definition: how far apart the answers lie to one question.

Units    MiB 2**20 bytes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arvbench.reports.cases import conditions, group_by, has_random_weights, measured
from arvbench.reports.data import make_data
from arvbench.reports.figures.case_rows import case_rows
from arvbench.reports.figures.drawing import MARKERS, MUTED, SERIES, Drawing, first_of, label, legend, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import MEMORY_SOURCES, MIB, significant
from arvbench.results.memory import DEFINITIONS
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_ROW_IN = 0.46


class _Answers(NamedTuple):
    """MiB of one case by the label of the definition; a definition that this machine does not have is missing."""

    record_id: str
    name: str
    where: tuple[str, str]
    sizes: Mapping[str, float]

    @property
    def positive(self) -> list[float]:
        """Return the sizes that a logarithmic axis can show."""
        return [size for size in self.sizes.values() if size > 0]


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a row for every case, with a marker for every definition."""
    from matplotlib.ticker import LogLocator, NullLocator

    every = _answers(records)
    groups, left_out = first_of(group_by(every, lambda case: case.where), "cases")
    if not groups:
        return None
    names = {where: [case.name for case in cases] for where, cases in groups.items()}
    figure, axes = case_rows(names, "Memory (MiB)", _ROW_IN)
    handles: dict[str, Artist] = {}
    for ax, cases in zip(axes, groups.values(), strict=True):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        for place, case in enumerate(cases):
            _draw_row(ax, place, case, handles)
    shown = [kind.label for kind in DEFINITIONS if kind.label in handles]
    legend(figure, [handles[name] for name in shown], shown)
    spreads = listed(
        f"{case.name}: {significant(min(case.positive))} to {significant(max(case.positive))} MiB"
        for cases in groups.values()
        for case in cases
    )
    meanings = "; ".join(f"{kind.label}: {kind.meaning}" for kind in DEFINITIONS if kind.label in handles)
    return Drawing(
        figure=figure,
        title="The same run by several definitions of its memory",
        caption=f"{meanings}. The axis is logarithmic; 1 MiB is 1,048,576 bytes. A number without its definition "
        f"can be any of these.{left_out}",
        alt=f"Memory of each case in MiB by each definition, on a logarithmic axis. {spreads}.",
        data=make_data(
            ("Record", "Case", "Hardware", "Conditions", *(f"{kind.label} (MiB)" for kind in DEFINITIONS)),
            (
                (case.record_id, case.name, *case.where, *(case.sizes.get(kind.label) for kind in DEFINITIONS))
                for case in every
            ),
        ),
    )


def _answers(records: Sequence[Record]) -> list[_Answers]:
    names, cases = short_names(records), list[_Answers]()
    for record, outcome in measured(records):
        where, source = conditions(record), MEMORY_SOURCES[outcome.memory.source]
        found = {kind.label: kind.of(outcome.memory) for kind in DEFINITIONS}
        case = _Answers(
            record_id=record.record_id,
            name=label(names[record.record_id], random=has_random_weights(record)),
            where=(where.hardware, f"{where.arithmetic}, {source}"),
            sizes={name: size / MIB for name, size in found.items() if size is not None},
        )
        if case.positive:
            cases.append(case)
    return cases


def _draw_row(ax: Axes, place: int, case: _Answers, handles: dict[str, Artist]) -> None:
    """Draw the markers of a case on a line from the least to the greatest."""
    ax.plot([min(case.positive), max(case.positive)], [place, place], color=MUTED, linewidth=1, zorder=1)
    for number, kind in enumerate(DEFINITIONS):
        if (size := case.sizes.get(kind.label)) is None or size <= 0:
            continue
        style: dict[str, Any] = {"color": SERIES[number], "marker": MARKERS[number], "linestyle": "none"}
        # Every second one is open and larger: equal answers show within one another.
        if number % 2 == 0:
            style |= {"markerfacecolor": "none", "markersize": 8}
        handles[kind.label] = ax.plot([size], [place], **style)[0]
