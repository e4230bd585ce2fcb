"""LPIPS of lossy cases: with a stand-in of AlexNet's shapes, and absent with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arvbench.adapters.loading import load_sampler
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.jobs import Job
from arvbench.harness.measure.case import measure_case
from arvbench.harness.measure.drift import DriftRequest, measure_drift
from arvbench.harness.measure.perceptual import LEAST_PX, load_lpips
from arvbench.harness.run.fingerprint import lpips_file
from arvbench.results.schema import CaseConfig

CPU = torch.device("cpu")
SHAPES = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of AlexNet's convolutions, under torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for number, shape in SHAPES.items():
        scale = (2 / (shape[1] * shape[2] ** 2)) ** 0.5
        state[f"features.{number}.weight"] = torch.randn(shape, generator=generator) * scale
        state[f"features.{number}.bias"] = torch.zeros(shape[0])
    path = tmp_path_factory.mktemp("weights") / "stand-in.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def lpips(weights):
    pytest.importorskip("lpips")
    return load_lpips({"lpips-alex": weights}, (32, 32), CPU)


def test_equal_images_have_no_distance_and_more_noise_has_more(lpips):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8, generator=generator)
    assert lpips.distances(images, images) == [0.0, 0.0]
    noise = torch.randint(-60, 60, images.shape, generator=generator)

    def noisy(share):
        return (images + (noise * share).long()).clamp(0, 255).to(torch.uint8)

    little, much = lpips.distances(images, noisy(0.1)), lpips.distances(images, noisy(1.0))
    assert all(0 < a < b for a, b in zip(little, much, strict=True))
    assert "are not the published ones" in lpips.library


def test_drift_has_lpips_with_an_interval(lpips):
    sampler = load_sampler("demo/var", weights="random:0")
    request = DriftRequest(cache_policy="window:1", batch=2, images=2)
    drift = measure_drift(sampler, sampler.spec.settings, request, lpips=lpips)
    assert drift.lpips.interval[0] <= drift.lpips.mean <= drift.lpips.interval[1]
    assert drift.lpips.mean > 0
    assert drift.lpips_library == lpips.library


def test_a_case_without_lpips_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path))
    config = {"repeats": 1, "max_warmup": 1, "drift_images": 2, "threads": 1, "batch": 2}
    case = CaseConfig(model="demo/var", weights="random:0", cache="window:1", **config)
    outcome = measure_case(Job(record_id="0", case=case, folder=Path()), lambda event: None).outcome
    assert outcome.drift.lpips is None
    assert outcome.drift.lpips_note.startswith("LPIPS is absent: the lpips-alex weights are not here; fetch ")


def test_without_weights_the_reason_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"fetch alexnet-owt-7be5be79\.pth from https://.*or pass --extractor-weights"):
        load_lpips({}, (32, 32), CPU)
    with pytest.raises(UserError, match=f"too small for LPIPS, which needs {LEAST_PX}"):
        load_lpips({}, (256, 30), CPU)


def test_another_network_is_refused(tmp_path):
    pytest.importorskip("lpips")
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, path)
    with pytest.raises(CheckpointError, match=r"is no AlexNet of torchvision: it lacks features\.0\.bias"):
        load_lpips({"lpips-alex": path}, (32, 32), CPU)


def test_the_weights_are_part_of_the_identity_of_lossy_cases_alone(weights):
    files = {"lpips-alex": weights}
    exact = CaseConfig(model="demo/var", weights="demo")
    assert lpips_file(exact, files) is None
    assert lpips_file(exact.model_copy(update={"cache": "int8"}), files) == weights
    assert lpips_file(exact.model_copy(update={"dtype": "bfloat16"}), files) == weights
    assert lpips_file(exact.model_copy(update={"method": "skip:1"}), {}) is None
