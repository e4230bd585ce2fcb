from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import records as make
from report_text import column, in_terminal

from arvbench.reports.build import build_report
from arvbench.reports.content import make_report
from arvbench.reports.numbers import significant
from arvbench.reports.steadiness import unsteady_text
from arvbench.reports.table import Cell, Column, Table, make_table
from arvbench.reports.tables.machine import machine_table
from arvbench.reports.tables.measures import MOST_STEPS, cache_table, memory_table, step_tables
from arvbench.reports.tables.provenance import (
    deviations_table,
    environment_tables,
)
from arvbench.reports.tables.quality import quality_table
from arvbench.reports.tables.results import UNSTEADY, failures_table, results_table
from arvbench.results.machine import Control, ControlTimes
from arvbench.results.records import RecordsFile
from arvbench.results.schema import HostLoad, Memory, Record, Status, WarmUp
from arvbench.results.statistics import images_per_second


def test_every_case_has_a_row_whatever_its_status(records: list[Record]) -> None:
    table = results_table(records)
    assert len(table.rows) == len(records)
    assert {cell.text for cell in column(table, "Status")} == {"ok", "incorrect", "oom", "error", "unsupported"}


def test_only_measured_cases_have_a_speed(records: list[Record]) -> None:
    table = results_table(records)
    for record, cell in zip(records, column(table, "Throughput"), strict=True):
        assert (cell.sort is not None) == (record.status is Status.OK), record.case_id


def test_throughput_is_that_of_the_images_scope() -> None:
    record = make.record(batch=4)
    timing = next(t for t in record.outcome.timings if t.scope == "images")
    (cell,) = column(results_table([record]), "Throughput")
    assert cell.sort == images_per_second(timing).value


def test_cases_stand_in_the_order_in_which_they_began_whichever_ended_first(tmp_path: Path) -> None:
    ended = tuple(make.record(number=number, batch=number + 1) for number in (0, 2, 1))
    report = make_report([RecordsFile(path=tmp_path / "records.jsonl", records=ended, damaged_lines=())])
    assert [shown.case.batch for shown in report.records] == [1, 2, 3]


def test_random_weights_are_marked_on_every_row_and_no_others_are(tmp_path: Path) -> None:
    pair = (make.record(number=0, case_id="random"), make.record(number=1, case_id="own", weights="demo"))
    report = make_report([RecordsFile(path=tmp_path / "records.jsonl", records=pair, damaged_lines=())])
    blocks = [block for section in report.sections for block in section.blocks]
    tables = [block for block in blocks if isinstance(block, Table) and block.columns[0].label == "Case"]
    assert len(tables) >= 7
    for row in (row for table in tables for row in table.rows):
        assert row[0].flags == (("random weights",) if row[0].text == "random" else ()), row[0].text


def test_a_failed_case_is_marked_by_its_configured_weights() -> None:
    (row,) = failures_table([make.failed(Status.ERROR, "no", weights="random:3")]).rows
    assert row[0].flags == ("random weights",)


def test_numbers_of_different_protocols_never_share_a_column() -> None:
    rng = np.random.default_rng(0)
    records = [
        make.record(number=i, weights="demo", quality=make.quality_numbers(rng, protocol))
        for i, protocol in enumerate(["a", "b", "a"])
    ]
    for build in (results_table, quality_table):
        table = build(records)
        fids = [i for i, c in enumerate(table.columns) if c.label == "FID"]
        filled = [[row[i].sort is not None for row in table.rows] for i in fids]
        assert filled == [[True, False, True], [False, True, False]]
        assert len({table.columns[i].note for i in fids}) == 2


def test_the_headline_has_the_headline_metrics_and_the_quality_section_has_all() -> None:
    quality = make.quality_numbers(np.random.default_rng(0))
    reconstruction = quality[0].model_copy(update={"metric": "reconstruction-fid"})
    records = [make.record(weights="demo", quality=(*quality, reconstruction))]
    metrics = {"FID", "rFID", "IS", "Label accuracy", "KID", "Precision", "Recall"}
    headline = {c.label for c in results_table(records).columns}
    assert headline & metrics == {"FID", "rFID", "IS", "Label accuracy"}
    assert {c.label for c in quality_table(records).columns} == metrics | {"Case"}


