"""The table of steps states inner passes where there are some, and only there."""

from __future__ import annotations

from records import record

from arvbench.reports.tables.measures import step_tables


def headings(passes: int) -> list[str]:
    made = record()
    outcome = made.outcome
    plan = tuple(step.model_copy(update={"inner_passes": passes}) for step in outcome.setup.plan)
    outcome = outcome.model_copy(update={"setup": outcome.setup.model_copy(update={"plan": plan})})
    (table,) = step_tables([made.model_copy(update={"outcome": outcome})])
    return [column.heading for column in table.columns]


def test_inner_passes_and_their_time_are_columns_of_models_that_have_some():
    assert not {"Inner passes", "Time of a pass (ms)"} & set(headings(1))
    with_passes = headings(4)
    at = with_passes.index("Time (ms)")
    assert with_passes[at + 1 : at + 3] == ["Inner passes", "Time of a pass (ms)"]
    assert [h for h in with_passes if h not in ("Inner passes", "Time of a pass (ms)")] == headings(1)
