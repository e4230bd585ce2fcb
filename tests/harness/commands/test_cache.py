"""`arvbench cache calibrate`, and runs with the file that it writes."""

from __future__ import annotations

import json

import pytest

from arvbench.adapters.cache.calibration import FORMAT
from arvbench.harness.cli import main


@pytest.fixture
def calibrated(tmp_path, capsys):
    path = tmp_path / "made" / "var.json"
    assert main(["cache", "calibrate", "demo/var", "--out", str(path), "--images", "2"]) == 0
    assert "use it as cache=scalekv:0.5,calibration=" in capsys.readouterr().out
    return path


def test_a_calibration_serves_its_own_model_and_no_other(calibrated, tmp_path, capsys):
    content = json.loads(calibrated.read_text())
    assert content["format"] == FORMAT
    assert len(content["weights"][0]) == 64

    def run(model, weights):
        cache = f"cache=hack:0.5,calibration={calibrated}"
        case = ["run", "demo", "--models", model, "--weights", weights, "--set", cache, "--out", str(tmp_path / "r")]
        code = main([*case, "--set", "batch=1", "--set", "drift_images=2", "--no-report", "--no-control"])
        return code, capsys.readouterr().err.strip().splitlines()

    code, lines = run("demo/var", "random:0")
    assert code == 2
    assert len(lines) == 1
    assert "was made with other weights" in lines[0]
    code, lines = run("demo/hmar", "demo")
    assert code == 2
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["demo/par", "--out", "x.json"], "it runs on: var, flexvar, hmar"),
        (["demo/mvar", "--out", "x.json"], "it runs on: var, flexvar, hmar"),
        (["demo/hmar", "--out", "x.json"], "kv_cache"),
        (["var-d16", "--out", "x.json"], "var-d16 needs --weights"),
        (["demo/var", "--out", "x.txt"], "a calibration is a .json file"),
        (["demo/var", "--out", "x.json", "--drafters", "2"], "must be a share above 0 and below 1"),
        (["demo/va", "--out", "x.json"], "demo/var"),
        (["demo/var", "--out", "there.json"], "already exists"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    assert main(["cache", "calibrate", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert reason in line
    assert not (tmp_path / "x.json").exists()
