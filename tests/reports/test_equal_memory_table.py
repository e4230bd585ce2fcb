"""Two rows for every cache policy, on the page, in a terminal of 80 columns and in the figure."""

from __future__ import annotations

import numpy as np
import pytest
from drifts import drift
from records import capacity, quality_numbers, record
from report_text import column, in_terminal

from arvbench.reports.figures import equal_memory
from arvbench.reports.svg import draw_figure
from arvbench.reports.tables.equal_memory import equal_memory_table
from arvbench.results.schema import Record


def policy(name: str, number: int, *, per_image: int, quality: bool = True, lossy: bool = False) -> Record:
    made = record(
        "demo/var",
        number=number,
        cache=name,
        weights="demo" if quality else "random:0",
        capacity=capacity(per_image=per_image),
        quality=quality_numbers(np.random.default_rng(number)) if quality else (),
    )
    setup = made.outcome.setup.model_copy(update={"lossy": (f"cache {name}",) if lossy else ()})
    update = {"setup": setup, "drift": drift() if lossy else None}
    return made.model_copy(update={"outcome": made.outcome.model_copy(update=update)})


def two(*, quality: bool = True) -> list[Record]:
    return [
        policy("static", 1, per_image=2_000_000, quality=quality),
        policy("window:2", 2, per_image=1_000_000, quality=quality, lossy=True),
    ]


def test_every_policy_has_two_rows_and_its_quality_in_both():
    table = equal_memory_table(two())
    assert [cell.text for cell in column(table, "Policy")] == ["static", "static", "window:2", "window:2"]
    assert [cell.text for cell in column(table, "The same")] == ["batch", "memory"] * 2
    assert [cell.text for cell in column(table, "Batch")] == ["1", "50", "1", "100"]
    fids = [cell.text for cell in column(table, "FID")]
    assert fids[0] == fids[1] != fids[2] == fids[3]
    assert [cell.text for cell in column(table, "Tokens as the static cache")] == ["100", "100", "50.0", "50.0"]
    times = [cell.text for cell in column(table, "Times the first policy")]
    assert times[:2] == ["1.00", "1.00"] and float(times[3]) > 1


def test_without_several_policies_or_searches_there_is_no_table():
    assert not equal_memory_table([record(capacity=None)])
    assert not equal_memory_table([])


def test_a_terminal_of_80_columns_shows_both_rows_without_wrapping():
    text = in_terminal(*two(), width=80)
    part = text[text.index("Caches at the same batch and memory: demo/var") :]
    rows = [line for line in part.splitlines() if line.startswith(("static", "window:2"))]
    assert [row.split()[1] for row in rows] == ["batch", "memory"] * 2
    assert all(len(line) <= 80 for line in part.splitlines()[:8])
    assert "Caches at the same" not in in_terminal(two()[0], width=80)


@pytest.mark.parametrize(("quality", "says"), [(True, "FID (no unit, lower is better)"), (False, "Tokens as static")])
def test_the_figure_has_quality_where_all_policies_have_it_and_else_drift(quality, says):
    drawing = draw_figure("equal-memory", equal_memory.draw, two(quality=quality))
    assert drawing is not None
    left, right = drawing.figure.axes
    assert left.get_ylabel().startswith(says)
    hollow = [line.get_markerfacecolor() == "none" for line in right.lines if line.get_linestyle() == "None"]
    assert hollow == [True, False, True, False]
    assert "at batch 100" in drawing.alt
    assert ("(random)" in left.get_title(loc="left")) is not quality


def test_a_policy_without_quality_and_drift_is_left_to_the_table():
    silent = policy("static", 1, per_image=2_000_000, quality=False)
    setup = silent.outcome.setup.model_copy(update={"lossy": None})
    silent = silent.model_copy(update={"outcome": silent.outcome.model_copy(update={"setup": setup})})
    assert equal_memory.draw([silent]) is None and equal_memory_table([silent])
