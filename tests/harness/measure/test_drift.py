"""Lossy cases are compared with the static cache, and exact ones keep their rule."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_xar

from arvbench.adapters.loading import build_sampler, load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import UserError
from arvbench.harness.measure.correctness import check_correctness, spread_labels
from arvbench.harness.measure.drift import DRIFT_SEED, DriftRequest, image_likeness, measure_drift
from arvbench.harness.suites.suite import load_suite
from arvbench.results.schema import CaseConfig


@pytest.fixture(scope="module")
def var():
    return load_sampler("demo/var", weights="demo", backend="optimized")


def drift_of(sampler, policy, images=4, batch=4):
    request = DriftRequest(cache_policy=policy, batch=batch, images=images)
    return measure_drift(sampler, sampler.spec.settings, request)


def test_a_full_budget_does_not_drift(var):
    drift = drift_of(var, "window:6")
    assert drift.first_diverging == (None,) * 4
    assert drift.identical_images == 4
    assert drift.psnr_db is None
    assert drift.ssim.mean == drift.forced_agreement.mean == drift.free_agreement.mean == 1
    assert drift.kl.mean == 0 == max(step.kl for step in drift.steps)


def test_drift_begins_where_the_cache_forgets(var):
    drift = drift_of(var, "window:2", images=5)
    # The fourth scale is the first that misses one: it sees its own and two of the three before it.
    assert [step.forced_agreement for step in drift.steps[:3]] == [1, 1, 1]
    assert [step.kl for step in drift.steps[:3]] == [0, 0, 0]
    assert drift.steps[3].kl > 0
    assert min(first for first in drift.first_diverging if first is not None) >= 3
    assert drift.images == len(drift.first_diverging) == 5
    assert [step.name for step in drift.steps][-1] == "scale 8x8"
    assert 0 < drift.free_agreement.mean < 1
    for average in (drift.kl, drift.psnr_db, drift.ssim, drift.free_agreement):
        assert average.interval[0] <= average.mean <= average.interval[1]
    assert (drift.temperature, drift.top_k, drift.top_p) == (1.0, None, 0.98)
    assert drift.lpips is None


def test_along_the_static_path_agreement_is_local(var):
    drift = drift_of(var, "window:1")
    assert drift.forced_agreement.mean > drift.free_agreement.mean


def test_the_temperature_of_a_token_grid_model_is_stated():
    par = load_sampler("demo/par", weights="random:0")
    settings = par.spec.settings.replace(temperature=0.5, top_k=7)
    drift = measure_drift(par, settings, DriftRequest(cache_policy="int8", batch=2, images=2))
    assert (drift.temperature, drift.top_k) == (0.5, 7)
    assert len(drift.steps) == 19


def test_likeness_has_known_values():
    black = torch.zeros(3, 16, 16, dtype=torch.uint8)
    assert image_likeness(black, black) == (float("inf"), 1.0)
    psnr, ssim = image_likeness(black, black + 1)
    assert psnr == pytest.approx(48.1308, abs=1e-3)
    assert 0.85 < ssim < 1


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_a_lossy_case_is_judged_by_the_reference_under_the_same_policy(backend):
    sampler = load_sampler("demo/var", weights="random:0", backend=backend)
    verdict = check_correctness(sampler, sampler.spec.settings, cache_policy="window:1", batch=2)
    assert verdict.judge == "reference backend with the same lossy cache"
    assert verdict.passed
    exact = check_correctness(sampler, sampler.spec.settings, cache_policy="static", batch=2)
    assert "lossy" not in exact.judge


def suite_with(tmp_path, cache):
    path = tmp_path / "suite.yaml"
    path.write_text(f"name: s\ncases:\n  - {{model: demo/var, weights: demo, cache: {cache}}}\n")
    return load_suite(str(path))


def test_a_suite_writes_a_policy_as_text_or_as_a_mapping(tmp_path):
    suite = suite_with(tmp_path, "[static, 'window:2', {policy: scalekv, budget: 0.5, window: 4}]")
    assert [case.config.cache for case in suite.cases] == ["static", "window:2", "scalekv:0.5,window=4"]
    with pytest.raises(UserError, match="a cache as a mapping needs policy"):
        suite_with(tmp_path, "{budget: 4}")


def test_cases_without_a_new_field_are_written_as_before():
    config = CaseConfig(model="demo/var", weights="demo")
    assert "drift_images" not in config.model_dump()
    assert "drift_images" not in config.model_dump_json()
    other = CaseConfig(model="demo/var", weights="demo", drift_images=8)
    assert CaseConfig.model_validate_json(other.model_dump_json()) == other
    assert other.model_dump()["drift_images"] == 8


def test_the_distance_of_latents_is_that_of_their_root_mean_squares():
    judge = build_sampler(tiny_xar(), weights="random:1")
    half = build_sampler(tiny_xar(), weights="random:1", dtype=torch.bfloat16)
    settings = judge.spec.settings
    drift = measure_drift(half, settings, DriftRequest(cache_policy=None, batch=2, images=2), judge=judge)
    labels = spread_labels(2, judge.spec.num_classes)
    exact, lossy = (
        each.sample(labels, settings, noise=PerImageNoise(DRIFT_SEED, range(2))).tokens for each in (judge, half)
    )
    for step, a, b in zip(drift.steps, exact, lossy, strict=True):
        shares = (a - b).double().square().mean(dim=(1, 2)).sqrt() / a.double().square().mean(dim=(1, 2)).sqrt()
        assert step.free_distance == pytest.approx(float(shares.mean()), rel=1e-5) and 0 < step.free_distance < 1
    assert drift.kl is None and drift.forced_agreement is None
