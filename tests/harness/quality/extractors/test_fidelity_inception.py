"""torch-fidelity's own network on the user's file, which is never opened as something that could run code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from random_inception import random_inception, write_random_inception
from torch import nn

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.quality.extractors import load_extractor

IMAGES = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INCEPTIONS = ("adm-inception", "fidelity-inception")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    monkeypatch.delenv("ARVBENCH_INCEPTION", raising=False)


def test_features_are_those_of_the_library(weights):
    extractor = load_extractor("fidelity-inception", extractor_files={"inception": weights})
    out = extractor.extract(IMAGES)
    with torch.inference_mode():
        features, logits = random_inception()(IMAGES)
    assert features.std(dim=0).mean() > 1e-2, "a degenerate network would prove nothing"
    assert torch.equal(out["2048"], features)
    assert torch.equal(out["logits_unbiased"], logits)
    assert extractor.layers == {"2048": 2048, "logits_unbiased": 1008}
    assert extractor.sha256 == sha256_of(weights)
    assert "not the published ones" in extractor.note


def test_variable_names_the_weights(weights, monkeypatch):
    monkeypatch.setenv("ARVBENCH_INCEPTION", str(weights))
    assert load_extractor("fidelity-inception").sha256 == sha256_of(weights)


@pytest.mark.parametrize("name", INCEPTIONS)
def test_path_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(UserError, match=r"no inception weights at .*nowhere\.pth"):
        load_extractor(name, extractor_files={"inception": tmp_path / "nowhere.pth"})


@pytest.mark.parametrize("name", INCEPTIONS)
def test_file_that_would_run_code_does_not(name, tmp_path):
    marker = tmp_path / "ran"

    class RunsCode:
        def __reduce__(self):
            return (marker.touch, ())

    path = tmp_path / "malicious.pth"
    path.write_bytes(pickle.dumps({"fc.weight": RunsCode()}, protocol=2))
    zipped = tmp_path / "zipped.pth"
    torch.save({"fc.weight": RunsCode()}, zipped)
    for file in (path, zipped):
        with pytest.raises(CheckpointError):
            load_extractor(name, extractor_files={"inception": file})
    assert not marker.exists()
    torch.load(zipped, weights_only=False)
    assert marker.exists(), "the file is harmless, so the test shows nothing"


def test_torch_fidelity_unpickles_only_a_file_of_this_process(weights, monkeypatch):
    opened = []
    load = torch.load

    def recorded(source, *args, **options):
        opened.append((source, options.get("weights_only", True)))
        return load(source, *args, **options)

    monkeypatch.setattr(torch, "load", recorded)
    load_extractor("fidelity-inception", extractor_files={"inception": weights})
    assert (str(weights), True) in [(str(source), weights_only) for source, weights_only in opened]
    assert all(weights_only for source, weights_only in opened if isinstance(source, str | Path))


def test_nothing_is_downloaded(weights, monkeypatch):
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: pytest.fail("asked")
    )
    load_extractor("fidelity-inception", extractor_files={"inception": weights})


@pytest.mark.parametrize("name", INCEPTIONS)
def test_torchscript_archive_is_refused(name, tmp_path):
    path = tmp_path / "script.pth"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    with pytest.raises(CheckpointError):
        load_extractor(name, extractor_files={"inception": path})


@pytest.mark.parametrize("name", INCEPTIONS)
def test_weights_of_another_network_are_refused_with_the_reason(name, tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth \(inception weights\) does not fit: .*missing"):
        load_extractor(name, extractor_files={"inception": tmp_path / "other.pth"})
