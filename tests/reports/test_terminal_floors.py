"""Steps beside their floors in the table that a run prints: 80 columns, every measured step, few rows."""

from __future__ import annotations

import pytest
import records as make
from rich.console import Console

from arvbench.reports.numbers import EN_DASH
from arvbench.reports.tables.terminal_floors import MOST_CASES, MOST_ROWS, step_floors
from arvbench.results.schema import Measured


def printed(*records, width: int = 80) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(step_floors(records, width=width))
    return capture.get()


def table_of(text: str) -> list[list[str]]:
    """Return the rows of the only table, cell by cell; the name of a step has several words."""
    return [line.split() for line in text.splitlines()[4:]]


def with_plan(record, **changes):
    outcome = record.outcome
    plan = tuple(step.model_copy(update=changes) for step in outcome.setup.plan)
    setup = outcome.setup.model_copy(update={"plan": plan})
    return record.model_copy(update={"outcome": outcome.model_copy(update={"setup": setup})})


def test_every_step_and_scope_has_its_time_its_floor_and_what_binds_it_in_80_columns():
    record = with_plan(make.record(model="var-d16", batch=8), launches=83)
    text = printed(record)
    assert 60 < max(map(len, text.splitlines())) <= 80
    rows = table_of(text)
    assert isinstance(record.outcome, Measured)
    steps = len(record.outcome.setup.plan)
    assert [row[0] for row in rows] == [*map(str, range(steps)), "tokens", "decode", "images"]
    assert all(row[-1] == "83" for row in rows[:steps])
    assert [row[-1] for row in rows[steps:]] == [f"{83 * steps}", EN_DASH, f"{83 * steps}"]
    assert all(row[-2] in ("compute", "memory", "launches") for row in rows)


def test_many_steps_share_rows_whose_times_and_floors_add_up():
    record = make.record(model="var-d16", batch=1)
    outcome = record.outcome
    plan = [outcome.setup.plan[0].model_copy(update={"index": n, "launches": 2}) for n in range(100)]
    timing = next(t for t in outcome.timings if t.scope == "step[0]")
    timings = [timing.model_copy(update={"scope": f"step[{n}]", "samples_ns": (2_000_000,)}) for n in range(100)]
    setup = outcome.setup.model_copy(update={"plan": tuple(plan)})
    outcome = outcome.model_copy(update={"setup": setup, "timings": tuple(timings)})
    rows = table_of(printed(record.model_copy(update={"outcome": outcome})))
    assert len(rows) <= MOST_ROWS and (rows[0][0], rows[-1][0]) == (f"0{EN_DASH}8", "99")
    assert sum(float(row[-5]) for row in rows) == pytest.approx(200)
    assert sum(int(row[-1]) for row in rows) == 200


def test_only_the_first_cases_are_printed_and_the_others_counted():
    text = printed(*(make.record(model="var-d16", batch=batch) for batch in range(1, MOST_CASES + 3)))
    assert text.count("Steps and floors: ") == MOST_CASES
    assert "steps and floors of 2 more cases: in the report" in text


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_gets_fewer_columns_and_no_wrapped_row(width):
    lines = printed(make.record(model="var-d16", weights="demo", case_id="a long name " * 9), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == [*map(str, range(len(make.SIDES)))]


def test_a_record_without_ceilings_has_no_floors_to_print():
    record = make.record(model="var-d16", batch=1)
    bare = record.model_copy(update={"outcome": record.outcome.model_copy(update={"ceilings": None})})
    assert "Steps and floors" not in printed(bare)
