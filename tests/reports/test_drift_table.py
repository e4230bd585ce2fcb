"""The table of drift has a row for every lossy case, and no other."""

from __future__ import annotations

from drifts import drift, latent_drift
from records import record
from report_text import column

from arvbench.reports.data import table_data
from arvbench.reports.table import MISSING, NOTHING
from arvbench.reports.tables.capacity import capacity_table
from arvbench.reports.tables.drift import drift_table
from arvbench.results.schema import Record


def with_drift(number: int, **changes) -> Record:
    plain = record(number=number)
    return plain.model_copy(update={"outcome": plain.outcome.model_copy(update={"drift": drift(**changes)})})


def cells(records, heading):
    table = drift_table(records)
    index = next(i for i, column in enumerate(table.columns) if column.label.startswith(heading))
    return [f"{row[index].text} {row[index].detail}".rstrip() for row in table.rows]


def test_lossy_cases_have_a_row_with_intervals_and_sampling():
    records = [record(), with_drift(1), with_drift(2, psnr_db=None, first_diverging=(None,) * 4)]
    assert cells(records, "Equal tokens, same path") == ["50.0 [25.0, 75.0]"] * 2
    assert cells(records, "First other step")[0] == "3.00"
    assert cells(records, "Sampling")[0] == "temperature 0.7, top-k 900, top-p 1"
    assert len(cells(records, "SSIM")) == 2


def test_numbers_sort_by_value_and_not_as_words():
    shares = [drift().free_agreement.model_copy(update={"mean": mean}) for mean in (0.9, 1.0, 0.05)]
    table = drift_table([with_drift(number, free_agreement=share) for number, share in enumerate(shares)])
    found = [cell.sort for cell in column(table, "Equal tokens, own path")]
    assert found == [90.0, 100.0, 5.0]
    values = table_data(table)
    assert [row[values.headings.index("Equal tokens, own path (%)")] for row in values.rows] == found


def test_every_column_of_numbers_of_a_whole_report_has_numbers_to_sort_by(records):
    for table in (drift_table(records), capacity_table(records)):
        for place, heading in enumerate(table.columns):
            if heading.numeric:
                sorts = [row[place].sort for row in table.rows if row[place] != NOTHING]
                assert sorts and all(isinstance(key, float) for key in sorts), heading.label


def test_latents_have_a_distance_in_the_place_of_equal_tokens():
    both = [with_drift(1), with_drift(2, **dict(latent_drift()))]
    assert cells(both, "Latents apart, own path")[1] == "10.0 [5.00, 20.0]"
    assert cells(both, "Equal tokens, own path")[1] == cells(both, "Sampling")[1] == MISSING
    assert cells(both, "SSIM")[0] == cells(both, "SSIM")[1]
    assert not [column for column in drift_table(both[:1]).columns if column.label.startswith("Latents")]


def test_without_a_lossy_case_the_table_is_empty():
    assert drift_table([record()]).rows == ()


def test_a_record_with_drift_is_read_as_it_was_written():
    written = with_drift(1)
    assert Record.model_validate_json(written.model_dump_json()) == written
