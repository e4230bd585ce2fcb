"""The table of drift has a row for every lossy case, and no other."""

from __future__ import annotations

from drifts import drift
from records import record

from arvbench.reports.tables.drift import drift_table
from arvbench.results.schema import Record


def with_drift(number: int, **changes) -> Record:
    plain = record(number=number)
    return plain.model_copy(update={"outcome": plain.outcome.model_copy(update={"drift": drift(**changes)})})


def cells(records, heading):
    table = drift_table(records)
    index = next(i for i, column in enumerate(table.columns) if column.label.startswith(heading))
    return [row[index].text for row in table.rows]


def test_lossy_cases_have_a_row_with_intervals_and_sampling():
    records = [record(), with_drift(1), with_drift(2, psnr_db=None, first_diverging=(None,) * 4)]
    assert cells(records, "Equal tokens, same path") == ["50.0 [25.0, 75.0]"] * 2
    assert cells(records, "First other step")[0] == "3.00"
    assert cells(records, "Sampling")[0] == "temperature 0.7, top-k 900, top-p 1"
    assert len(cells(records, "SSIM")) == 2


def test_without_a_lossy_case_the_table_is_empty():
    assert drift_table([record()]).rows == ()


def test_a_record_with_drift_is_read_as_it_was_written():
    written = with_drift(1)
    assert Record.model_validate_json(written.model_dump_json()) == written
