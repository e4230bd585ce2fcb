from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import pytest
import typer

import arvbench
from arvbench.errors import ContractError, ExitCode, HostError, UnusableError, UserError
from arvbench.harness import cli
from arvbench.harness.commands import GROUPS, VERBS
from arvbench.harness.training import Training
from arvbench.harness.training.trainings import TRAININGS
from arvbench.results.verdict import EXIT_CODES, Verdict


@pytest.fixture
def add_verb():
    """`add_verb(name, function)` adds a line to the table of verbs for one test."""
    with ExitStack() as lines:

        def add(name: str, function: Callable[..., None]) -> None:
            globals()["added"] = function
            lines.enter_context(VERBS.scoped(name, f"{__name__}:added"))

        yield add


@pytest.mark.parametrize("verb", [*VERBS, *GROUPS])
def test_every_verb_has_help_with_examples(verb, capsys):
    assert cli.main([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"arvbench {verb}" in out


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_alone_is_what_it_is_among_all(verb):
    first, *rest = verb.split()
    few, every = cli.command_line(first), cli.command_line()
    assert list(few.commands) == [first]
    for name in (first, *rest):
        few, every = few.commands[name], every.commands[name]
        assert few.get_short_help_str() == every.get_short_help_str()
    assert [parameter.opts for parameter in few.params] == [parameter.opts for parameter in every.params]


@pytest.mark.parametrize("first", [None, "--version", "record", "records ls", ""])
def test_all_verbs_are_there_where_none_is_named(first):
    assert set(cli.command_line(first).commands) == {verb.split()[0] for verb in VERBS}


def test_help_names_all_verbs(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb.split()[0] in out for verb in VERBS)


@pytest.mark.parametrize("name", ["greet", "reference greet"])
def test_a_verb_is_a_function_and_a_line_of_the_table(name, add_verb, capsys):
    def greet(who: Annotated[str, typer.Argument(help="A name.")]) -> None:
        """Greet WHO."""
        typer.echo(f"good morning, {who}")

    add_verb(name, greet)
    *group, verb = name.split()
    assert cli.main([*group, "--help"]) == 0
    assert re.search(rf"^  {verb} +Greet WHO", capsys.readouterr().out, re.MULTILINE)
    assert cli.main([*group, verb, "Ada"]) == 0
    assert capsys.readouterr().out == "good morning, Ada\n"


def test_help_does_not_pay_for_slow_libraries():
    slow = ("torch", "matplotlib", "sklearn", "torchvision", "pandas", "numpy", "pydantic", "yaml")
    code = (
        "import sys; from arvbench.harness.cli import main; main(['--help']); "
        f"print([m for m in {slow} if m in sys.modules])"
    )
    source = str(arvbench.__path__[0]).removesuffix("/arvbench")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"arvbench {arvbench.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demoo"], "no suite 'demoo'; did you mean 'demo'"),
        (["run", "demo", "--models", "demo/vra"], "no model 'demo/vra'; did you mean 'demo/var'"),
        (["train", "demo/vra"], "no training 'demo/vra'; did you mean 'demo/var'"),
        (["report", "nowhere"], "nowhere"),
        (["verify", "nowhere.json"], "cannot read nowhere.json"),
    ],
)
def test_a_user_error_is_exit_code_2_and_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(("arguments", "name"), [
    (["run", "demo", "--out", ""], "--out"), (["run", "demo", "--out="], "--out"), (["report", "a", ""], "paths"),
    (["compare", "a", ""], "head"), (["check", "--baseline", ""], "--baseline"),
    (["sample", "demo/var", "--out", ""], "--out"),
    (["eval", "a", "--reference", "digits", "--inception-weights", ""], "--inception-weights"),
])  # fmt: skip
def test_an_empty_path_is_not_the_working_folder(arguments, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {name}: an empty path; write . for the working folder\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["run"], ["run", "demo", "--nonsense"], ["nonsense"]])
def test_a_malformed_command_line_is_exit_code_2(arguments, capsys):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ContractError("a broken promise"), 70, "Traceback"),
        (ZeroDivisionError("a bug"), 70, "Traceback"),
        (HostError("no such device"), 3, "error: no such device\n"),
        (UserError("no such file"), 2, "error: no such file\n"),
        (UnusableError("no numbers"), 6, "error: no numbers\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_exit_code_tells_a_bug_from_an_error_and_from_ctrl_c(error, code, message, add_verb, capsys):
    def broken() -> None:
        raise error

    add_verb("broken", broken)
    assert cli.main(["broken"]) == code
    printed = capsys.readouterr().err
    assert message in printed if code == 70 else message == printed


def test_help_and_the_page_of_commands_have_the_exit_codes_of_all_verbs(capsys):
    assert cli.main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for code in ExitCode:
        assert f"{code.value} {code.meaning}" in text
        assert f"| {code.value} | {code.meaning} |" in page
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 70, 130]
    assert set(EXIT_CODES) == set(Verdict)


def test_models_are_listed_as_a_table_and_as_json(capsys):
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["var-d30"]["transformer_parameters"] == 2_010_020_356
    assert rows["var-d36"] | {"image_px": 512, "steps": 10, "tokens": 2240} == rows["var-d36"]
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in rows)
    assert "…" not in out, "the table must fit 80 columns"


