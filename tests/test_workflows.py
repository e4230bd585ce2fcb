"""The workflows of GitHub: their form, their rights, and their shell lines, which run here with stubs.

actionlint's package on PyPI fetches a program from GitHub when it is built, which an offline test cannot. So the form
is tested here; where a program `actionlint` is installed, it reads the files too.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from arvbench.errors import ExitCode
from arvbench.harness.check.outputs.markdown import MARKER
from arvbench.harness.cli import command_line

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
GATE = FOLDER / "gpu-gate.yml"

TOP = {"name", "on", "permissions", "concurrency", "defaults", "env", "jobs"}
JOB = {"if", "runs-on", "needs", "timeout-minutes", "permissions", "outputs", "steps", "env"}
STEP = {"name", "id", "if", "uses", "with", "run", "env", "continue-on-error"}
EVENTS = {"push", "pull_request", "schedule", "workflow_dispatch"}
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
CONTEXTS = {"github", "vars", "inputs", "needs", "steps", "always"}
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
"""The shell of `shell: bash` on a runner."""


def read(path: Path) -> dict[str, Any]:
    """Read a workflow; every scalar is a text, so that `on` stays `on`."""
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    assert isinstance(content, dict)
    return content


def steps_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{path.name} {job}", step) for job, body in read(path)["jobs"].items() for step in body["steps"]]


STEPS = [pair for path in WORKFLOWS for pair in steps_of(path)]
SCRIPTS = [(f"{where}: {step.get('name', '')}", step["run"]) for where, step in STEPS if "run" in step]


def script(name: str, path: Path = GATE) -> str:
    """Return the shell lines of the step with this name."""
    (found,) = (step["run"] for _, step in steps_of(path) if step.get("name") == name)
    return str(found)


def test_there_are_two_workflows():
    assert [path.name for path in WORKFLOWS] == ["gpu-gate.yml", "tests.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_the_form_that_github_reads(path):
    workflow = read(path)
    assert workflow.keys() <= TOP and workflow["on"].keys() <= EVENTS
    assert workflow["defaults"] == {"run": {"shell": "bash"}}
    for name, job in workflow["jobs"].items():
        assert re.fullmatch(r"[a-z_][a-z0-9_-]*", name) and job.keys() <= JOB, name
        assert int(job["timeout-minutes"]) > 0 and job["runs-on"]
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= workflow["jobs"].keys()
        ids = {step["id"] for step in job["steps"] if "id" in step}
        for step in job["steps"]:
            assert step.keys() <= STEP and ("uses" in step) != ("run" in step), step
        for output in job.get("outputs", {}).values():
            assert set(re.findall(r"steps\.(\w+)\.", output)) <= ids


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="no program actionlint is installed")
def test_actionlint_has_no_complaint():
    done = subprocess.run(["actionlint", *map(str, WORKFLOWS)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_by_commit_with_their_version_beside():
    lines = [line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"(- )?uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_rights_are_the_least():
    """Nothing may write but the job that comments, which runs nothing of the pull request."""
    assert read(FOLDER / "tests.yml")["permissions"] == {"contents": "read"}
    gate = read(GATE)
    rights = {name: job.get("permissions") for name, job in gate["jobs"].items()}
    assert gate["permissions"] == {} or gate["permissions"] == "{}"
    assert rights == {
        "check": {"contents": "read"},
        "comment": {"pull-requests": "write"},
        "calibrate": {"contents": "read"},
    }
    assert not any("checkout" in step.get("uses", "") for step in gate["jobs"]["comment"]["steps"])
    for _, step in STEPS:
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"


def test_code_of_a_fork_never_runs_on_the_runner_of_a_user():
    for job in read(GATE)["jobs"].values():
        if "self-hosted" in job["runs-on"]:
            own = "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]
            assert own or job["if"] == "github.event_name != 'pull_request'"


@pytest.mark.parametrize(("where", "text"), SCRIPTS, ids=[where for where, _ in SCRIPTS])
def test_no_expression_is_pasted_into_a_shell(where, text):
    """Text by others, such as the title of a pull request, reaches a shell only through the environment."""
    assert not EXPRESSION.search(text)


def test_expressions_read_known_contexts():
    for path in WORKFLOWS:
        for expression in EXPRESSION.findall(path.read_text()):
            quoted = re.sub(r"'[^']*'", "", expression)
            assert set(re.findall(r"(?<![\w.-])([a-z]+)(?=[.(])", quoted)) <= CONTEXTS, expression


@pytest.mark.parametrize(("where", "text"), SCRIPTS, ids=[where for where, _ in SCRIPTS])
def test_shell_lines_are_shell(where, text):
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


class Runner:
    """A folder like the workspace of a runner, with stubs of the programs that the steps call."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.output, self.summary = folder / "output", folder / "summary"

    def stub(self, path: str, body: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        call = 'printf "%s" "$(basename "$0")" >> "$LOG"; printf " %q" "$@" >> "$LOG"; echo >> "$LOG"'
        file.write_text(f"#!/usr/bin/env bash\n{call}\n{body}\n")
        file.chmod(0o755)

    def run(self, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "LOG": str(self.log),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_REPOSITORY": "someone/arvbench",
        }
        command = [*BASH, "-c", text]
        return subprocess.run(command, cwd=self.folder, env=known | environment, capture_output=True, text=True)

    @property
    def calls(self) -> list[list[str]]:
        return [shlex.split(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def runner(tmp_path) -> Runner:
    return Runner(tmp_path)


@pytest.mark.parametrize("code", [*(int(code) for code in ExitCode if code < 128), 130])
def test_the_check_step_ends_as_the_check_did(runner, code):
    runner.stub(".venv/bin/arvbench", f"exit {code}")
    done = runner.run(script("Check"), SUITE="gate", DEVICE="cuda")
    assert done.returncode == code
    assert runner.output.read_text() == f"code={code}\n"
    assert ("::error" in done.stdout) is (code != 0)
    assert runner.calls == [
        [
            "arvbench",
            "check",
            "--against",
            "HEAD^1",
            "--suite",
            "gate",
            "--device",
            "cuda",
            "--out",
            "results/runs/gate",
        ]
    ]


@pytest.mark.parametrize("name", ["Check", "Calibrate"])
def test_verbs_and_options_of_the_steps_exist(runner, name):
    runner.stub(".venv/bin/arvbench", "exit 0")
    runner.run(script(name), SUITE="gate", DEVICE="cpu", LAUNCHES="20")
    commands = command_line()
    assert runner.calls
    for _, verb, *rest in runner.calls:
        command, words = commands.commands[verb], rest
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(verb, words)  # raises a usage error


HOSTILE = '$(touch pwned); `touch pwned` "; touch pwned #'


@pytest.mark.parametrize("variable", ["SUITE", "DEVICE", "LAUNCHES"])
@pytest.mark.parametrize("name", ["Check", "Calibrate"])
def test_variables_are_one_word_each_and_never_code(runner, name, variable):
    runner.stub(".venv/bin/arvbench", "exit 0")
    runner.run(script(name), **({"SUITE": "gate", "DEVICE": "cuda", "LAUNCHES": "20"} | {variable: HOSTILE}))
    assert not (runner.folder / "pwned").exists()
    assert all(HOSTILE in call or HOSTILE not in " ".join(call) for call in runner.calls)


def test_calibration_shows_the_noise_in_the_summary(runner):
    runner.stub(".venv/bin/arvbench", '[ "$1 $2" = "baseline show" ] && echo "between_cv 1.2 %"; exit 0')
    done = runner.run(script("Calibrate"), SUITE="gate", DEVICE="cuda", LAUNCHES="20")
    assert done.returncode == 0
    assert "between_cv 1.2 %" in runner.summary.read_text()
    assert [call[2] for call in runner.calls] == ["calibrate", "show", "audit"]


def test_a_failed_calibration_fails_its_step(runner):
    runner.stub(".venv/bin/arvbench", "exit 3")
    assert runner.run(script("Calibrate"), SUITE="gate", DEVICE="cuda", LAUNCHES="20").returncode == 3


COMMENT = "Write the comment, or edit the one that is there"


def comment(
    runner: Runner, *, code: int, there: str = "", first_line: str = MARKER
) -> subprocess.CompletedProcess[str]:
    """Run the step of the comment; `there` are the ids of comments that GitHub has, one a line."""
    runner.stub("bin/gh", f'case "$*" in *--jq*) printf %s {shlex.quote(there)};; esac')
    (runner.folder / "verdict").mkdir()
    (runner.folder / "verdict" / "verdict.md").write_text(f"{first_line}\n\n## arvbench check: {HOSTILE}\n")
    return runner.run(script(COMMENT), GH_TOKEN="t", CODE=str(code), NUMBER="7", MARKER=MARKER)


@pytest.mark.parametrize("code", [1, 6])
def test_what_a_reader_must_know_is_a_new_comment(runner, code):
    assert comment(runner, code=code).returncode == 0
    listed, posted = runner.calls
    assert listed[:4] == ["gh", "api", "--paginate", "repos/someone/arvbench/issues/7/comments"]
    assert posted[3:] == ["--method", "POST", "repos/someone/arvbench/issues/7/comments", "--field",
                          "body=@verdict/verdict.md"]  # fmt: skip
    assert not (runner.folder / "pwned").exists()


@pytest.mark.parametrize("code", [0, 1, 4, 5, 6])
def test_the_comment_that_is_there_is_edited(runner, code):
    assert comment(runner, code=code, there="41\n42\n").returncode == 0
    assert runner.calls[-1][3:6] == ["--method", "PATCH", "repos/someone/arvbench/issues/comments/41"]
    assert len(runner.calls) == 2


@pytest.mark.parametrize("code", [0, 4, 5])
def test_noise_alone_writes_no_comment(runner, code):
    assert comment(runner, code=code).returncode == 0
    assert len(runner.calls) == 1


def test_a_text_without_the_marker_is_refused(runner):
    done = comment(runner, code=1, first_line="# hello")
    assert done.returncode == 1 and not runner.calls


def test_without_a_verdict_nothing_is_told(runner):
    runner.stub("bin/gh", "exit 1")
    done = runner.run(script(COMMENT), GH_TOKEN="t", CODE="2", NUMBER="7", MARKER=MARKER)
    assert done.returncode == 0 and not runner.calls


def test_a_refusal_of_github_fails_the_step(runner):
    runner.stub("bin/gh", "exit 1")
    (runner.folder / "verdict").mkdir()
    (runner.folder / "verdict" / "verdict.md").write_text(f"{MARKER}\n")
    assert runner.run(script(COMMENT), GH_TOKEN="t", CODE="1", NUMBER="7", MARKER=MARKER).returncode == 1


def test_the_filter_finds_our_comments_and_no_others(tmp_path):
    jq = shutil.which("jq")
    if jq is None:
        pytest.skip("jq, which reads the filter as gh does, is not installed")
    (ours,) = re.findall(r"ours='(.*)'", script(COMMENT))
    comments = [
        {"id": 1, "user": {"login": "someone"}, "body": f"{MARKER} not of the bot"},
        {"id": 2, "user": {"login": "github-actions[bot]"}, "body": "another workflow"},
        {"id": 3, "user": {"login": "github-actions[bot]"}, "body": f"{MARKER}\n\nours"},
    ]
    done = subprocess.run(
        [jq, ours], input=json.dumps(comments), env={"MARKER": MARKER}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3\n"


def test_the_workflow_of_the_tests_runs_what_the_readme_says():
    assert script("Linters, types and tests", FOLDER / "tests.yml") == ".ci/run"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_marker_of_the_step_is_that_of_the_verdict():
    (step,) = (step for _, step in steps_of(GATE) if step.get("name") == COMMENT)
    assert step["env"]["MARKER"] == MARKER
