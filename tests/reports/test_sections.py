"""A table, a figure or a section that is added to a report's sections is shown without another edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import records as make

from arvbench.reports.blocks import Text
from arvbench.reports.build import build_report
from arvbench.reports.data import make_data
from arvbench.reports.figures.drawing import Drawing, panels
from arvbench.reports.numbers import text_cell
from arvbench.reports.sections import SECTIONS, Figure, Section
from arvbench.reports.table import Column, Table, make_table
from arvbench.results.schema import Record, Status


def suites_table(records: Sequence[Record]) -> Table:
    columns: list[Column[Record]] = [Column("Suite of the case", cell=lambda record: text_cell(record.suite))]
    return make_table("Suites", columns, records)


def no_table(records: Sequence[Record]) -> Table:
    return make_table("No rows", [Column("Nothing", cell=lambda record: text_cell(record))], [])


def draw(records: Sequence[Record]) -> Drawing | None:
    figure, _ = panels(1, [])
    data = make_data(("Cases",), [(len(records),)])
    return Drawing(figure=figure, title="Cases (count)", caption="A caption", alt=f"{len(records)} cases", data=data)


def draw_nothing(records: Sequence[Record]) -> Drawing | None:
    return None


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("sections")
    make.write_records(folder / "records.jsonl", [make.failed(Status.OOM, "too little memory")])
    added = (
        Section("Suites & more", (Text("Words with *stress*, `code`."), suites_table, Figure("suites", draw))),
        Section("Empty", (Text("Words alone"), no_table, Figure("empty", draw_nothing))),
    )
    build_report([folder], folder / "r.html", tables=[folder / "tables.md"], sections=(*SECTIONS, *added))
    return Path(folder / "r.html").read_text(), Path(folder / "tables.md").read_text()


def test_a_new_section_is_on_the_page_with_its_navigation_and_in_the_markdown(built: tuple[str, str]) -> None:
    html, markdown = built
    assert '<a href="#suites-more">Suites &amp; more</a>' in html and '<section id="suites-more">' in html
    assert "Words with <em>stress</em>, <code>code</code>." in html
    assert "## Suites &amp; more\n\n**Suites**" in markdown


def test_a_new_table_is_on_the_page_and_in_the_markdown(built: tuple[str, str]) -> None:
    html, markdown = built
    assert "<caption><span>Suites</span></caption>" in html
    assert "| Suite of the case |" in markdown and "| imagenet256 |" in markdown


def test_a_new_figure_is_drawn_and_placed_after_its_table(built: tuple[str, str]) -> None:
    html, _ = built
    assert html.index("<caption><span>Suites") < html.index('id="figure-suites"') and 'aria-label="1 cases"' in html


def test_a_section_with_texts_alone_is_left_out(built: tuple[str, str]) -> None:
    assert not any("Empty" in text or "Words alone" in text or "No rows" in text for text in built)
