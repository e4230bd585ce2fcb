"""`make gpu` in its rehearsal: the path of a session on a GPU machine, on this CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import records as make

import arvbench
from arvbench.harness.gpu.__main__ import main
from arvbench.harness.gpu.goals import GOALS
from arvbench.harness.gpu.plan import BUDGET_S, PARTS, deadlines
from arvbench.harness.gpu.rows import Row, Session, markdown, read_rows
from arvbench.harness.gpu.session import SessionRequest, _in_turns, run_session
from arvbench.kernels import KERNELS
from arvbench.results.records import read_records

ROOT = Path(arvbench.__file__).parents[2]


def test_budgets_follow_each_other_and_fill_nine_minutes():
    ends = list(deadlines(BUDGET_S).values())
    assert ends == sorted(ends) and len(set(ends)) == len(PARTS)
    assert ends[-1] == pytest.approx(BUDGET_S) and BUDGET_S <= 540


def test_every_goal_differs_from_its_peer_in_what_it_compares():
    for goal in GOALS:
        assert goal.ours != goal.peer and goal.ours.batch == goal.peer.batch and goal.ours.model == goal.peer.model


def test_rows_survive_a_child_that_was_killed_while_it_wrote(tmp_path):
    rows = [Row(part="contract", name=f"op {i}", status="ok", values={"max |err|": 1e-6}) for i in range(3)]
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    (tmp_path / "rows").write_text(text + '{"part": "contract", "na')
    assert list(read_rows(tmp_path / "rows")) == rows
    assert list(read_rows(tmp_path / "none")) == []


@pytest.mark.slow  # a rehearsal takes two minutes: the interpreter runs every kernel
def test_the_rehearsal_ends_with_a_row_for_everything(tmp_path):
    command = [sys.executable, "-P", "-m", "arvbench.harness.gpu", "--dry", "--out", str(tmp_path), "--budget", "900"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    session = Session.model_validate_json((tmp_path / "gpu.json").read_bytes())
    assert session.dry and set(session.seconds) == {part.name for part in PARTS}
    by_part = {part.name: [row for row in session.rows if row.part == part.name] for part in PARTS}
    assert {row.name.split()[0] for row in by_part["contract"]} == set(KERNELS)
    for part in ("ceilings before", "contract", "fixtures", "dtypes", "goals", "ceilings after"):
        assert by_part[part] and all(row.status == "ok" for row in by_part[part]), by_part[part]
    assert {row.status for row in by_part["kernels"]} == {"unsupported"}, "the interpreter has no speed"
    assert len(read_records([tmp_path / "records"])) >= 2
    assert "Rehearsal in miniature" in (tmp_path / "gpu.md").read_text()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 16 * 2**20


def test_a_session_without_time_has_a_row_for_every_part(tmp_path):
    said: list[str] = []
    request = SessionRequest(folder=tmp_path, dry=True, budget_s=1e-3, fixtures=tmp_path)
    session = run_session(request, said.append)
    assert {row.part for row in session.rows} == {part.name for part in PARTS}
    assert {row.status for row in session.rows} <= {"skipped", "timeout"}
    assert json.loads((tmp_path / "gpu.json").read_bytes())["rows"]
    assert len(said) == len(session.rows)


def test_a_page_escapes_what_would_break_its_table(tmp_path):
    request = SessionRequest(folder=tmp_path, dry=True, budget_s=1e-3, fixtures=tmp_path)
    session = run_session(request, lambda line: None)
    broken = Row(part="goals", name="a | b", status="failed", note="first\nsecond")
    page = markdown(session.model_copy(update={"rows": (broken,)}))
    assert "a \\| b" in page and "first second" in page


def test_without_a_gpu_a_session_is_refused_in_one_line(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 3
    assert "no usable GPU" in capsys.readouterr().err


def test_only_the_first_launch_of_a_goal_takes_time_for_drift(monkeypatch):
    asked = []

    def measure(case, store, engine, launch):
        asked.append((launch, case.drift_images))
        return make.record(model="var-d16", speed=1.0)

    monkeypatch.setattr("arvbench.harness.gpu.session._measure", measure)
    row = _in_turns(GOALS[0], None, None, 600, most=2)
    assert row.status == "ok" and asked == [(1, 4), (1, 4), (2, 0), (2, 0)]


@pytest.mark.parametrize("budget", ["0", "-3", "nan"])
def test_a_budget_that_is_none_is_refused(tmp_path, budget):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--dry", f"--budget={budget}"])
