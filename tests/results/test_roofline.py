"""Floors, ceilings and the table of GPUs: arithmetic, and input that is none."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import records as make
from pydantic import ValidationError

from arvbench.errors import UserError
from arvbench.reports.tables.measures import step_tables
from arvbench.reports.tables.roofline import ceilings_table, floor_table, no_floors_table, scope_floors
from arvbench.results.ceilings import Ceilings, Series
from arvbench.results.gpus import GPUS_FILE, StatedGpu, gpu_named, stated_gpus
from arvbench.results.records import read_records
from arvbench.results.roofline import Machine, Piece, floor_of, scope_works, stated_machine, total
from arvbench.results.schema import Record

MACHINE = Machine(
    name="made up",
    flops_per_s={"float32": 1e9, "bfloat16": 4e9},
    copies=((1000.0, 10e9), (1e6, 1e9)),
    launch_ns=50.0,
)


def piece(flops: int, moved: int | None, **more) -> Piece:
    return Piece(flops=flops, bytes_moved=moved, dtype=more.pop("dtype", "float32"), **more)


def test_a_floor_is_the_longer_of_both_with_the_launches_on_top():
    compute = floor_of(piece(3000, 1000, launches=2), MACHINE)
    assert compute is not None and compute.bound == "compute"
    assert (compute.compute_ns, compute.memory_ns, compute.ns) == (3000, 100, 3100)
    memory = floor_of(piece(30, 10_000), MACHINE)
    assert memory is not None and (memory.bound, memory.ns) == ("memory", 10_000)
    launched = floor_of(piece(30, 100, launches=4), MACHINE)
    assert launched is not None and (launched.bound, launched.ns) == ("launches", 230)


def test_a_copy_of_the_size_of_the_traffic_sets_its_ceiling():
    assert [MACHINE.bytes_per_s(size) for size in (1, 1000, 1001, 10**9)] == [10e9, 10e9, 1e9, 1e9]


def test_products_in_float32_have_the_ceiling_of_float32():
    floor = floor_of(piece(4000, 0, dtype="bfloat16", fp32_flops=1000), MACHINE)
    assert floor is not None and floor.ns == 750 + 1000


def test_unknown_traffic_leaves_the_floor_of_the_arithmetic():
    floor = floor_of(piece(100, None), MACHINE)
    assert floor is not None and (floor.ns, floor.memory_ns) == (100, 0)


def test_a_data_type_without_ceiling_has_no_floor_and_neither_has_a_sum_with_it():
    assert floor_of(piece(1, 1, dtype="float16"), MACHINE) is None
    assert total([floor_of(piece(1, 1), MACHINE), None]) is None and total([]) is None


def test_floors_of_pieces_add_up_and_the_larger_share_binds():
    both = total([floor_of(piece(3000, 1000), MACHINE), floor_of(piece(30, 10_000), MACHINE)])
    assert both is not None and (both.ns, both.compute_ns, both.memory_ns, both.bound) == (
        13_000,
        3000,
        10_000,
        "memory",
    )


def test_a_record_has_floors_of_every_step_and_scope():
    record = make.record(batch=2)
    works = scope_works(record, record.outcome)
    assert list(works) == [*(f"step[{index}]" for index in range(10)), "tokens", "decode", "images"]
    assert works["images"].floor.ns == pytest.approx(works["tokens"].floor.ns + works["decode"].floor.ns)
    assert works["tokens"].flops == sum(step.flops for step in record.outcome.setup.plan)
    # 60 GFLOP/s, and 10 GB/s for all that is larger than the largest copy.
    assert works["step[9]"].floor.ns == pytest.approx(2 * 2 * 256 * 4e8 / 60)
    assert works["step[0]"].floor.ns == pytest.approx(6e8 / 10)
    whole = {scope: works[scope] for scope in ("tokens", "decode", "images")}
    assert scope_works(record, record.outcome, steps=False) == whole
    rows = scope_floors([record])[record.record_id]
    assert len(rows) == 13 and all(row.share is not None and row.share > 0 for row in rows)


def test_a_case_on_a_gpu_counts_its_half_precision_and_its_tiny_kernels():
    record = make.record(gpu=make.GPU, dtype="bfloat16")
    table = ceilings_table([record, make.record(number=1, gpu=make.GPU, dtype="bfloat16")])
    (row,) = table.rows
    shown = {
        f"{column.label} {column.note}".strip(): cell.text for column, cell in zip(table.columns, row, strict=True)
    }
    assert shown["Cases"] == "2" and shown["Copy 16.8 MB moved"] == "6000" and shown["Tiny kernel"] == "1.00"
    assert (shown["Products bfloat16"], shown["Products float32"]) == ("600000", "50000")
    step = scope_works(record, record.outcome)["step[9]"]
    assert step.floor.compute_ns == pytest.approx(2 * 256 * 4e8 / 600_000)


def test_an_older_record_has_no_floors_and_the_page_says_why():
    plain, older = make.record(number=1), make.record(number=2, ceilings=None)
    assert scope_works(older, older.outcome) == {} and floor_table([older]).rows == ()
    labels = [[column.label for column in step_tables([record])[0].columns] for record in (plain, older)]
    assert "Floor" in labels[0] and not {"Floor", "Floor of time", "Bound by"} & set(labels[1])
    (row,) = no_floors_table([plain, older]).rows
    assert "earlier version" in row[1].text and no_floors_table([plain]).rows == ()
    many = [make.record(number=number, ceilings=None) for number in range(7)]
    assert no_floors_table(many).rows[0][0].text.endswith("and 3 more")


def test_records_from_before_these_fields_stay_readable():
    fields = json.loads(make.record().model_dump_json())
    del fields["outcome"]["ceilings"]
    for name in ("decode_bytes", "decode_dtype"):
        del fields["outcome"]["setup"][name]
    older = Record.model_validate(fields)
    assert older.outcome.ceilings is None and older.outcome.setup.decode_bytes is None
    assert Record.model_validate_json(older.model_dump_json()) == older


@pytest.mark.parametrize("bad", [0, -5, "NaN", float("nan"), float("inf"), None])
@pytest.mark.parametrize("field", ["work", "samples_ns"])
def test_a_ceiling_of_nothing_is_refused(field, bad, tmp_path: Path):
    fields = json.loads(make.record().model_dump_json())
    series = fields["outcome"]["ceilings"]["copies"][0]
    series[field] = [bad] if field == "samples_ns" else bad
    with pytest.raises(ValidationError):
        Record.model_validate(fields)
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(fields) + "\n")
    assert len(read_records(file).records) == 0


def test_a_series_without_runs_and_ceilings_without_copies_are_refused():
    with pytest.raises(ValidationError):
        Series(work=1, samples_ns=())
    with pytest.raises(ValidationError):
        Ceilings(method="", copies=(), matmul={"float32": Series(work=1, samples_ns=(1,))})


def test_every_gpu_of_the_table_has_rates_and_the_document_they_are_from():
    table = stated_gpus()
    assert {"A100-40GB-SXM", "A100-80GB-SXM", "H100-SXM", "H100-PCIe", "H200-SXM", "L4", "L40S"} <= set(table)
    for gpu in table.values():
        assert gpu.float32_tflop_s <= gpu.tf32_tflop_s <= gpu.bfloat16_tflop_s == gpu.float16_tflop_s
        assert any(word in gpu.source for word in ("datasheet", "data sheet", "whitepaper", "Technical Brief"))
        assert set(stated_machine(gpu).flops_per_s) == {"float32", "bfloat16", "float16"}
    with GPUS_FILE.open(newline="") as lines:
        assert csv.DictReader(lines).fieldnames == list(StatedGpu.model_fields)


def test_a_gpu_is_found_in_any_case_and_an_unknown_one_lists_the_known():
    assert gpu_named("h200-sxm").bandwidth_gb_s == 4800
    with pytest.raises(UserError, match=r"'H300'.*known: A100-40GB-SXM, .*MI300X"):
        gpu_named("H300")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "", "fast"])
def test_a_line_of_the_table_without_a_rate_is_refused(value, tmp_path: Path):
    header, first, *_ = GPUS_FILE.read_text().splitlines()
    file = tmp_path / "gpus.csv"
    file.write_text(f"{header}\n{first.replace(',1555,', f',{value},')}\n")
    with pytest.raises(ValueError, match="bandwidth_gb_s"):
        stated_gpus(file)
    file.write_text(f"{header}\n{first}\n{first}\n")
    stated_gpus.cache_clear()
    with pytest.raises(ValueError, match="twice"):
        stated_gpus(file)
