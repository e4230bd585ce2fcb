"""Cache policies at the same batch and in the same memory: two rows for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from arvbench.reports.cases import arithmetic, case_cell, group_by, hardware, has_random_weights, model_of
from arvbench.reports.numbers import MIB, count_cell, estimate_cell, mib_cell, number_cell, plain, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.reports.tables.quality import quality_columns
from arvbench.reports.tables.rich_table import titled_table
from arvbench.results.equal_memory import Comparison, Contender, Point, comparisons
from arvbench.results.schema import Measured, Record

if TYPE_CHECKING:
    from rich.console import RenderableType


class Row(NamedTuple):
    """A policy at one batch."""

    comparison: Comparison
    contender: Contender
    point: Point
    first: Point | None
    """The yardstick's point of the same kind."""

    @property
    def record(self) -> Record:
        """The record of the same batch, which has the policy's quality and drift."""
        return self.contender.same_batch.record

    @property
    def kind(self) -> str:
        return "batch" if self.point is self.contender.same_batch else "memory"

    def times_first(self) -> float | None:
        """Throughput over the yardstick's; None without both."""
        speeds = [point.speed.value for point in (self.point, self.first) if point is not None and point.speed]
        return speeds[0] / speeds[1] if len(speeds) == 2 and speeds[1] > 0 else None


def equal_memory_rows(records: Sequence[Record]) -> list[Row]:
    """Return two rows for each policy; one for a policy that was measured at the same batch alone."""
    rows = []
    for comparison in comparisons(records):
        first = comparison.contenders[0]
        for contender in comparison.contenders:
            rows.append(Row(comparison, contender, contender.same_batch, first.same_batch))
            if contender.same_memory is not None:
                rows.append(Row(comparison, contender, contender.same_memory, first.same_memory))
    return rows


def equal_memory_table(records: Sequence[Record]) -> Table:
    """Policies of every model at the same batch, and at the batch that the same memory holds."""
    rows = equal_memory_rows(records)
    seen = [row.record for row in rows]
    columns: list[Column[Row]] = [
        _MODEL,
        Column(
            "Conditions", cell=lambda row: text_cell(f"{hardware(row.record)} · {arithmetic(row.record)}"), once=True
        ),
        _POLICY,
        _KIND,
        _BATCH,
        _LIVE,
        Column("Cache live", "MiB", numeric=True, cell=lambda row: mib_cell(row.point.live_bytes)),
        _MEMORY,
        Column("of at most", "MiB", numeric=True, cell=_limit_cell),
        Column("Memory counts", cell=lambda row: text_cell(row.comparison.counted), once=True),
        _SPEED,
        _TIMES,
        *map(_of_policy, quality_columns(seen, ("fid", "label-accuracy"))),
        _TOKENS,
    ]
    caption = (
        "Cache policies at the same batch, and in the same memory, where a smaller cache buys a larger batch; quality "
        "and tokens are those of the policy, measured at the same batch"
    )
    return make_table(caption, columns, rows)


def equal_memory_part(records: Sequence[Record], width: int) -> list[RenderableType]:
    """Draw the table for a terminal of `width` columns: only comparisons with several policies, a table each."""
    parts: list[RenderableType] = []
    for own in group_by(equal_memory_rows(records), lambda row: id(row.comparison)).values():
        if len(own[0].comparison.contenders) == 1:
            continue
        record = own[0].record
        quality = quality_columns([row.record for row in own], ("fid",))
        columns = [
            replace(_POLICY, label="Cache"),
            replace(_KIND, label="Same"),
            replace(_BATCH, unit=""),
            replace(_LIVE, label="Live/image", unit=""),
            replace(_SPEED, label="images/s", unit=""),
            replace(_TIMES, label="Times"),
            *(replace(_of_policy(column), note="") for column in quality),
            replace(_TOKENS, label="Tokens %", unit=""),
            replace(_MEMORY, label="MiB", unit=""),
        ]
        mark = " (random weights)" if has_random_weights(record) else ""
        title = f"Caches at the same batch and memory: {model_of(record)}{mark}, {arithmetic(record)}"
        parts += titled_table(title, make_table("Equal memory", columns, own), width, naming=2)
    return parts


def agreement(record: Record) -> float | None:
    """Share of tokens equal to those of the static cache, each on its own path; 1 for a case without lossy parts, None
    for latents.
    """
    if not isinstance(record.outcome, Measured):
        return None
    if record.outcome.drift is not None:
        equal = record.outcome.drift.free_agreement
        return None if equal is None else equal.mean
    return 1.0 if record.outcome.setup.lossy == () else None


def fid_of(record: Record) -> float | None:
    """Return the first FID of a record."""
    numbers = record.outcome.quality if isinstance(record.outcome, Measured) else ()
    return next((number.value for number in numbers if number.metric == "fid"), None)


def _of_policy(column: Column[Record]) -> Column[Row]:
    return Column(
        column.label,
        column.unit,
        numeric=column.numeric,
        note=column.note,
        cell=lambda row: column.cell(row.record),
    )


def _limit_cell(row: Row) -> Cell:
    return NOTHING if row.kind == "batch" else mib_cell(row.comparison.limit_bytes)


def _tokens_cell(row: Row) -> Cell:
    share = agreement(row.record)
    if share == 1.0:
        return Cell(text="100", sort=100.0)
    return number_cell(None if share is None else 100 * share)


_MODEL: Column[Row] = Column("Model", cell=lambda row: case_cell(row.record, model_of(row.record)))
_POLICY: Column[Row] = Column("Policy", cell=lambda row: text_cell(plain(row.contender.policy)))
_KIND: Column[Row] = Column("The same", cell=lambda row: text_cell(row.kind))
_BATCH: Column[Row] = Column("Batch", "images", numeric=True, cell=lambda row: count_cell(row.point.batch))
_LIVE: Column[Row] = Column(
    "Live per image", "MiB", numeric=True, cell=lambda row: number_cell(row.point.live_per_image / MIB)
)
_MEMORY: Column[Row] = Column("Memory", "MiB", numeric=True, cell=lambda row: mib_cell(row.point.memory_bytes))
_SPEED: Column[Row] = Column("Throughput", "images/s", numeric=True, cell=lambda row: estimate_cell(row.point.speed))
_TIMES: Column[Row] = Column("Times the first policy", numeric=True, cell=lambda row: number_cell(row.times_first()))
_TOKENS: Column[Row] = Column("Tokens as the static cache", "%", numeric=True, cell=_tokens_cell)
