"""The section of a report about a verdict that lies beside the records."""

from __future__ import annotations

from pathlib import Path

import pytest
import records as make
from verdicts import change, check, every_verdict

from arvbench.errors import UserError
from arvbench.reports.build import build_report
from arvbench.results.verdict import Check, Side, Verdict

pytestmark = pytest.mark.usefixtures("drawn_once")

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> | **b** [l](https://e.vil)\x00"


def page(folder: Path, *paths: Path) -> tuple[str, str]:
    """HTML and Markdown of the records of a run folder, or of `paths`."""
    build_report(paths or [folder], folder / "report.html", tables=[folder / "tables.md"])
    return (folder / "report.html").read_text(), (folder / "tables.md").read_text()


def run(folder: Path, verdict: Check | None = None, *, number: int = 0) -> Path:
    make.write_records(folder / "records.jsonl", [make.record(number=number)])
    if verdict is not None:
        (folder / "verdict.json").write_text(verdict.model_dump_json())
    return folder


def of_records(made: Check, *numbers: int) -> Check:
    ids = tuple(make.record(number=number).record_id for number in numbers)
    return made.model_copy(update={"head": made.head.model_copy(update={"record_ids": ids})})


def test_a_verdict_beside_the_records_is_a_section_with_the_worst_first(tmp_path: Path) -> None:
    html, markdown = page(run(tmp_path, of_records(every_verdict(), 0)))
    assert html.index('<section id="changes">') < html.index('<section id="results">')
    assert html.index("+31.0 %") < html.index("+5.2 %") < html.index("-19.0 %")
    assert "main (c0ffeec0ffee) → working tree (beefbeefbeef with local changes)" in html
    assert "head has no step[0] of demo/mvar" in html and "1.38 times slower than that of base" in html
    assert "30.4 ms" in html and "31.9 ms" in html and "1.00 MiB" in html
    assert "## Changes" in markdown and "+31.0 %" in markdown


def test_a_report_without_a_verdict_has_no_such_section(tmp_path: Path) -> None:
    html, markdown = page(run(tmp_path))
    assert 'id="changes"' not in html and "## Changes" not in markdown


def test_the_folder_of_a_check_stands_for_both_sides(tmp_path: Path) -> None:
    run(tmp_path / "base", number=0), run(tmp_path / "head", number=1)
    (tmp_path / "verdict.json").write_text(of_records(every_verdict(), 0, 1).model_dump_json())
    html, _ = page(tmp_path, tmp_path)
    assert html.count("<caption><span>Check main") == 1 and "2: 2 ok" in html


def test_a_verdict_on_other_records_is_left_out_and_said(tmp_path: Path) -> None:
    html, markdown = page(run(tmp_path, of_records(every_verdict(), 5)))
    assert 'id="changes"' not in html and "the verdict on other records, of run 3f9ad1c0" in html
    assert "verdict on other records" in markdown


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"schema_version": 2}', b"[]"])
def test_a_damaged_verdict_costs_its_section_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    run(tmp_path)
    (tmp_path / "verdict.json").write_bytes(content)
    html, _ = page(tmp_path)
    assert "Skipped a damaged verdict" in html and '<section id="results">' in html and 'id="changes"' not in html


def test_names_and_reasons_of_a_verdict_are_escaped(tmp_path: Path) -> None:
    hostile = change(HOSTILE, HOSTILE, unit=HOSTILE, kind="quality", reason=HOSTILE, verdict=Verdict.REGRESSION)
    made = check(
        hostile, suite=HOSTILE, run_id=HOSTILE, hardware=HOSTILE, command=HOSTILE, machine=(HOSTILE,),
        unusable=(HOSTILE,), base=Side(name=HOSTILE, commit=HOSTILE),
    )  # fmt: skip
    html, markdown = page(run(tmp_path, made))
    assert "<script>alert" not in html and "<img src=x" not in html and "\x00" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 8
    assert "[l](https://" not in markdown and "<script>" not in markdown


def test_the_folder_of_a_check_without_records_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text(every_verdict().model_dump_json())
    with pytest.raises(UserError, match=r"no records\.jsonl"):
        page(tmp_path)
