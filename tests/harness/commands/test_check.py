"""`arvbench check` as a user meets it: verdicts, bad input, interruption and resumption."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_up_checks
import pytest
from made_up_checks import Launches, check
from run_helpers import write_suite
from tiny_checkout import commit, git
from warm_program import Program

import arvbench
from arvbench.harness.cli import main
from arvbench.results.records import read_records
from arvbench.results.verdict import Verdict, read_verdict

ROOT = Path(arvbench.__file__).parents[2]
CASE = {"model": "demo/var", "weights": "demo", "threads": 1, "repeats": 1, "max_warmup": 1}


@pytest.fixture
def suite(tmp_path) -> Path:
    return write_suite(tmp_path / "s.yaml", cases=[CASE | {"batch": [1, 2]}])


@pytest.fixture
def options(tmp_path, suite) -> list[object]:
    return ["--against", "HEAD~1", "--suite", suite, "--out", tmp_path / "check"]


@pytest.fixture
def one(options) -> list[object]:
    """A check of one case, where it is of no account how many there are."""
    return [*options, "--set", "batch=1"]


SLOW = {("head", "demo/var optimized b2"): 1.2}


def test_a_planted_regression_ends_with_1_and_only_its_case_has_more_launches(package, options, tmp_path, capsys):
    launches = Launches(SLOW)
    assert check(package, launches, options) == 1
    verdict = read_verdict(tmp_path / "check" / "verdict.json")
    slower = {change.case for change in verdict.changes if change.verdict is Verdict.REGRESSION}
    assert (verdict.verdict, slower) == (Verdict.REGRESSION, {"demo/var optimized b2 float32 cpu"})
    for side in ("base", "head"):
        counts = [job.case.batch for name, job in launches.jobs if name == side]
        assert (counts.count(1), counts.count(2)) == (4, 4 + 10)
        recorded = read_records(tmp_path / "check" / side)
        assert [record.record_id for record in recorded] == [j.record_id for s, j in launches.jobs if s == side]
        stated = getattr(verdict, side).record_ids
        assert sorted(stated) == sorted(record.record_id for record in recorded)
        assert all(name.startswith(verdict.run_id) for name in stated)
    assert {path.name for path in (tmp_path / "check").iterdir()} == {
        "base", "head", "check.json", "verdict.json", "verdict.md", "junit.xml",
    }  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.startswith("regression\n")
    assert printed.err.splitlines()[-1] == f"regression: see {tmp_path}/check/verdict.json"
    assert verdict.command.startswith(f"arvbench check --against 'HEAD~1' --suite {tmp_path}/s.yaml --out ")


def test_equal_speed_passes_with_the_first_look_alone(package, options, tmp_path, capsys):
    launches = Launches()
    assert check(package, launches, [*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    assert len(launches.jobs) == 2 * 2 * 4
    verdict = read_verdict(tmp_path / "check" / "verdict.json")
    assert verdict.verdict is Verdict.PASS and verdict.exit_code == 0
    assert (verdict.base.name, verdict.head.name, verdict.head.dirty) == ("HEAD~1", "working tree", False)


def test_noise_is_inconclusive_and_may_be_allowed(package, one, tmp_path):
    assert check(package, Launches(noise=0.2), one) == 5
    assert check(package, Launches(noise=0.2), [*one, "--allow-inconclusive"]) == 0
    assert read_verdict(tmp_path / "check" / "verdict.json").exit_code == 5


def test_a_dirty_working_tree_is_checked_and_said(package, options, tmp_path, capsys):
    (package.parents[1] / "adapters" / "new.py").write_text("")
    check(package, Launches(), options)
    assert "head is working tree (" in (said := capsys.readouterr().err) and "with changes)" in said
    assert read_verdict(tmp_path / "check" / "verdict.json").head.dirty is True


def test_equal_sources_are_said_to_compare_only_noise(package, options, capsys):
    assert check(package, Launches(), [*options, "--against", "HEAD"]) == 0
    assert "their adapters and kernels are equal, so that only noise is compared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--against", "nowhere"], "no commit 'nowhere' in the checkout"),
        (["--against", "-x"], "names no commit"),
        (["--head", "nowhere"], "no commit 'nowhere' in the checkout"),
        (["--launches", "4"], "a single number needs 5, several need more (--launches)"),
        (["--suite", "gaet"], "no suite 'gaet'; did you mean 'gate'?"),
        (["--models", "var-*"], "no case of this suite has a model 'var-*'"),
        (["--set", "bacth=1"], "unknown key 'bacth'"),
        (["--set", "settings.top_k=100000"], "top_k 100000 is larger than the vocabulary"),
        (["--out", "{file}"], "cannot write results to"),
        (["--out", "{file}/check"], "cannot write results to"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_before_anything_is_measured(
    package, options, tmp_path, capsys, more, message
):
    (tmp_path / "file").write_text("in the way")
    launches = Launches()
    assert check(package, launches, [*options, *(word.format(file=tmp_path / "file") for word in more)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and len(printed.err.splitlines()) == 1 and printed.err.startswith("error: ")
    assert launches.jobs == [] and not (tmp_path / "check").exists()


def test_a_commit_that_does_not_build_is_bad_input(package, options, capsys):
    top = package.parents[1]
    (top / "kernels" / "broken.py").write_text("def (:\n")
    broken = commit(top)
    (top / "kernels" / "broken.py").unlink()
    commit(top)
    assert check(package, Launches(), options) == 2
    assert f"error: HEAD~1 ({broken[:12]}) does not build: SyntaxError" in capsys.readouterr().err


def test_launches_that_cannot_alarm_among_so_many_numbers_are_refused_after_one_of_each(package, options, capsys):
    launches = Launches()
    assert check(package, launches, [*options, "--launches", "5"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "gated numbers need 7 launches per side" in error and "give --launches 7 or more" in error
    assert len(launches.jobs) == 2 * 2
    assert check(package, again := Launches(), [*options, "--launches", "7"]) == 0
    assert len(again.jobs) == 2 * 2 * 3, "what was measured counts"


def test_a_base_without_numbers_is_unusable_and_names_both_sides(package, options, tmp_path, capsys):
    launches = Launches()
    launches.fail["base"] = "ImportError: cannot import name 'Cache'"
    assert check(package, launches, options) == 6
    verdict = read_verdict(tmp_path / "check" / "verdict.json")
    base = git(package.parents[1], "rev-parse", "HEAD~1").strip()[:12]
    head = git(package.parents[1], "rev-parse", "HEAD").strip()[:12]
    assert verdict.unusable == (
        f"base, HEAD~1 ({base}), has no numbers for demo/var optimized b1 float32 cpu and 1 more under the "
        f"harness of head, "
        f"working tree ({head}): error: ImportError: cannot import name 'Cache'",
    )
    assert len(launches.jobs) == 2 and verdict.verdict is Verdict.UNUSABLE
    assert "has no numbers for" in capsys.readouterr().out.replace("\n", " ")


def test_a_finished_check_is_made_again_under_an_id_of_its_own(package, options, tmp_path):
    runs = []
    for _ in range(2):
        check(package, Launches(), options)
        verdict = read_verdict(tmp_path / "check" / "verdict.json")
        runs.append((verdict.run_id, set(verdict.base.record_ids)))
    assert runs[0][0] != runs[1][0] and not runs[0][1] & runs[1][1]
    assert len(read_records(tmp_path / "check" / "base")) == 2 * 8


@pytest.fixture
def start(programs) -> Callable[[Path, str, list[object]], Program]:
    """Starts a check in a process of its own, which waits at launch `stop`."""
    return lambda package, stop, options: programs.start(made_up_checks.__file__, package, stop, *options)


def test_kill_9_in_the_middle_and_the_same_command_goes_on(start, package, options, tmp_path):
    killed = start(package, "5", options)
    assert killed.stdout.readline() == "stopped\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = {side: list(read_records(tmp_path / "check" / side)) for side in ("base", "head")}
    assert sum(map(len, before.values())) == 5
    assert len(git(package.parents[1], "worktree", "list").splitlines()) == 2
    launches = Launches()
    assert check(package, launches, options) == 0
    assert len(launches.jobs) == 16 - 5
    for side, records in before.items():
        assert list(read_records(tmp_path / "check" / side))[: len(records)] == records
    assert len(git(package.parents[1], "worktree", "list").splitlines()) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_ctrl_c_says_how_to_go_on_and_leaves_nothing(start, package, options, tmp_path):
    interrupted = start(package, "3", options)
    assert interrupted.stdout.readline() == "stopped\n"
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "what is measured is kept: run the same command again to go on" in errors
    assert len(git(package.parents[1], "worktree", "list").splitlines()) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


NOISY = 0.035
"""Scatter that hides 10 % from 10 launches of each side, and not from 40."""


def test_more_launches_decide_what_was_inconclusive_at_a_level_of_their_own(package, one, tmp_path, capsys):
    first, more = Launches(SLOW, noise=NOISY), Launches(SLOW, noise=NOISY)
    assert check(package, first, one) == 5
    before = read_verdict(tmp_path / "check" / "verdict.json")
    assert [(look.launches, look.level) for look in before.looks] == [(10, pytest.approx(0.009))]
    assert "looks" not in capsys.readouterr().out
    assert check(package, more, [*one, "--more", "30"]) == 0
    verdict = read_verdict(tmp_path / "check" / "verdict.json")
    assert [(look.launches, look.level) for look in verdict.looks[1:]] == [(40, pytest.approx(0.0005))]
    assert (verdict.run_id, verdict.command) == (before.run_id, before.command)
    assert len(more.jobs) == 2 * 30 and {job.launch for _, job in more.jobs} == set(range(15, 45))
    decided = {change.number: change for change in verdict.changes}
    for change in before.changes:
        undecided = change.verdict is Verdict.INCONCLUSIVE
        assert len(decided[change.number].head) == (40 if undecided else len(change.head))
        assert undecided or decided[change.number] == change
    assert len(set(verdict.base.record_ids)) == len(verdict.base.record_ids) == 4 + 10 + 30
    said = "2 looks: 10 launches per side at a level of 0.9 %, then 40 launches per side at a level of 0.05 %"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "check" / "verdict.md").read_text()


def test_a_look_that_was_killed_goes_on_with_the_same_command(start, package, one, tmp_path, capsys):
    assert check(package, Launches(noise=0.2), one) == 5
    before = read_verdict(tmp_path / "check" / "verdict.json")
    killed = start(package, "3:0.2", [*one, "--more", "3"])
    assert killed.stdout.readline() == "stopped\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    capsys.readouterr()
    assert check(package, Launches(), [*one, "--more", "4"]) == 2
    assert "is not finished: go on with --more 3" in capsys.readouterr().err
    launches = Launches(noise=0.2)
    assert check(package, launches, [*one, "--more", "3"]) == 5
    assert f"going on with look 2 of run {before.run_id}" in capsys.readouterr().err
    assert len(launches.jobs) == 2 * 3 - 3
    assert [look.launches for look in read_verdict(tmp_path / "check" / "verdict.json").looks] == [10, 13]


def test_a_third_look_has_half_the_level_of_the_second(package, one, tmp_path):
    for more in ([], ["--more", "1"], ["--more", "2"]):
        assert check(package, Launches(noise=0.2), [*one, *more]) == 5
    looks = read_verdict(tmp_path / "check" / "verdict.json").looks
    assert [look.launches for look in looks] == [10, 11, 13]
    assert [look.level for look in looks] == pytest.approx([0.009, 0.0005, 0.00025])


def test_more_of_a_check_that_is_not_there_not_finished_decided_or_of_another_source_is_refused(
    start, package, one, tmp_path, capsys
):
    def refused(*words: object) -> str:
        launches = Launches()
        assert check(package, launches, [*one, *words]) == 2 and launches.jobs == []
        printed = capsys.readouterr().err.splitlines()
        assert printed[-1].startswith("error: ")
        return printed[-1]

    assert "holds no check to continue" in refused("--more", "5")
    killed = start(package, "5", one)
    assert killed.stdout.readline() == "stopped\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert "is not finished: run the same command without --more first" in refused("--more", "5")
    assert check(package, Launches(), one) == 0
    capsys.readouterr()
    assert "is decided (pass): no look at it is left" in refused("--more", "5")
    assert check(package, Launches(noise=0.2), one) == 5
    capsys.readouterr()
    assert "had 10 launches per side: give --launches 10" in refused("--more", "5", "--launches", "12")
    assert "had another suite" in refused("--more", "5", "--suite", "gate")
    (package.parents[1] / "adapters" / "new.py").write_text("")
    assert "had another source of head and" in refused("--more", "5")
    (package.parents[1] / "adapters" / "new.py").unlink()
    (tmp_path / "check" / "verdict.json").write_text("{")
    assert "is not finished" in refused("--more", "5")
    (tmp_path / "check" / "check.json").write_text("{")
    assert "holds no check to continue" in refused("--more", "5")


def test_more_of_a_check_against_a_baseline_is_refused(tmp_path, suite, capsys):
    assert main(["check", "--baseline", str(tmp_path / "b.json"), "--suite", str(suite), "--more", "5"]) == 2
    assert "--more continues a check with --against" in capsys.readouterr().err


@pytest.mark.parametrize("more", ["0", "-1", "51", "x"])
def test_a_count_of_more_launches_that_is_none_is_refused(package, options, more):
    assert check(package, launches := Launches(), [*options, "--more", more]) == 2 and launches.jobs == []


@pytest.fixture
def real(tmp_path) -> Path:
    """A checkout of this package's own source, committed once; only demo/var has weights."""
    top = tmp_path / "real"
    ignored = shutil.ignore_patterns("__pycache__", "runs", "*.egg-info", *(f"{name}.safetensors" for name in OTHERS))
    for name in ("src", "adapters", "kernels", "harness", "reports", "results"):
        shutil.copytree(ROOT / name, top / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "constraints.txt", ".gitignore"):
        shutil.copyfile(ROOT / name, top / name)
    git(top, "init", "--quiet")
    commit(top, "first")
    return top


