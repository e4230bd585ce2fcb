from __future__ import annotations

import json
import subprocess
import sys

import pytest

import arvbench
from arvbench.errors import ContractError
from arvbench.harness import cli
from arvbench.harness.training import Training
from arvbench.harness.training.trainings import TRAININGS

VERBS = ("run", "eval", "sample", "reference", "models", "verify", "train", "convert", "report", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"arvbench {verb}" in out


def test_help_names_all_verbs(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_help_does_not_pay_for_torch():
    code = (
        "import sys; from arvbench.harness.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'matplotlib', 'sklearn', 'torchvision', 'pandas') if m in sys.modules])"
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


@pytest.mark.parametrize("arguments", [["run"], ["run", "demo", "--nonsense"], ["nonsense"]])
def test_a_malformed_command_line_is_exit_code_2(arguments, capsys):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [ContractError("a broken promise"), ZeroDivisionError("a bug")])
def test_a_bug_is_exit_code_70_with_a_traceback(monkeypatch, capsys, error):
    def broken(_path):
        raise error

    monkeypatch.setattr("arvbench.harness.verify.formats.read_fixture", broken)
    assert cli.main(["verify", "x.json"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_exit_code_130_and_says_so(monkeypatch, capsys):
    def interrupted(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr("arvbench.harness.verify.formats.read_fixture", interrupted)
    assert cli.main(["verify", "x.json"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


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
