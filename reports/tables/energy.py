"""Energy per image from the counter and from power samples, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from arvbench.reports.blocks import Block, Text
from arvbench.reports.cases import measured
from arvbench.reports.names import case_column, short_names
from arvbench.reports.numbers import count_cell, number_cell, plain, significant, text_cell
from arvbench.reports.table import Cell, Column, Table, make_table
from arvbench.results.energy import DISAGREEMENT, Energy, EnergyNumbers, disagreement, energy_numbers
from arvbench.results.launches import launches_of
from arvbench.results.schema import Measured, Record


class _CaseEnergy(NamedTuple):
    """A row of the table."""

    record: Record
    energy: Energy
    counter: EnergyNumbers | None
    power: EnergyNumbers | None

    @property
    def best(self) -> EnergyNumbers | None:
        return self.counter or self.power


_TEXT = (
    "J per image *gross*: all energy of a window, over its images. *Net*: the same less the mean power of the idle "
    "windows, which stand before each window of work. Both are medians over windows, once by the energy counter and "
    "once by integrated power samples: the counter is what counts, the other is there to check it. What a counter "
    "covers is said in the table; energies of different counters are not comparable."
)


def energy_blocks(records: Sequence[Record]) -> list[Block]:
    """Return the table of energies with its explanation; nothing when no case asked for energy."""
    table = energy_table(records)
    if not table:
        return []
    best = best_batch_table(records)
    return [Text(_TEXT), table, *([best] if best else [])]


def energy_table(records: Sequence[Record]) -> Table:
    """One row for every case that asked for energy; one without numbers has the reason."""
    columns: list[Column[_CaseEnergy]] = [
        case_column(records),
        Column("Net", "J/image", numeric=True, note="counter", cell=lambda row: _net(row.counter)),
        Column("Gross", "J/image", numeric=True, note="counter", cell=lambda row: _gross(row.counter)),
        Column("Net", "J/image", numeric=True, note="power", cell=lambda row: _net(row.power)),
        Column("Gross", "J/image", numeric=True, note="power", cell=lambda row: _gross(row.power)),
        Column("Idle", "W", numeric=True, cell=lambda row: number_cell(row.best.idle_w if row.best else None)),
        Column("At work", "W", numeric=True, cell=lambda row: number_cell(row.best.work_w if row.best else None)),
        Column("Windows", numeric=True, cell=lambda row: count_cell(len(row.energy.windows) // 2 or None)),
        Column("Window", cell=lambda row: text_cell(row.energy.rule)),
        Column("Counts", prose=True, cell=lambda row: text_cell(row.energy.counts)),
        Column("Remark", prose=True, cell=lambda row: text_cell(_remark(row.energy))),
    ]
    rows = [
        _CaseEnergy(record, energy, energy_numbers(energy, "counter"), energy_numbers(energy, "power"))
        for record, energy in energies(records)
    ]
    return make_table("Energy per image: net of idle power, and gross", columns, rows)


class _Batches(NamedTuple):
    """Cases that differ in their batch alone, each with its numbers, least net energy first."""

    by_energy: tuple[tuple[Record, EnergyNumbers], ...]


def best_batch_table(records: Sequence[Record]) -> Table:
    """The batch with the least net energy per image, of cases that differ in their batch alone."""
    groups: dict[str, list[tuple[Record, EnergyNumbers]]] = {}
    for record, energy in energies(records):
        if numbers := energy_numbers(energy, "counter"):
            key = record.case.model_dump_json(exclude={"batch"}) + str(record.environment.identity())
            groups.setdefault(key, []).append((record, numbers))
    rows = [
        _Batches(tuple(sorted(group, key=lambda found: found[1].net_j)))
        for group in groups.values()
        if len({record.case.batch for record, _ in group}) > 1
    ]
    names = short_names(records)
    columns: list[Column[_Batches]] = [
        Column("Best case", prose=True, cell=lambda row: text_cell(names[row.by_energy[0][0].record_id])),
        Column("Best batch", "images", numeric=True, cell=lambda row: count_cell(row.by_energy[0][0].case.batch)),
        Column("Net", "J/image", numeric=True, cell=lambda row: _net(row.by_energy[0][1])),
        Column("Gross", "J/image", numeric=True, cell=lambda row: _gross(row.by_energy[0][1])),
        Column("Other batches", cell=lambda row: text_cell(_others(row))),
    ]
    return make_table("Joules per image at the best batch: least net energy by the counter", columns, rows)


def _others(row: _Batches) -> str:
    """Name the other batches with their net energy, the best first."""
    rest = row.by_energy[1:]
    return ", ".join(f"{record.case.batch}: {significant(numbers.net_j)} J" for record, numbers in rest)


def energy_lines(records: Sequence[Record]) -> list[str]:
    """Say the energy of each case, or why there is none, in a line for a terminal; equal reasons share a line."""
    names = short_names(records)
    lines, absent = [], dict[str, list[str]]()
    for record, energy in energies(records):
        name = names[record.record_id]
        numbers = energy_numbers(energy, "counter") or energy_numbers(energy, "power")
        if numbers is None:
            absent.setdefault(_remark(energy), []).append(name)
            continue
        remark = _remark(energy)
        lines.append(
            f"{name}: energy {significant(numbers.net_j)} J/image net of {significant(numbers.idle_w)} W idle, "
            f"{significant(numbers.gross_j)} gross, by {plain(energy.source)} {numbers.by}"
            f"{'; ' + remark if remark else ''}"
        )
    for reason, cases in absent.items():
        who = cases[0] if len(cases) == 1 else f"{len(cases)} cases"
        lines.append(f"{who}: {reason}")
    return lines


def energies(records: Sequence[Record]) -> list[tuple[Record, Energy]]:
    """Return the energy of each row: of several launches, that of the first that has numbers."""
    found = []
    for record, _ in measured(records):
        outcomes = [launch.outcome for launch in launches_of(record) if isinstance(launch.outcome, Measured)]
        energies = [outcome.energy for outcome in outcomes if outcome.energy is not None]
        if energies:
            found.append((record, next((energy for energy in energies if energy.windows), energies[0])))
    return found


def _remark(energy: Energy) -> str:
    if not energy.windows:
        return f"energy absent: {plain(energy.reason)}"
    parts = [plain(energy.reason)] if energy.reason else []
    apart = disagreement(energy)
    if apart is not None and abs(apart) > DISAGREEMENT:
        parts.append(f"counter and integrated power disagree by {significant(100 * abs(apart), 2)} %: trust neither")
    counter = energy_numbers(energy, "counter") or energy_numbers(energy, "power")
    if counter is not None and counter.net_j <= 0:
        parts.append("work takes no more than idling: the net energy is below what can be measured")
    return "; ".join(parts)


def _net(numbers: EnergyNumbers | None) -> Cell:
    return number_cell(numbers.net_j if numbers else None)


def _gross(numbers: EnergyNumbers | None) -> Cell:
    return number_cell(numbers.gross_j if numbers else None)