OTHERS = ("mvar", "hmar", "llamagen", "nar", "par", "flexvar")


def run_real(top: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Run the command of a real checkout."""
    environment = os.environ | {"PYTHONPATH": str(top / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "arvbench", "check", *map(str, options)]
    return subprocess.run(command, env=environment, cwd=top, capture_output=True, text=True, timeout=1200, check=False)


@pytest.mark.slow
def test_a_base_whose_samplers_do_not_fit_the_harness_of_head_is_unusable(real, tmp_path):
    now = {path: path.read_text() for path in (real / "adapters").rglob("*.py")}
    for path, text in now.items():
        path.write_text(re.sub(r"\bSchedule\b", "Plan", text))
    commit(real, "an interface of before")
    for path, text in now.items():
        path.write_text(text)
    commit(real, "head")
    suite = write_suite(tmp_path / "s.yaml", cases=[CASE])
    done = run_real(real, "--against", "HEAD~1", "--suite", suite, "--out", tmp_path / "check")
    assert done.returncode == 6, done.stderr
    (reason,) = read_verdict(tmp_path / "check" / "verdict.json").unusable
    assert "base, HEAD~1 (" in reason and "working tree (" in reason and "ImportError" in reason


@pytest.mark.slow
def test_a_tenth_planted_into_one_scope_is_found_or_said_to_be_hidden(real, tmp_path):
    sampler = real / "adapters" / "var.py"
    sampler.write_text(sampler.read_text() + PLANTED)
    commit(real, "a sleep of a tenth of decode")
    suite = write_suite(tmp_path / "s.yaml", cases=[CASE | {"repeats": 3}])
    for _ in range(MOST_CHECKS):
        done = run_real(real, "--against", "HEAD~1", "--suite", suite, "--out", tmp_path / "check")
        verdict = read_verdict(tmp_path / "check" / "verdict.json")
        assert done.returncode == verdict.exit_code, done.stderr
        assert verdict.unusable == (), "a check that says nothing proves nothing"
        (decode,) = [change for change in verdict.changes if change.number == "decode"]
        if decode.verdict is not Verdict.MACHINE:
            break
    else:
        pytest.skip(f"the machine moved in {MOST_CHECKS} checks: {verdict.machine[0]}")
    if decode.verdict is not Verdict.REGRESSION:
        assert decode.verdict is Verdict.INCONCLUSIVE and decode.smallest_detectable > 0.10, decode.reason


MOST_CHECKS = 3
PLANTED = """

def _slow(decode):
    import time

    def slow(self, *arguments, **options):
        begin = time.perf_counter()
        images = decode(self, *arguments, **options)
        time.sleep(0.1 * (time.perf_counter() - begin))
        return images

    return slow


VarSampler.decode_state = _slow(VarSampler.decode_state)
"""
