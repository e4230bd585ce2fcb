"""The table of energy: numbers with both idle and gross, or the reason why there are none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from records import record

from arvbench.reports.tables.energy import best_batch_table, energy_blocks, energy_lines, energy_table
from arvbench.results.energy import Energy, EnergyWindow
from arvbench.results.schema import CaseConfig, Record


def window(kind: str, counter_j: float | None, power_j: float | None) -> EnergyWindow:
    images = 20 if kind == "work" else 0
    return EnergyWindow(kind=kind, duration_ns=10**10, images=images, counter_j=counter_j, power_j=power_j)


MEASURED = Energy(
    source="nvml",
    counts="the board",
    rule="repeat until 10 s have passed",
    windows=(window("idle", 500, 510), window("work", 2000, 2100)),
)
ABSENT = Energy(source=None, reason="no counter\there")


def with_energy(number: int, energy: Energy | None) -> Record:
    plain = record(number=number, batch=number + 1)
    return plain.model_copy(update={"outcome": plain.outcome.model_copy(update={"energy": energy})})


def texts(row) -> list[str]:
    return [cell.text for cell in row]


def test_numbers_of_the_counter_and_of_power_stand_side_by_side():
    table = energy_table([with_energy(0, MEASURED)])
    row = dict(zip([(c.label, c.note) for c in table.columns], texts(table.rows[0]), strict=True))
    assert row["Net", "counter"] == "75.0" and row["Gross", "counter"] == "100"
    assert row["Net", "power"] == "79.5" and row["Gross", "power"] == "105"
    assert row["Idle", ""] == "50.0" and row["At work", ""] == "200" and row["Counts", ""] == "the board"


def test_an_absent_energy_is_said_with_its_reason_once():
    records = [with_energy(0, ABSENT), with_energy(1, ABSENT), with_energy(2, None)]
    assert [texts(row)[-1] for row in energy_table(records).rows] == ["energy absent: no counter here"] * 2
    assert energy_lines(records) == ["2 cases: energy absent: no counter here"]


def test_a_line_names_net_idle_and_gross():
    (line,) = energy_lines([with_energy(0, MEASURED)])
    assert "energy 75.0 J/image net of 50.0 W idle, 100 gross, by nvml counter" in line


def test_disagreement_and_a_net_energy_of_nothing_are_remarks():
    apart = MEASURED.model_copy(update={"windows": (window("idle", 500, 510), window("work", 2000, 3500))})
    nothing = MEASURED.model_copy(update={"windows": (window("idle", 500, None), window("work", 490, None))})
    assert "disagree by 75 %" in energy_lines([with_energy(0, apart)])[0]
    assert "below what can be measured" in energy_lines([with_energy(0, nothing)])[0]


def test_cases_that_asked_for_none_have_no_section_and_unchanged_records():
    assert energy_blocks([record()]) == [] and energy_lines([record()]) == []
    assert "energy" not in CaseConfig(model="m", weights="demo").model_dump()


@pytest.mark.parametrize("request_", [{"windows": 0}, {"windows": True}, {"window_s": 0}, {"window_s": "long"},
                                      {"step": -1}, {"watts": 3}])  # fmt: skip
def test_requests_that_make_no_sense_are_refused(request_):
    with pytest.raises(ValidationError):
        CaseConfig(model="m", weights="demo", energy=request_)


def test_the_best_batch_has_the_least_net_energy():
    more = MEASURED.model_copy(update={"windows": (window("idle", 500, 510), window("work", 2400, 2500))})
    records = [with_energy(0, more), with_energy(3, MEASURED), with_energy(6, more), with_energy(8, ABSENT)]
    table = best_batch_table(records)
    (row,) = table.rows
    assert [cell.text for cell in row][1:] == ["4", "75.0", "100", "1: 95.0 J, 7: 95.0 J"]
    assert best_batch_table(records[:1]).rows == ()
    assert len(energy_blocks(records)) == 3 == len(energy_blocks(records[:1])) + 1
