"""Quality against the number of tokens that a model draws, of cases that differ in nothing else.

A panel holds one protocol id, since only those numbers compare.

Units    FID without unit, lower is better; tokens of an image
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from arvbench.reports.cases import arithmetic, group_by, has_random_weights, measured
from arvbench.reports.figures.curves import Curve, Point, curves_data, draw_curves
from arvbench.reports.figures.drawing import Drawing, label, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import significant
from arvbench.reports.tables.quality import protocol_names
from arvbench.results.schema import Measured, Quality, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SETTING = "tokens"
"""Setting of families that can draw the first tokens only."""
_LABELS = ("Tokens of an image (count)", "FID (no unit, lower is better)")


class _Point(NamedTuple):
    record: Record
    tokens: int
    fid: Quality


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a curve for every model and way to run it whose quality was measured at several numbers of tokens."""
    curves = _curves(records)
    drawn = draw_curves(curves, _LABELS, _finish)
    if drawn is None:
        return None
    ends = listed(
        f"{curve.name}: FID {significant(curve.points[0].y)} of {curve.points[0].x:g} tokens, "
        f"{significant(curve.points[-1].y)} of {curve.points[-1].x:g}"
        for curve in drawn.curves
    )
    return Drawing(
        figure=drawn.figure,
        title="Quality and number of tokens",
        caption="FID of images made from the first tokens alone; the band is the 95 % interval, where there is one. "
        f"A curve is named by its first case, and its cases differ in nothing else.{drawn.left_out}",
        alt=f"Line plot of FID against the number of tokens. {ends}.",
        data=curves_data(curves, ("Tokens of an image", "FID, lower is better"), ("Protocol", "Dtype")),
    )


def _curves(records: Sequence[Record]) -> list[Curve]:
    names, protocols, curves = short_names(records), protocol_names(records), list[Curve]()
    points = [_Point(record, tokens, fid) for record, outcome in measured(records) for tokens, fid in _numbers(outcome)]
    alike = group_by(points, lambda point: (point.fid.protocol_id, _other_than_tokens(point.record)))
    for members in alike.values():
        at = {point.tokens: _place(point) for point in members}
        if len(at) < 2:
            continue
        first = min(members, key=lambda point: point.tokens)
        curves.append(
            Curve(
                record_id=first.record.record_id,
                name=label(f"{names[first.record.record_id]} and up", random=has_random_weights(first.record)),
                where=(label(protocols[first.fid.protocol_id]), label(arithmetic(first.record))),
                points=tuple(at[tokens] for tokens in sorted(at)),
            )
        )
    return curves


def _numbers(outcome: Measured) -> list[tuple[int, Quality]]:
    tokens = outcome.setup.settings.get(_SETTING)
    found = [number for number in outcome.quality if number.metric == "fid" and isfinite(number.value)]
    return [(tokens, fid) for fid in found] if isinstance(tokens, int) else []


def _other_than_tokens(record: Record) -> str:
    """Return what a case asks for beside the number of tokens."""
    return record.case.model_dump_json(exclude={"settings": {_SETTING}, "sample_sheet": True})


def _place(point: _Point) -> Point:
    low, high = point.fid.interval or (None, None)
    return Point(point.tokens, point.fid.value, low, high, point.record.record_id)


def _finish(ax: Axes, curves: Sequence[Curve]) -> None:
    ax.set_xticks(sorted({point.x for curve in curves for point in curve.points}))
    ax.set_xlim(left=0)