class ScriptedTraining(Training):
    """Write one file, report an epoch, and return a record; fail half way when told to."""

    def __init__(self, file: str, *, fails: bool = False) -> None:
        self.file, self.fails = file, fails

    def run(self, out_dir, *, device="cpu", progress=None):
        (out_dir / self.file).write_text("new")
        if self.fails:
            raise RuntimeError("half way")
        progress(1, 1, {"loss": 0.5})
        return {"wall_s": 1.0, "device": device, "quality": {"fid": 0.7}}


def test_an_unwritable_training_folder_is_a_user_error_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(TRAININGS, "digits-cnn", ScriptedTraining("weights", fails=True))
    (tmp_path / "file").write_text("")
    assert cli.main(["train", "digits-cnn", "--out", str(tmp_path / "file" / "below")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_training_that_fails_leaves_older_results_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TRAININGS, "demo/var", ScriptedTraining("var.safetensors", fails=True))
    (tmp_path / "var.safetensors").write_text("old")
    assert cli.main(["train", "demo/var", "--out", str(tmp_path)]) == 70
    assert [p.name for p in tmp_path.iterdir()] == ["var.safetensors"]
    assert (tmp_path / "var.safetensors").read_text() == "old"


def test_a_training_that_ends_well_puts_its_files_in_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TRAININGS, "demo/var", ScriptedTraining("var.json"))
    assert cli.main(["train", "demo/var", "--out", str(tmp_path)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["var.json"]
    captured = capsys.readouterr()
    assert "fid: 0.7" in captured.out
    assert "epoch 1/1: loss 0.5000" in captured.err


@pytest.mark.parametrize("verb", ["", *VERBS, *GROUPS])
def test_h_is_short_for_help(verb, capsys):
    assert cli.main([*verb.split(), "-h"]) == 0
    short = capsys.readouterr().out
    assert cli.main([*verb.split(), "--help"]) == 0
    assert short == capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80])
def test_no_summary_is_cut_in_mid_sentence(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "..." not in out.partition("Commands:")[2]
    for name, verb in VERBS.items():
        if " " not in name:  # the help of a group names its own verbs
            assert " ".join(verb.__doc__.split("\n\n")[0].split()) in out


def run_program(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "arvbench", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


# A signal that comes before the first line meets Python's own handler or none: the child says when it listens.
LISTENING = """
import sys
from arvbench import __main__

class Announcing:
    def find_spec(self, name, path=None, target=None):
        if name == "arvbench.harness.cli":
            print("listening", flush=True)

sys.meta_path.insert(0, Announcing())
sys.exit(__main__.main())
"""


def run_listening_program(*arguments: str, before: str = "") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", before + LISTENING, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"listening\n"
    return process


@pytest.mark.parametrize("delay_s", [0, 0.1, 0.3, 1])
@pytest.mark.parametrize("arguments", [("doctor",), ("models",)])
def test_ctrl_c_is_one_line_from_the_first_moment(arguments, delay_s):
    process = run_listening_program(*arguments)
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    # Python may end itself by the signal, which a shell shows as 130 too.
    assert process.returncode in (0, 130, -signal.SIGINT)
    if error.decode() != "interrupted\n":  # the work was done before the signal came
        assert (process.returncode in (0, -signal.SIGINT), bool(out), error) == (True, True, b"")


SWALLOWING_LIBRARY = """
import os, signal, sys

class Swallowing:
    def find_spec(self, name, path=None, target=None):
        if name == "arvbench.harness.cli":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except:
                print("swallowed", file=sys.stderr)

sys.meta_path.insert(0, Swallowing())
"""


def test_a_library_that_swallows_ctrl_c_while_imported_does_not_make_the_work_go_on():
    process = run_listening_program("models", before=SWALLOWING_LIBRARY)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.decode()) == (130, b"", "swallowed\ninterrupted\n")


def press_ctrl_c(_text: str) -> str:
    raise KeyboardInterrupt


def test_ctrl_c_while_the_options_are_read_is_one_line(add_verb, capsys):
    def read(option: Annotated[str, typer.Option(parser=press_ctrl_c)] = "text") -> None:
        pytest.fail("ran")

    add_verb("read", read)
    assert cli.main(["read", "--option", "x"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_pipe_that_closes_early_is_no_error():
    process = run_program("models")
    process.stdout.close()
    assert process.wait(timeout=60) in (0, 1)
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize(
    ("verb", "environment"),
    [("doctor", {"PYTHONIOENCODING": "ascii"}), ("models", {"NO_COLOR": "1"}), ("models", {"LC_ALL": "C"})],
)
def test_any_terminal_can_show_what_is_printed(verb, environment):
    process = run_program(verb, env=os.environ | environment)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, b"")
    assert b"\x1b[" not in output


def test_the_shell_completes_verbs():
    shell = {"_ARVBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "arvbench do", "COMP_CWORD": "1"}
    output, _ = run_program(env=os.environ | shell).communicate(timeout=60)
    assert output.decode().split() == ["doctor"]
