"""Calibration files: how they are made, and for whom they serve."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters.cache.calibrate import (
    AttentionStatistics,
    CalibrationRequest,
    calibrate,
    selectivity,
    z_scores,
)
from arvbench.adapters.cache.calibration import write_calibration
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import UserError


@pytest.fixture(scope="module")
def var():
    return load_sampler("demo/var", weights="demo")


@pytest.fixture(scope="module")
def found(var):
    return calibrate(var, var.spec.settings, CalibrationRequest(labels=(0, 3, 7), batch=2, drafters=0.2))


@pytest.fixture(scope="module")
def file(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "var.json"
    path.write_text(write_calibration(found))
    return path


def test_the_calibration_of_the_trained_model_names_its_kinds_and_its_weights(var, found):
    assert (found.model, found.layers, found.heads) == ("demo/var", 4, 3)
    assert sum(map(len, found.drafters.values())) == 4  # a fifth of 4 layers at 5 scales with a history
    assert sum(map(len, found.contextual)) == 6
    assert found.weights == tuple(var.weights.sha256.values())
    assert found.made["images"] == 3
    # Drafters are the lowest of their scale, contextual heads the lowest of all.
    for scale, layers in found.drafters.items():
        row = found.made["selectivity"][scale]
        assert max(row[layer] for layer in layers) <= min(row[layer] for layer in range(4) if layer not in layers)
    variance = torch.tensor(found.made["column_variance"])
    chosen = torch.zeros(4, 3, dtype=torch.bool)
    for layer, heads in enumerate(found.contextual):
        chosen[layer, list(heads)] = True
    assert variance[chosen].max() <= variance[~chosen].min()


def test_batches_do_not_change_a_calibration(var, found):
    other = calibrate(var, var.spec.settings, CalibrationRequest(labels=(0, 3, 7), batch=3, drafters=0.2))
    assert (other.drafters, other.contextual) == (found.drafters, found.contextual)
    expected = torch.tensor(found.made["selectivity"])
    torch.testing.assert_close(torch.tensor(other.made["selectivity"]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["scalekv:0.5,window=4", "hack:0.5"])
def test_both_policies_use_the_file_that_was_made(var, file, found, policy):
    settings, request = var.spec.settings, f"{policy},calibration={file}"
    cache = var.make_cache(request, settings, batch=1)
    var.sample([1], settings, noise=PerImageNoise(0, range(1)), cache=cache)
    held = cache.plan(cache.shape, read_request(request).options).entries
    plain = cache.plan(cache.shape, read_request(policy).options).entries
    assert held != plain
    if policy.startswith("scalekv"):
        scale, layers = max(found.drafters.items())
        others = [tokens for layer, tokens in enumerate(held[scale]) if layer not in layers]
        assert min(held[scale][layer] for layer in layers) > max(others)


def test_the_calibration_of_other_weights_is_refused(file):
    other = load_sampler("demo/var", weights="random:0")
    with pytest.raises(UserError, match=r"made with other weights: sha256 [0-9a-f]{12} of 'demo/var', not random:0"):
        other.make_cache(f"hack:0.5,calibration={file}", other.spec.settings, batch=1)


def test_a_family_without_scales_is_refused():
    par = load_sampler("demo/par", weights="random:0")
    with pytest.raises(UserError, match="it runs on: var, flexvar, hmar"):
        calibrate(par, par.spec.settings, CalibrationRequest(labels=(0,)))


@pytest.mark.parametrize("name", ["demo/hmar", "demo/flexvar"])
def test_other_families_with_scales_can_be_calibrated(name):
    sampler = load_sampler(name, weights="random:0")
    settings = sampler.spec.settings
    if name == "demo/hmar":
        settings = settings.replace(kv_cache=True, mask_schedule="none")
    made = calibrate(sampler, settings, CalibrationRequest(labels=(0,)))
    assert made.weights == ("random:0",)
    assert made.sides == sampler.sides(settings)
    assert made.drafters


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan"), -0.1])
def test_a_share_of_nothing_or_all_is_refused(share):
    with pytest.raises(UserError, match="must be a share above 0 and below 1"):
        CalibrationRequest(labels=(0,), drafters=share)


def test_selectivity_is_own_mass_times_mass_of_the_most_attended():
    # 1 row, 1 head, 2 queries; a history of 18 tokens, of which 16 count, and 2 own tokens.
    weights = torch.zeros(1, 1, 2, 20)
    weights[0, 0, :, :18] = 0.5 / 18
    weights[0, 0, :, 18:] = 0.25
    assert selectivity(weights).tolist() == pytest.approx([0.5 * 16 * 0.5 / 18])
    first = torch.ones(1, 1, 1, 1)
    assert selectivity(first).tolist() == [0.0]


def test_scores_compare_the_layers_of_a_scale():
    scores = z_scores(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    assert scores.tolist() == [[-1.0, 1.0], [0.0, 0.0]]


def test_heads_are_contextual_where_all_queries_look_at_the_same_keys():
    statistics = AttentionStatistics(steps=1, layers=1, heads=2)
    same = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    diagonal = torch.eye(2)
    statistics.add(0, 0, torch.stack((diagonal, same))[None])
    assert statistics.contextual(0.5) == ((1,),)
    assert statistics.head_order().tolist() == [1, 0]
