"""The machine behind the times: its speed at fixed work, its clocks and neighbours, and the caches at a start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from arvbench.reports.cases import MeasuredCase, measured
from arvbench.reports.names import case_column
from arvbench.reports.numbers import counted_cores, number_cell, significant, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.machine import ControlTimes, GpuSeries, Range, Start
from arvbench.results.schema import Record
from arvbench.results.statistics import NS_PER_MS


def machine_table(records: Sequence[Record]) -> Table:
    """Machine while calls were timed; cases whose records hold nothing of it are left out."""
    columns: list[Column[MeasuredCase]] = [
        case_column(records),
        _control_column("Matrix product", lambda times: times.gemm_ns),
        _control_column("Copy", lambda times: times.copy_ns),
        _control_column("Loop", lambda times: times.host_ns),
        Column("Others", "cores", numeric=True, cell=_others_cell),
        Column("CPU clock", "MHz", numeric=True, cell=lambda case: _range_cell(_cpu_clock(case))),
        Column("SM clock", "MHz, busy", numeric=True, cell=_on_gpu(lambda gpu: _range_cell(gpu.sm_clock_mhz))),
        Column("Throttled", cell=_on_gpu(_throttle_cell)),
        Column("Temperature", "°C", numeric=True, cell=_on_gpu(lambda gpu: _range_cell(gpu.temperature_c))),
        Column("Power", "W", numeric=True, cell=_on_gpu(lambda gpu: _range_cell(gpu.power_w))),
        Column("Foreign processes", cell=_on_gpu(lambda gpu: text_cell(", ".join(map(str, gpu.foreign_pids)) or None))),
        Column("Clocks held", cell=_locked_cell),
    ]
    rows = [case for case in measured(records) if case.outcome.control or case.outcome.telemetry]
    return make_table(
        "Machine while calls were timed: fixed work before and after, and what else it did", columns, rows
    )


class _StartedCase(NamedTuple):
    record: Record
    start: Start


def start_table(records: Sequence[Record]) -> Table:
    """Way of every launch to its first images, and the state of the caches that decide it."""
    columns: list[Column[_StartedCase]] = [
        case_column(records),
        _start_column("Imports", lambda start: start.import_ns),
        _start_column("Reading weights", lambda start: start.load_weights_ns),
        _start_column("To the device", lambda start: start.to_device_ns),
        _start_column("First call", lambda start: start.first_call_ns),
        _start_column("Compilation", lambda start: start.compile_ns),
        _start_column("Capture", lambda start: start.capture_ns),
        Column("Page cache", cell=lambda case: text_cell(case.start.page_cache)),
        Column("Compilers' caches", cell=lambda case: text_cell(case.start.cache)),
    ]
    rows = [_StartedCase(record, outcome.start) for record, outcome in measured(records) if outcome.start is not None]
    return make_table("Cold start, which no check gates", columns, rows)


def _start_column(label: str, part: Callable[[Start], int | None]) -> Column[_StartedCase]:
    def cell(case: _StartedCase) -> Cell:
        ns = part(case.start)
        return NOTHING if ns is None else number_cell(ns / NS_PER_MS)

    return Column(label, "ms", numeric=True, cell=cell)


def _control_column(label: str, samples_of: Callable[[ControlTimes], tuple[int, ...]]) -> Column[MeasuredCase]:
    def cell(case: MeasuredCase) -> Cell:
        control = case.outcome.control
        if control is None or not (samples_of(control.before) and samples_of(control.after)):
            return NOTHING
        before, after = (median(samples_of(times)) / NS_PER_MS for times in (control.before, control.after))
        return Cell(text=f"{significant(before)}, {significant(after)}", sort=before)

    return Column(label, "ms", numeric=True, note="before, after", cell=cell)


def _others_cell(case: MeasuredCase) -> Cell:
    load = case.outcome.host_load
    return NOTHING if load is None else number_cell(counted_cores(load.other_cores + load.stolen_cores))


def _cpu_clock(case: MeasuredCase) -> Range | None:
    telemetry = case.outcome.telemetry
    return None if telemetry is None else telemetry.cpu.clock_mhz


def _on_gpu(cell: Callable[[GpuSeries], Cell]) -> Callable[[MeasuredCase], Cell]:
    """Return a function of cases that makes a cell of the GPU's series, where there is one."""

    def of_case(case: MeasuredCase) -> Cell:
        telemetry = case.outcome.telemetry
        return NOTHING if telemetry is None or telemetry.gpu is None else cell(telemetry.gpu)

    return of_case


def _range_cell(values: Range | None) -> Cell:
    if values is None:
        return NOTHING
    detail = "" if values.low == values.high else f"{significant(values.low, 4)} to {significant(values.high, 4)}"
    return Cell(text=significant(values.mean, 4), detail=detail, sort=values.mean)


def _throttle_cell(gpu: GpuSeries) -> Cell:
    shares = ", ".join(f"{reason} {share:.0%}" for reason, share in gpu.throttle_shares.items())
    return Cell(text=shares, sort=shares, tone="warn") if shares else text_cell("no")


def _locked_cell(case: MeasuredCase) -> Cell:
    telemetry = case.outcome.telemetry
    if telemetry is None or telemetry.gpu is None:
        return NOTHING
    locked = telemetry.clocks_locked
    return text_cell(locked if isinstance(locked, str) else "yes" if locked else "no")
