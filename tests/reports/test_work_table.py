"""The table of work: speed-up is the product of its two factors."""

from __future__ import annotations

import pytest
from records import record

from arvbench.reports.cases import measured
from arvbench.reports.tables.work import gain, work_table
from arvbench.results.schema import CaseWork


def with_work(number, *, method=None, half=False):
    made = record(number=number)
    outcome = made.outcome
    if half:
        plan = tuple(step.model_copy(update={"flops": step.flops // 2}) for step in outcome.setup.plan)
        outcome = outcome.model_copy(update={"setup": outcome.setup.model_copy(update={"plan": plan})})
    work = CaseWork(forward_passes=3, tokens_forwarded=40, layer_tokens=160, attention_pairs=9_000)
    return made.model_copy(
        update={
            "outcome": outcome.model_copy(update={"work": work}),
            "case": made.case.model_copy(update={"method": method}),
        }
    )


def test_speed_up_is_work_saved_times_efficiency():
    records = [with_work(1), with_work(2, method="skip:1", half=True)]
    plain, skipped = measured(records)
    found = gain(skipped, plain)
    assert found.saved == pytest.approx(2, rel=1e-6)
    assert found.speed_up == pytest.approx(found.saved * found.efficiency)
    assert gain(plain, plain) is None
    assert gain(skipped, None) is None


def test_every_case_with_known_work_has_a_row():
    table = work_table([record(number=0), with_work(1), with_work(2, method="skip:1", half=True)])
    assert len(table.rows) == 2
    headings = [column.label for column in table.columns]
    assert headings[-3:] == ["Speed-up", "Work saved", "Efficiency"]
    assert [cell.text for cell in table.rows[1]][-2] == "2.00"


def test_records_without_work_give_no_table():
    assert work_table([record()]).rows == ()
