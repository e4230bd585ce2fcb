"""Bodies of tables on the page: the sort keys that their cells carry, and the size of a page."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import records as make

from arvbench.reports.build import build_report
from arvbench.reports.html import rows
from arvbench.reports.numbers import count_cell, number_cell, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, make_table


def body(cell: Cell, **options: bool) -> str:
    """Write a row of a name and `cell`; return the second cell."""
    columns = [Column("Name", cell=lambda _: text_cell("row")), Column("Value", cell=lambda _: cell, **options)]
    table = make_table("t", [*columns, Column("Last", cell=lambda _: text_cell("x"))], [None])
    found = re.fullmatch(r'<tr><th scope="row">row</th>(.*)<td>x</td></tr>\n', rows(table))
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        (count_cell(50_000), "50,000"),
        (count_cell(0), "0"),
        (number_cell(12.5), "12.5"),
        (number_cell(-0.25), "-0.250"),
        (Cell(text="1.2e-06", sort=1.2e-6), "1.2e-06"),
        (number_cell(math.inf), "∞"),
        (number_cell(math.nan), "not a number"),
    ],
)
def test_a_number_that_says_its_value_needs_no_key(cell: Cell, written: str) -> None:
    assert body(cell, numeric=True) == f'<td class="number">{written}</td>'


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        (number_cell(15.6349), "15.6349"),
        (number_cell(15.5812), "15.5812"),
        (number_cell(1 / 3), "0.333333"),
        (Cell(text="256 x 128", sort=256.0), "256"),
        (Cell(text="∞", sort=math.inf), "Infinity"),
        (Cell(text="5"), ""),
        (Cell(text="1_000", sort=1000.0), "1000"),
    ],
)
def test_a_number_that_shows_fewer_digits_or_none_has_its_key(cell: Cell, key: str) -> None:
    assert body(cell, numeric=True) == f'<td class="number" data-sort="{key}">{cell.text}</td>'


def test_text_sorts_by_itself_or_by_its_key() -> None:
    assert body(text_cell("a <b>")) == "<td>a &lt;b&gt;</td>"
    assert body(Cell(text="steady", sort=3)) == '<td data-sort="3">steady</td>'
    assert body(Cell(text="a", sort='"><i>')) == '<td data-sort="&#34;&gt;&lt;i&gt;">a</td>'
    assert body(Cell(text="no key")) == '<td data-sort="">no key</td>'
    assert body(Cell(text="\N{EN DASH}", sort="\N{EN DASH}", tone="bad"), code=True) == (
        '<td class="code" data-sort="\N{EN DASH}"><span class="status bad">\N{EN DASH}</span></td>'
    )


def test_details_and_flags_follow_the_value_escaped() -> None:
    assert body(Cell(text="5", sort=5, detail="4 < 6", flags=("<one>", "two")), numeric=True) == (
        '<td class="number">5 <small>4 &lt; 6</small> <span class="mark">&lt;one&gt;</span>'
        ' <span class="mark">two</span></td>'
    )


def test_an_empty_cell_has_no_key() -> None:
    columns = [Column("Name", cell=lambda _: text_cell("row")), Column("n", numeric=True, cell=lambda cell: cell)]
    table = make_table("t", columns, [NOTHING, count_cell(1)])
    assert '<td class="number">\N{EN DASH}</td></tr>\n' in rows(table)


def test_a_report_of_a_hundred_records_takes_less_than_two_megabytes(tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", make.sweep(100))
    assert build_report([tmp_path], tmp_path / "r.html").records == 100
    assert (tmp_path / "r.html").stat().st_size < 2_000_000
    assert (tmp_path / "r.html").read_text().count("Drawn: the first ") == 8
