"""Tables of the machine behind the times and of the start of a launch."""

from __future__ import annotations

from records import GPU, record

from arvbench.reports.table import Table
from arvbench.reports.tables.machine import machine_table, start_table
from arvbench.results.machine import Control, ControlTimes, CpuSeries, GpuSeries, HostLoad, Range, Start, Telemetry

MS = 1_000_000
CPU = CpuSeries(clock_mhz=Range(low=2000, mean=2445, high=2600), load_average=None, other_cores=None, stolen_cores=None)
SERIES = GpuSeries(
    busy_samples=20,
    utilization=None,
    sm_clock_mhz=Range(low=1500, mean=1700, high=1900),
    memory_clock_mhz=None,
    sm_clock_ratio=0.85,
    throttle_shares={"hardware thermal slowdown": 0.25},
    power_w=Range(low=600, mean=600, high=600),
    temperature_c=None,
    foreign_pids=(41, 42),
)


def control(before_ms: int, after_ms: int) -> Control:
    before, after = (
        ControlTimes(gemm_ns=(ms * MS,) * 3, copy_ns=(2 * ms * MS,) * 3, host_ns=(3 * ms * MS,) * 3)
        for ms in (before_ms, after_ms)
    )
    return Control(work="w", before=before, after=after)


def cells(table: Table, row: int = 0) -> dict[str, str]:
    return {
        c.label: f"{cell.text} {cell.detail}".strip() for c, cell in zip(table.columns, table.rows[row], strict=True)
    }


def test_a_gpu_case_shows_clocks_throttling_and_neighbours():
    telemetry = Telemetry(interval_s=0.2, samples=30, clocks_locked="denied", cpu=CPU, gpu=SERIES)
    shown = cells(machine_table([record(gpu=GPU, telemetry=telemetry, control=control(1, 2))]))
    assert shown["SM clock"] == "1700 1500 to 1900" and shown["Power"] == "600.0"
    assert shown["Throttled"] == "hardware thermal slowdown 25%"
    assert shown["Foreign processes"] == "41, 42" and shown["Clocks held"] == "denied"
    assert (shown["Matrix product"], shown["Copy"], shown["Loop"]) == ("1.00, 2.00", "2.00, 4.00", "3.00, 6.00")
    assert "Temperature" not in shown  # a column without any value


def test_a_cpu_case_shows_its_clock_and_the_others():
    load = HostLoad(cores=2, load_average=1, other_cores=0.5, stolen_cores=0.25)
    telemetry = Telemetry(interval_s=0.2, samples=30, clocks_locked=False, cpu=CPU, gpu=None)
    shown = cells(machine_table([record(telemetry=telemetry, host_load=load)]))
    assert shown["CPU clock"] == "2445 2000 to 2600" and shown["Others"] == "0.750"
    assert "SM clock" not in shown and "Clocks held" not in shown


def test_a_start_shows_its_parts_and_caches():
    start = Start(
        import_ns=None,
        load_weights_ns=20 * MS,
        to_device_ns=30 * MS,
        first_call_ns=400 * MS,
        compile_ns=None,
        capture_ns=None,
        page_cache="cold",
        cache="warm",
    )
    shown = cells(start_table([record(start=start)]))
    assert (shown["Reading weights"], shown["To the device"], shown["First call"]) == ("20.0", "30.0", "400")
    assert shown["Page cache"] == "cold" and shown["Compilers' caches"] == "warm"
    assert "Imports" not in shown and "Compilation" not in shown


def test_records_without_these_fields_have_no_rows():
    older = [record(number=0), record(number=1, gpu=GPU)]
    assert not machine_table(older) and not start_table(older)
