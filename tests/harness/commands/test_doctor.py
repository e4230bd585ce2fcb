"""`arvbench doctor`: what is said is what was tried."""

from __future__ import annotations

import json

import pytest
import torch

from arvbench.harness import diagnosis
from arvbench.harness.cli import main
from arvbench.harness.diagnosis import diagnose


@pytest.fixture(scope="module")
def findings():
    return {(f.topic, f.name): f for f in diagnose()}


def test_libraries_have_the_versions_that_are_installed(findings):
    assert findings["software", "torch"].detail == torch.__version__.partition("+")[0]
    assert findings["software", "torch"].ok


def test_attention_backends_are_tried_and_named_as_they_ran(findings):
    math, flash = (findings["attention", f"{name} on cpu (float32)"] for name in ("math", "flash_attention"))
    assert math.ok and math.detail == "runs as math"
    assert flash.ok and flash.detail == "runs as flash_attention_for_cpu"
    cudnn = findings["attention", "cudnn_attention on cpu (float32)"]
    assert not cudnn.ok and cudnn.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_told_with_its_reason(findings):
    assert findings["hardware", "cuda"].ok is False
    assert "CUDA" in findings["hardware", "cuda"].detail
    assert findings["kernels", "triton"].ok is False


def test_official_files_are_found_in_a_folder_and_only_whole_sets(tmp_path):
    (tmp_path / "var_d16.pth").touch()
    found = {f.name: f for f in diagnosis._weights(tmp_path)}
    assert not found["var-d16"].ok and "vae_ch160v4096z32.pth" in found["var-d16"].detail
    (tmp_path / "vae_ch160v4096z32.pth").touch()
    found = {f.name: f for f in diagnosis._weights(tmp_path)}
    assert found["var-d16"].ok and str(tmp_path) in found["var-d16"].detail
    assert not found["var-d20"].ok


def test_demo_weights_that_are_missing_are_a_finding_and_not_a_crash(tmp_path, monkeypatch):
    monkeypatch.setattr("arvbench.adapters.loading.DEMO_FOLDER", tmp_path)
    found = {f.name: f for f in diagnosis._weights(None)}
    assert found["demo/var"].ok is False


def test_json_is_a_list_of_findings(capsys):
    assert main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"topic", "name", "ok", "detail"} == set(printed[0])


def test_the_table_shows_every_topic(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert all(topic in printed for topic in ("software", "hardware", "attention", "kernels", "weights", "extras"))
