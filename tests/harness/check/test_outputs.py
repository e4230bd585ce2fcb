"""A verdict for its readers: a table of 80 columns, JUnit XML, Markdown of 60 lines, the summary of a GitHub job."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from verdicts import change, check, every_verdict

from arvbench.errors import UserError
from arvbench.harness.check.outputs.junit import junit_xml
from arvbench.harness.check.outputs.markdown import MARKER, check_markdown
from arvbench.harness.check.outputs.terminal import check_table
from arvbench.harness.check.outputs.write import write_outputs
from arvbench.results.verdict import Check, Verdict, read_verdict

HOSTILE = "<b>|`x`[l](https://e.vil)\x00\x1b[31m\u202e\n@all [red]]]>&\"'"
ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {
        "name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package",
        "file", "log", "url",
    },
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "time", "classname", "group"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}  # fmt: skip
"""Attributes by element in Jenkins' junit-10.xsd."""
REQUIRED = {
    "testsuite": {"name", "tests", "failures", "errors"},
    "property": {"name", "value"},
    "testcase": {"name", "classname"},
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase", "system-out", "system-err"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"},
}


def printed(made: Check, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(check_table(made, width=width))
    return capture.get().splitlines()


def table_rows(lines: list[str]) -> list[str]:
    """Lines between the rule below the headings and the next empty or unruled text."""
    start = next(number for number, line in enumerate(lines) if set(line.strip()) == {"─"}) + 1
    names = {verdict.value for verdict in Verdict}
    return [line for line in lines[start:] if names & set(line.split()) and ":" not in line]


def many(verdict: Verdict, count: int) -> list:
    return [change(f"demo/var b{n % 100}", f"step[{n}]", verdict=verdict, ratio=1.05 + n / 1000) for n in range(count)]


def test_the_table_has_the_worst_first_and_one_line_per_number():
    made = every_verdict()
    lines = printed(made)
    rows = table_rows(lines)
    assert all(len(line) <= 80 for line in lines) and len(rows) == len(made.changes)
    order = ["regression", "regression", "unusable", "machine", "inconclusive", "improvement", "pass", "pass"]
    assert [next(word for word in row.split() if word in order) for row in rows] == order
    assert "+31.0 %" in rows[0] and "+5.2 %" in rows[1] and "3.1 %    [+4.0, +6.5]" in rows[1]
    text = " ".join(line.strip() for line in lines)
    assert "1.38 times slower than that of base" in text and "head has no such number" in text


def test_the_table_names_what_all_cases_share_once():
    lines = printed(every_verdict())
    assert "Changes: cpu optimized auto float32" in lines
    assert sum("float32" in line for line in table_rows(lines)) == 0
    alone = printed(check(change()))
    assert "Changes: demo/var cpu optimized auto float32 b1" in alone and "Case" not in " ".join(alone)


def test_long_names_are_cut_and_stay_distinct():
    long = [change(f"{'very-long-name/' * 6}{n}{'x' * 60}", f"cache_{'y' * 70}{n}") for n in range(3)]
    rows = table_rows(printed(check(*long)))
    assert len({row.split("pass")[0] for row in rows}) == 3 and all(len(row) <= 80 for row in rows)


def test_the_table_counts_numbers_that_pass_beyond_its_room_and_lists_all_others():
    lines = printed(check(*many(Verdict.PASS, 100), *many(Verdict.REGRESSION, 70)))
    assert sum("regression" in row for row in table_rows(lines)) == 70
    assert "and 100 more that pass" in lines


def test_few_of_many_reasons_are_printed_but_for_those_of_regressions():
    each = [
        change(f"demo/var b{n}", verdict=verdict, reason=f"{n} % would be found.")
        for verdict in (Verdict.REGRESSION, Verdict.INCONCLUSIVE)
        for n in range(20)
    ]
    text = " ".join(printed(check(*each)))
    assert text.count("regression: demo/var") == 20 and text.count("inconclusive: demo/var") == 5
    assert "inconclusive: 15 more; all reasons are in the verdict as JSON" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_every_width_shows_verdict_and_name(width):
    rows = printed(every_verdict(), width)
    assert sum("regression" in row for row in rows) >= 2 and all(len(row) <= width for row in rows)


def test_a_check_without_numbers_is_unusable_in_every_output():
    empty = check(unusable=("no case is ok",))
    assert empty.verdict is Verdict.UNUSABLE
    assert (
        printed(empty)[0] == "unusable"
        and "no numbers" in printed(empty)
        and "no case is ok" in " ".join(printed(empty))
    )
    assert ElementTree.fromstring(junit_xml(empty)).get("errors") == "1"
    assert "## arvbench check: unusable" in check_markdown(empty) and "no case is ok" in check_markdown(empty)


@pytest.mark.parametrize("made", [every_verdict(), check(change(HOSTILE, HOSTILE, reason=HOSTILE), suite=HOSTILE)])
def test_junit_has_the_elements_and_attributes_of_the_usual_schema(made):
    root = ElementTree.fromstring(junit_xml(made))
    assert root.tag == "testsuites"
    for element in root.iter():
        assert REQUIRED.get(element.tag, set()) <= set(element.attrib) <= ALLOWED[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    (suite,) = root
    for case in suite.findall("testcase"):
        assert case.get("name") and case.get("classname")
    assert int(suite.get("tests")) == len(suite.findall("testcase"))
    assert suite.get("timestamp") == "2026-03-02T09:30:00" and float(suite.get("time")) == 423.5


def test_junit_fails_regressions_errs_on_unusable_and_skips_with_reasons():
    suite = ElementTree.fromstring(junit_xml(every_verdict()))[0]
    assert [suite.get(key) for key in ("failures", "errors", "skipped")] == ["2", "2", "3"]  # the check's own included
    ends = {(case.get("classname"), case.get("name")): next(child.tag for child in case) for case in suite[1:]}
    mvar = "demo/mvar cpu optimized auto float32 b8"
    assert ends[mvar, "tokens"] == "failure" and ends[mvar, "step[0]"] == "error" and ends[mvar, "images"] == "skipped"
    assert ends[mvar, "decode"] == "system-out", "an improvement is a pass"
    assert "windows of five seeds" in suite.find(".//testcase[@name='label-accuracy digits-cnn']/skipped").get(
        "message"
    )


def test_hostile_names_are_data_in_every_output():
    made = check(
        change(HOSTILE, HOSTILE, verdict=Verdict.REGRESSION, reason=HOSTILE),
        suite=HOSTILE, hardware=HOSTILE, command=f"arvbench check --suite '{HOSTILE}'", unusable=(HOSTILE,),
    )  # fmt: skip
    xml, markdown, text = junit_xml(made), check_markdown(made), "\n".join(printed(made, 400))
    for output in (xml, markdown, text):
        assert not set("\x00\x1b\u202e") & set(output)
    assert ElementTree.fromstring(xml).find(".//testcase").get("name").startswith("<b>|`x`")
    prose = [line for line in markdown.splitlines() if not line.startswith("    ")]
    assert "<b>" not in "\n".join(prose) and "[l](https" not in "\n".join(prose) and "@all" not in "\n".join(prose)
    assert "[red]" in text


def test_markdown_begins_with_its_marker_and_ends_with_the_command():
    lines = check_markdown(every_verdict()).splitlines()
    assert lines[0] == MARKER == "<!-- arvbench-check -->"
    assert lines[-1] == "    arvbench check --against main --suite gate"
    assert "2 regressions, 1 unusable, 1 machine, 1 inconclusive, 1 improvement, 2 pass" in "\n".join(lines)
    verdicts = [line.split("|")[1].strip(" *") for line in lines if line.startswith("| ")][2:]
    assert verdicts == ["regression", "regression", "unusable", "machine", "inconclusive", "improvement"]


@pytest.mark.parametrize("regressions", [0, 1, 39, 40, 41, 200, 1000])
def test_markdown_has_60_lines_at_most_and_every_regression(regressions):
    others = [one for verdict in (Verdict.INCONCLUSIVE, Verdict.IMPROVEMENT, Verdict.PASS) for one in many(verdict, 50)]
    made = check(
        *others, *many(Verdict.REGRESSION, regressions), unusable=("gone",) * 30, machine=("hot",) * 30
    )  # fmt: skip
    text = check_markdown(made)
    assert len(text.splitlines()) <= 60
    found = [f"step\\[{n}\\]" for n in range(regressions)]
    listed = "\n".join(line for line in text.splitlines() if "regression" in line or line.startswith("- **"))
    assert all(listed.count(f"{name} ") == 1 for name in found)
    assert "50 inconclusive" in text


def test_outputs_are_written_and_read_again(tmp_path: Path):
    made, summary = every_verdict(), tmp_path / "summary.md"
    summary.write_text("# before\n")
    assert write_outputs(made, tmp_path / "new", {"GITHUB_STEP_SUMMARY": str(summary)}) == []
    assert read_verdict(tmp_path / "new" / "verdict.json") == made
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"verdict.json", "junit.xml", "verdict.md"}
    assert summary.read_text() == "# before\n" + check_markdown(made)


@pytest.mark.parametrize("summary", ["/nowhere/summary.md", "/", "a\x00b"])
def test_a_summary_that_cannot_be_written_is_a_warning(tmp_path: Path, summary: str):
    (warning,) = write_outputs(check(change()), tmp_path, {"GITHUB_STEP_SUMMARY": summary})
    assert "GITHUB_STEP_SUMMARY" in warning and (tmp_path / "verdict.json").exists()


def test_a_summary_that_is_a_pipe_without_a_reader_is_a_warning_and_does_not_wait(tmp_path: Path):
    os.mkfifo(tmp_path / "summary")
    (warning,) = write_outputs(check(change()), tmp_path, {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary")})
    assert "summary" in warning and (tmp_path / "verdict.json").exists()


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder with --out"):
        write_outputs(check(change()), tmp_path / "file", {})


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"schema_version": 9}'])
def test_a_damaged_verdict_is_bad_input(tmp_path: Path, content: bytes):
    (tmp_path / "verdict.json").write_bytes(content)
    with pytest.raises(UserError, match=r"verdict\.json"):
        read_verdict(tmp_path / "verdict.json")


def test_a_missing_verdict_and_one_that_is_no_file_are_bad_input(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="cannot read"):
            read_verdict(path)