def test_times_in_the_headline_name_their_scope() -> None:
    headings = [c.heading for c in results_table([make.record()]).columns if c.unit == "ms/image"]
    assert headings == ["Time: images (ms/image)", "Time: tokens (ms/image)", "Time: decode (ms/image)"]


def test_an_allocators_peak_and_a_processs_never_share_a_column() -> None:
    table = results_table([make.record(number=0), make.record(number=1, gpu=make.GPU)])
    peaks = [i for i, c in enumerate(table.columns) if c.label == "Peak memory"]
    assert [[row[i].sort is not None for row in table.rows] for i in peaks] == [[False, True], [True, False]]


def test_a_value_that_all_rows_share_is_told_once_by_the_caption() -> None:
    columns = [
        Column("Name", cell=lambda row: Cell(text=row[0])),
        Column("Device", cell=lambda row: Cell(text=row[1]), once=True),
    ]
    table = make_table("Rows", columns, [("a", "cpu"), ("b", "cpu")])
    assert table.caption == "Rows (all: device cpu)" and [c.label for c in table.columns] == ["Name"]
    for rows in ([("a", "cpu"), ("b", "cuda")], [("a", "cpu")], []):
        table = make_table("Rows", columns, rows)
        assert table.caption == "Rows" and [c.label for c in table.columns] == ["Name", "Device"]


def test_failures_say_why() -> None:
    records = [make.failed(Status.OOM, "needs 9 GiB", number=0), make.incorrect(number=1), make.record(number=2)]
    oom, incorrect = column(failures_table(records), "Reason")
    assert oom.text == "needs 9 GiB"
    assert "3.7e-01" in incorrect.text and "1.0e-04" in incorrect.text and "41.20 %" in incorrect.text


def test_rows_with_the_same_case_are_told_apart() -> None:
    records = [make.record(number=0), make.record(number=1), make.record(number=2, suite="other")]
    names = {row[0].text for row in results_table(records).rows}
    assert len(names) == 3


def test_two_rows_of_a_case_are_named_by_their_difference() -> None:
    def names(**changes: object) -> list[str]:
        records = [make.record(number=0, case_id="c"), make.record(number=1, **({"case_id": "c"} | changes))]
        return [row[0].text for row in results_table(records).rows]

    assert names(case_id="d") == ["c", "d"]
    assert names(suite="other") == ["c · imagenet256", "c · other"]
    assert names(weights="demo") == ["c · random:0", "c · demo"]
    assert names(environment=make.environment(cpu="X1")) == ["c · AMD EPYC 9554, 2 threads", "c · X1, 2 threads"]
    assert names(environment=make.environment(git_commit="ab" * 20)) == ["c · c0ffeec0f", "c · ababababa"]
    assert names() == ["c · 2026-03-02 09:30:00", "c · 2026-03-02 09:31:00"]


def test_the_steps_of_a_case_compare_plan_and_measurement() -> None:
    record = make.record(batch=2)
    (table,) = step_tables([record])
    assert len(table.rows) == 10
    plan = record.outcome.setup.plan[3]
    assert column(table, "Context")[3].sort == plan.context_tokens
    assert column(table, "Cache live")[3].sort == plan.cache_bytes / 2**20
    step = next(t for t in record.outcome.timings if t.scope == "step[3]")
    assert column(table, "Time")[3].sort == pytest.approx(float(np.median(step.samples_ns)) / 1e6)
    seconds = float(np.median(step.samples_ns)) / 1e9
    assert column(table, "Rate")[3].sort == pytest.approx(plan.flops / 1e9 / seconds)


