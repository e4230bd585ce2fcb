"""`arvbench doctor`: every line reports a trial."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from arvbench.adapters.registry import MODELS
from arvbench.harness.cli import main
from arvbench.harness.diagnosis import Check, diagnose

UNSHIPPED = replace(MODELS["demo/var"], name="demo/unshipped")
"""A demo model whose weights are not part of the package."""


@pytest.fixture(scope="module")
def found() -> list[Check]:
    """All checks, made once."""
    return diagnose()


@pytest.fixture
def checks(found):
    return {(check.topic, check.name): check for check in found}


@pytest.fixture
def _found_before(found, monkeypatch):
    """Have `doctor` show `found`: making the checks takes a second."""
    monkeypatch.setattr("arvbench.harness.diagnosis.diagnose", lambda weights: found)


def weights(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks if check.topic == "weights"}


def test_libraries_have_the_versions_that_are_installed(checks):
    assert checks["software", "torch"].detail == torch.__version__.partition("+")[0]
    assert checks["software", "torch"].ok


def test_attention_backends_are_tried_and_named_as_they_ran(checks):
    math, flash = (checks["attention", f"{name} on cpu (float32)"] for name in ("math", "flash_attention"))
    assert math.ok and math.detail == "runs as math"
    assert flash.ok and flash.detail == "runs as flash_attention_for_cpu"
    cudnn = checks["attention", "cudnn_attention on cpu (float32)"]
    assert not cudnn.ok and cudnn.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_reported_with_its_reason(checks):
    assert checks["hardware", "cuda"].ok is False
    assert "CUDA" in checks["hardware", "cuda"].detail
    assert checks["kernels", "triton"].ok is False


def test_official_files_are_found_in_a_folder_and_only_whole_sets(tmp_path):
    (tmp_path / "var_d16.pth").touch()
    checks = weights(diagnose(tmp_path))
    assert not checks["var-d16"].ok and "vae_ch160v4096z32.pth" in checks["var-d16"].detail
    (tmp_path / "vae_ch160v4096z32.pth").touch()
    checks = weights(diagnose(tmp_path))
    assert checks["var-d16"].ok and str(tmp_path) in checks["var-d16"].detail
    assert not checks["var-d20"].ok


def test_demo_weights_that_are_missing_are_a_check_and_not_a_crash():
    with MODELS.scoped("demo/unshipped", f"{__name__}:UNSHIPPED"):
        checks = weights(diagnose())
    assert checks["demo/unshipped"].ok is False and "unshipped.safetensors" in checks["demo/unshipped"].detail
    assert checks["demo/var"].ok


def test_json_is_a_list_of_checks(capsys):
    assert main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"topic", "name", "ok", "detail"} == set(printed[0])


@pytest.mark.usefixtures("_found_before")
def test_the_table_shows_every_topic(capsys):
    assert main(["doctor", "--all"]) == 0
    printed = capsys.readouterr().out
    assert all(topic in printed for topic in ("software", "hardware", "attention", "kernels", "weights", "extras"))


@pytest.mark.usefixtures("_found_before")
@pytest.mark.parametrize("width", [60, 80])
def test_doctor_is_one_screen(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25 + (5 if width < 80 else 0)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert all(heading in text for heading in ("This machine", "Works", "Missing", "Next", "arvbench run demo"))
    assert torch.__version__.partition("+")[0] in text


@pytest.mark.usefixtures("_found_before")
def test_all_checks_are_in_the_long_table_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert main(["doctor", "--all"]) == 0
    table = capsys.readouterr().out
    assert len(checks) > 40 and all(check["name"].split()[0][:12] in table for check in checks)
