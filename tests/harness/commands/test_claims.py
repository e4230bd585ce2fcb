"""`arvbench claims`: the table, the page of the documentation, and the outcomes that are kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from arvbench.harness.claims.experiments import load_experiments
from arvbench.harness.claims.measured import check_apart, measured_quantity
from arvbench.harness.cli import main
from arvbench.reports.claims import claim_blocks
from arvbench.reports.claims_page import claims_page
from arvbench.results.claims import SHIPPED_OUTCOMES, newest_outcomes, read_outcomes
from arvbench.results.launches import merge_launches
from arvbench.results.records import read_records

ROOT = Path(__file__).parents[3]
MEASURED = ROOT / "results" / "measured" / "claims"
QUICK = "llamagen-smallest"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "claims"


def shipped():
    return newest_outcomes(load_experiments(), read_outcomes(SHIPPED_OUTCOMES))


def test_no_row_of_the_table_wraps_at_80_columns(folder, capsys):
    assert main(["claims", "--out", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "left to the report" not in "".join(lines)
    experiments = {each.id for each in load_experiments()}
    rows = [line for line in lines if line.split(" ")[0] in experiments]
    assert len(rows) == len(experiments)


def test_what_can_be_computed_is_decided_in_what_comes_with_the_package():
    for outcome in shipped():
        if outcome.experiment.kind == "planned":
            assert outcome.provenance is not None and outcome.value is not None, outcome.experiment.id
        elif outcome.value is not None:
            assert outcome.experiment.kind == "measured" and outcome.record_ids
        else:
            assert outcome.verdict in ("needs weights", "needs GPU", "cannot be tested")


def test_measured_outcomes_that_come_with_the_package_are_those_of_records_beside_them():
    records = merge_launches(read_records(MEASURED).records)
    measured = [outcome for outcome in shipped() if outcome.experiment.kind == "measured"]
    assert {record.record_id for record in records} == {each for outcome in measured for each in outcome.record_ids}
    for outcome in measured:
        of, over = (measured_quantity(records, term, outcome.experiment.quantity) for term in outcome.experiment.terms)
        check_apart(of, over)
        assert of.record_ids + over.record_ids == outcome.record_ids
        assert outcome.value == of.value / over.value
        assert outcome.provenance is not None and not outcome.provenance.dirty
    assert measured


def test_the_page_of_the_documentation_is_that_of_the_command():
    page = (ROOT / "docs" / "claims.md").read_text()
    assert page == claims_page(shipped()), "run `arvbench claims --markdown > docs/claims.md`"
    assert "(second-hand)" in page


def test_a_run_keeps_outcomes_and_a_second_one_those_of_the_first(folder, capsys):
    assert main(["claims", "--run", "--only", QUICK, "--out", str(folder), "--json"]) == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert first["verdict"] == "reproduced" and first["provenance"]["machine"] and first["seen"] == "first-hand"
    assert main(["claims", "--run", "--no-measure", "--only", "par-*-passes", "--out", str(folder)]) == 0
    kept = {outcome.experiment.id for outcome in read_outcomes(folder / "claims.json").outcomes}
    assert kept == {QUICK, "par-4x-passes", "par-16x-passes"}
    assert main(["claims", "--only", QUICK, "--out", str(folder)]) == 0
    assert QUICK in capsys.readouterr().out


def test_planned_outcomes_that_come_with_the_package_are_those_of_this_source(folder, capsys):
    only = "code-8-flops,fastvar-flops,linear-budget,hack-70-cache,flexvar-512-px,mvar-d12-size,var-n4"
    main(["claims", "--run", "--no-measure", "--only", only, "--out", str(folder), "--json"])
    computed = {row["experiment"]["id"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    known = {outcome.experiment.id: outcome.value for outcome in shipped()}
    assert len(computed) == 7
    for name, value in computed.items():
        assert value == pytest.approx(known[name], rel=1e-9), name


@pytest.mark.slow
def test_all_planned_outcomes_are_those_of_this_source(folder, capsys):
    main(["claims", "--run", "--no-measure", "--out", str(folder)])
    known = {outcome.experiment.id: outcome for outcome in shipped()}
    for outcome in read_outcomes(folder / "claims.json").outcomes:
        if outcome.experiment.kind != "planned":
            continue
        assert outcome.value == pytest.approx(known[outcome.experiment.id].value, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "hack-7O"], "no claim 'hack-7O'; did you mean"),
        (["--only", ""], "got none"),
        (["--file", "no.yaml"], "no.yaml"),
        (["--out", ""], "an empty path"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, arguments, reason, capsys):
    assert main(["claims", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and reason in error and error.count("\n") == 1


def test_a_failed_experiment_ends_with_exit_code_1_and_its_reason(folder, tmp_path, capsys):
    file = tmp_path / "own.yaml"
    file.write_text(
        "experiments:\n- {id: lost, claim: hack-70, says: it, claimed: '2', kind: planned, quantity: steps, "
        "of: {model: demo/var, cache: windows}, otherwise: needs GPU}\n"
    )
    assert main(["claims", "--run", "--file", str(file), "--out", str(folder)]) == 1
    *_, row, reason = capsys.readouterr().out.splitlines()
    assert row.endswith("failed") and reason.startswith("lost: ") and "windows" in reason
    assert main(["claims", "--file", str(file), "--out", str(folder), "--markdown"]) == 0
    assert "windows" in capsys.readouterr().out


def test_a_damaged_file_of_outcomes_is_named(folder, capsys):
    folder.mkdir()
    (folder / "claims.json").write_text("{")
    assert main(["claims", "--out", str(folder)]) == 2
    assert "claims.json is not a file of outcomes" in capsys.readouterr().err


def test_the_section_of_the_report_has_all_that_is_asked_of_a_claim():
    text, table, folded = claim_blocks(shipped())
    counts = Counter(outcome.verdict for outcome in shipped())
    headings = {column.label for part in (table, *folded.tables) for column in part.columns}
    assert {"Verdict", "Claimed", "Found", "Likely cause", "What was claimed"} <= headings
    assert f"{counts['reproduced']} reproduced" in text.words and folded.closed
    assert {"What was claimed", "What counts", "What we ran", "Why", "Source", "Where"} <= headings
    assert claim_blocks([]) == []