def with_steps(count: int, number: int) -> Record:
    """A record of `count` steps, which repeat those of a usual one."""
    record = make.record(number=number, batch=number + 1)
    plan = record.outcome.setup.plan
    steps = tuple(plan[i % len(plan)].model_copy(update={"index": i}) for i in range(count))
    setup = record.outcome.setup.model_copy(update={"plan": steps})
    return record.model_copy(update={"outcome": record.outcome.model_copy(update={"setup": setup})})


@pytest.mark.parametrize(
    ("counts", "shown", "left_out"),
    [
        ((300, 200), (300, 200), None),
        ((300, 201), (300, 200), "Shown: the first 500 of 501 steps. The other 1 are in the records"),
        ((500, 1), (500,), "Shown: the first 500 of 501 steps."),
        ((150, 150, 150, 150, 150), (150, 150, 150, 50), "The other 250 are in the records"),
    ],
    ids=str,
)
def test_a_page_shows_so_many_steps_and_says_where_the_others_are(tmp_path, counts, shown, left_out) -> None:
    assert MOST_STEPS == 500
    records = [with_steps(count, number) for number, count in enumerate(counts)]
    tables = step_tables(records)
    assert tuple(len(table.rows) for table in tables) == shown
    first_of_last = column(tables[-1], "Step")[0]
    assert first_of_last.sort == 0
    path = make.write_records(tmp_path / "records.jsonl", records)
    build_report([path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert ("Shown: the first" in page) == (left_out is not None)
    if left_out:
        assert left_out in page


def test_a_cache_that_leaves_its_plan_is_reported() -> None:
    good = make.record(number=0)
    steps = list(good.outcome.cache)
    steps[4] = steps[4].model_copy(update={"live_bytes": steps[4].live_bytes + 1})
    bad = make.record(number=1, cache_steps=tuple(steps))
    cells = column(cache_table([good, bad]), "Live equals plan at every step")
    assert [(cell.text, cell.tone) for cell in cells] == [("yes", "good"), ("no", "bad")]


def test_memory_that_a_machine_does_not_count_is_an_empty_cell() -> None:
    memory = Memory(
        weights_bytes=2**20,
        cache_planned_bytes=0,
        cache_live_bytes=0,
        cache_allocated_bytes=0,
        tokens_peak_bytes=None,
        decode_peak_bytes=None,
        source="process-rss",
        peak_bytes=None,
        reserved_bytes=None,
        device_used_bytes=None,
    )
    table = memory_table([make.record(memory=memory)])
    assert {c.label for c in table.columns}.isdisjoint({"Reserved", "Peak", "Decode, above idle"})
    assert column(table, "Cache live")[0].text == "0"


def test_deviations_are_listed_one_by_one() -> None:
    table = deviations_table([make.record(settings={"cfg": 4.0, "top_k": None})])
    assert [(row[1].text, row[2].text) for row in table.rows] == [("cfg", "4.0"), ("top_k", "none")]


def test_cases_of_one_machine_share_an_environment_and_its_clocks_become_a_range() -> None:
    hot = make.GPU.model_copy(update={"sm_clock_mhz": 1200, "throttle_reasons": ("thermal",)})
    tables_ = environment_tables(
        [make.record(number=0, gpu=make.GPU), make.record(number=1, gpu=hot), make.record(number=2)]
    )
    assert len(tables_) == 2
    fields = {row[0].text: row[1].text for row in tables_[0].rows}
    assert fields["SM clock"] == "1200 to 1980 MHz"
    assert fields["Throttling"] == "thermal"
    assert fields["Source sha256"] == "5f" * 32


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells for 1"):
        Table(caption="t", columns=(Column("a", cell=lambda row: Cell()),), rows=((Cell(), Cell()),))


def test_empty_columns_are_left_out_but_the_first() -> None:
    blank = [Column(label, cell=lambda row: Cell()) for label in "ab"]
    table = make_table("t", [*blank, Column("c", cell=lambda row: Cell(text=row))], ["x"])
    assert [c.label for c in table.columns] == ["a", "c"]


def test_the_terminal_shows_every_case_its_number_and_its_reason(records: list[Record]) -> None:
    text = in_terminal(*records, width=160, color=True)
    assert all(record.status.value in text for record in records)
    assert "out of memory: needs 9.1 GiB" in text
    for record in records:
        if record.status is Status.OK:
            timing = next(t for t in record.outcome.timings if t.scope == "images")
            assert f"{images_per_second(timing).value:.3g}" in text


@pytest.mark.parametrize(("protocols", "width"), [("a", 80), ("ab", 110)])
def test_a_narrow_terminal_cuts_neither_numbers_nor_words(protocols: str, width: int) -> None:
    rng = np.random.default_rng(0)
    records = [
        make.record("demo/var", number=i, weights="demo", quality=make.quality_numbers(rng, protocol))
        for i, protocol in enumerate(protocols)
    ]
    text = re.sub(r"\x1b\[[0-9;]*m", "", in_terminal(*records, width=width, color=True))
    table = results_table(records)
    cells = [(c.label, row[i]) for row in table.rows for i, c in enumerate(table.columns)]
    assert all(cell.text in text for label, cell in cells if label in ("Throughput", "Cache peak"))
    quality = [cell for label, cell in cells if label in ("FID", "Label accuracy") and cell.sort is not None]
    assert quality and all(significant(float(cell.sort), 3) in text for cell in quality)
    assert "optimized" in text
    assert max(map(len, text.splitlines())) <= width


def test_markup_and_escape_sequences_in_names_do_nothing_in_a_terminal() -> None:
    text = in_terminal(make.record(case_id="[red]x[/]\x1b[2Jy"), width=160, color=True)
    assert "[red]x[/]" in text
    assert "\x1b[2J" not in text


def test_what_all_cases_share_stands_once_in_the_title() -> None:
    records = [make.record("demo/var", number=i, batch=batch, weights="demo") for i, batch in enumerate((1, 16))]
    title, *rest = in_terminal(*records, width=100, color=True).splitlines()
    assert "demo/var" in title
    assert "demo/var" not in "".join(rest)
    assert [line.split()[:3] for line in re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(rest)).splitlines()[2:4]] == [
        ["1", "ok", "15.6"],
        ["16", "ok", "39.4"],
    ]


def demo_records() -> list[Record]:
    """Sixteen cases of the demo suite, which differ in batch, backend and a setting."""
    quality = make.quality_numbers(np.random.default_rng(0))
    models = [f"demo/{family}" for family in ("var", "mvar", "hmar", "llamagen", "nar", "par", "flexvar")]
    single = [make.record(model, weights="demo", case_id=f"{model} optimized b1 float32 cpu") for model in models]
    words = "optimized b50 float32 cpu uint8_rule=round quality(digits-cnn)"
    many = [
        make.record(model, weights="demo", batch=50, case_id=f"{model} {words}", quality=quality) for model in models
    ]
    records = [*single, *many, make.record("demo/var", weights="demo", batch=50, backend="reference")]
    return [record.model_copy(update={"record_id": f"{place:04d}"}) for place, record in enumerate(records)]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_row_of_a_table_of_cases_wraps(width: int) -> None:
    records = demo_records()
    lines = in_terminal(*records, width=width).splitlines()
    assert max(map(len, lines)) <= width
    rules = [place for place, line in enumerate(lines) if line.startswith("──")]
    rows = [lines[rule + 1 : rule + 1 + count] for rule, count in zip(rules, (len(records), 7), strict=True)]
    assert all(line.startswith("demo/") for part in rows for line in part)
    assert [part[-1].split()[0] for part in rows] == ["demo/var", "demo/flexvar"]
    assert "uint8_rule=round" in "\n".join(lines)


def test_a_sweep_of_a_setting_has_a_column_and_a_long_setting_a_note() -> None:
    def case(number: int, settings: str) -> Record:
        case_id = f"demo/var optimized b1 float32 cpu {settings}"
        return make.record("demo/var", number=number, weights="demo", case_id=case_id)

    head = in_terminal(case(0, "cfg=1.5"), case(1, "cfg=2.0"), width=80).splitlines()[1]
    assert head.split()[:2] == ["cfg", "Status"]
    scales = "1_2_4_6x8_12x16_20x24_and_more_than_there_is_room_for"
    text = in_terminal(case(0, f"scales={scales}"), case(1, "scales=1_2"), width=80)
    assert f"a scales={scales}" in text and "b scales=1_2" in text


def test_an_unsteady_throughput_is_flagged_and_no_other() -> None:
    shaken = WarmUp(samples_ns=(9, 5, 7), steady=False)
    records = [make.record(number=0), make.record(number=1, batch=4, warmup=shaken)]
    assert [cell.flags for cell in column(results_table(records), "Throughput")] == [(), (UNSTEADY,)]


def test_unsteady_times_say_what_was_seen() -> None:
    load = HostLoad(cores=2, load_average=3.2, other_cores=1.4, stolen_cores=0.2, slowdown=1.92)
    records = [
        make.record(number=0, warmup=WarmUp(samples_ns=(9, 5, 7), steady=False), host_load=load),
        make.record(number=1, batch=4, warmup=WarmUp(samples_ns=(9,), steady=False)),
        make.record(number=2, batch=8, warmup=WarmUp(samples_ns=(100, 101, 102), steady=False)),
        make.record(number=3, batch=16),
    ]
    text = " ".join(in_terminal(*records, width=80).split())
    assert "the last warm-up calls differed by 80 %" in text
    assert "1 warm-up call, of 3 that are needed" in text
    assert "times still rose or fell in the timed calls" in text
    assert "other processes kept 1.4 of 2 cores busy meanwhile (load average 3.2)" in text
    assert "the hypervisor took 0.20 cores away" in text
    assert "the machine was slower at times: a fixed computation took up to 1.9 times its shortest time" in text
    assert "unsteady" not in in_terminal(records[3])


@pytest.mark.parametrize(("load", "said", "unsaid"), [
    ({"slowdown": 2.0}, "the processor changed its speed: a fixed computation took up to 2.0 times", "themselves"),
    ({"slowdown": 2.0, "other_cores": 0.4}, "the machine was slower at times: a fixed computation", "which is little"),
    ({"slowdown": 2.0, "stolen_cores": 0.1}, "the machine was slower at times: a fixed", "the processor changed"),
    ({"slowdown": 1.01}, "0.015 of 2 cores busy meanwhile (load average 0.50), which is little", "fixed computation"),
    ({"slowdown": 1.01}, "nothing that moved on the machine was seen: the calls themselves vary", "slower"),
    ({"slowdown": None}, "which is little", "the calls themselves vary"),
    ({"other_cores": 3.4e-12}, "other processes kept 0 of 2 cores busy", "e-12"),
    ({"slowdown": 1.0, "other_cores": 1.5}, "other processes kept 1.5 of 2 cores busy", "the calls themselves vary"),
])  # fmt: skip
def test_unsteady_times_say_what_moved(load, said, unsaid) -> None:
    quiet = HostLoad(cores=2, load_average=0.5, other_cores=0.015, stolen_cores=0.0, slowdown=1.0)
    warmup = WarmUp(samples_ns=(9, 5, 7), steady=False)
    text = unsteady_text([make.record(warmup=warmup, host_load=quiet.model_copy(update=load))])
    assert said in text and unsaid not in text


def test_columns_that_say_nothing_move_into_the_caption_of_the_results() -> None:
    records = [make.record("demo/var", number=i, batch=batch, weights="demo") for i, batch in enumerate((1, 16))]
    table = results_table(records)
    assert "model demo/var" in table.caption
    assert "Model" not in [column.label for column in table.columns]
    assert "Model" in [column.label for column in results_table(records[:1]).columns]


@pytest.mark.parametrize("ns", [(), (0,), (-5, 3), (10**30,)])
def test_a_probe_without_a_measurement_is_an_empty_cell(ns) -> None:
    times = ControlTimes(gemm_ns=ns, copy_ns=(1, 2), host_ns=())
    table = machine_table([make.record(control=Control(work="w", before=times, after=times))])
    assert len(table.rows) == 1
