"""The table of drift has a row for every lossy case, and no other."""

from __future__ import annotations

from records import record

from arvbench.reports.tables.drift import drift_table
from arvbench.results.drift import Average, Drift, DriftStep
from arvbench.results.schema import Record


def drift(**changes) -> Drift:
    half = Average(mean=0.5, interval=(0.25, 0.75))
    made = {
        "against": "static",
        "images": 4,
        "seed": 1,
        "temperature": 0.7,
        "top_k": 900,
        "top_p": None,
        "steps": (DriftStep(step=0, name="scale 1x1", forced_agreement=1, free_agreement=1, kl=0),),
        "forced_agreement": half,
        "free_agreement": half,
        "kl": half,
        "first_diverging": (2, 4, None, 3),
        "identical_images": 1,
        "psnr_db": Average(mean=30, interval=(20, 40)),
        "ssim": half,
        "ssim_library": "made up",
    }
    return Drift(**made | changes)


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
