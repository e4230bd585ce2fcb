"""Settings and cache policies that are invalid or do not go together: refused with a sentence, in every family."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from sampling_calls import Steps
from tiny_models import tiny_var

from arvbench.adapters import MODELS
from arvbench.adapters.cache.none import NoCache
from arvbench.adapters.hmar.sampler import HmarSampler
from arvbench.adapters.loading import build_sampler, demo_models, load_sampler
from arvbench.adapters.sampling import PerImageNoise, ReplayTokens
from arvbench.errors import UnknownName, UserError

DEMOS = demo_models()


@pytest.fixture(scope="module", params=DEMOS)
def sampler(request):
    return load_sampler(request.param, weights="random:0")


def test_replaced_settings_are_checked_as_new_ones_are(sampler):
    settings = sampler.spec.settings
    assert settings.replace(cfg=3).cfg == 3.0
    assert settings.replace() == settings
    with pytest.raises(UserError, match="unknown key 'cfgs'; did you mean 'cfg'"):
        settings.replace(cfgs=3)
    with pytest.raises(UserError, match="uint8_rule"):
        settings.replace(uint8_rule="floor")


def test_settings_of_another_kind_are_refused(sampler):
    for other in DEMOS:
        theirs = MODELS[other].settings
        if not isinstance(theirs, type(sampler.spec.settings)):
            with pytest.raises(UserError, match=f"takes {type(sampler.spec.settings).__name__}, got"):
                sampler.sample([1], theirs, noise=PerImageNoise(0, [0]))


@pytest.mark.parametrize("policy", ["bogus", "grow", "static", "state", "history", "none"])
def test_a_policy_that_the_family_does_not_have_gets_neither_cache_nor_plan(sampler, policy):
    settings = sampler.spec.settings
    hmar_switch = sampler.spec.family == "hmar" and policy in ("grow", "static")  # these need its setting kv_cache
    if policy in sampler.cache_policies() and not hmar_switch:
        assert sampler.make_cache(policy, settings, batch=1).policy == policy
        return
    kind = UnknownName if policy == "bogus" else UserError
    for ask in (sampler.make_cache, lambda p, s, batch: sampler.schedule(s, batch=batch, cache=p)):
        with pytest.raises(kind, match=policy):
            ask(policy, settings, batch=1)


def test_a_cache_of_a_policy_that_the_family_does_not_have_is_refused():
    var = load_sampler("demo/var", weights="random:0")
    settings = var.spec.settings
    cache = NoCache(var.cache_shape("grow", settings, batch=1))
    with pytest.raises(UserError, match="no cache policy 'none'"):
        var.sample([1], settings, noise=PerImageNoise(0, [0]), cache=cache)


def test_hmar_attends_to_all_scales_through_either_cache():
    hmar = load_sampler("demo/hmar", weights="demo")
    settings = hmar.spec.settings.replace(kv_cache=True, mask_schedule="none")
    tokens = {}
    for policy in ("grow", "static"):
        observer = Steps(hmar.make_cache(policy, settings, batch=3))
        noise = PerImageNoise(0, range(3))
        samples = hmar.sample([1, 2, 3], settings, noise=noise, cache=observer.cache, observer=observer)
        tokens[policy] = samples.tokens
        assert observer.live == [step.cache_bytes for step in hmar.schedule(settings, batch=3, cache=policy)]
        assert observer.live[-1] > 0
    assert all(torch.equal(a, b) for a, b in zip(tokens["grow"], tokens["static"], strict=True))


def test_a_refinement_on_another_ones_path_draws_the_same_positions_again():
    class Path(ReplayTokens):
        def __init__(self, outputs):
            super().__init__([output.tokens for output in outputs])
            self.outputs = outputs

        def redrawn(self, positions_Bn, step):
            return self.outputs[step].redrawn

    hmar = load_sampler("demo/hmar", weights="demo")
    observer, settings = Steps(), hmar.spec.settings
    samples = hmar.sample([1, 2], settings, noise=PerImageNoise(0, range(2)), observer=observer)
    masked = [output.redrawn is not None for output in observer.outputs]
    assert masked == [step.kind == "mask" for step in observer.steps]

    # Other choices in every refinement: another mask, if the replay did not put it right.
    class AnyPositions(HmarSampler):
        def masked_positions(self, drawn, among_Bn, count, scale, run):
            return torch.zeros(2, count, dtype=torch.int64)

    other = build_sampler(replace(hmar.spec, sampler=AnyPositions), weights="demo")
    again = other.sample([1, 2], settings, noise=Path(observer.outputs))
    assert torch.equal(again.images, samples.images)


def test_smoothing_leaves_known_tokens_alone():
    var = load_sampler("demo/var", weights="demo")
    settings = var.spec.settings.replace(more_smooth=True)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    everything = torch.ones(2, 32, 32, dtype=torch.bool)
    restored = var.edit(images, everything, [1, 2], settings, noise=PerImageNoise(0, range(2)))
    torch.testing.assert_close(restored.decoded, var.decode(var.encode(images)), atol=1e-5, rtol=0)


def test_the_plan_of_a_call_is_made_once():
    sampler = build_sampler(tiny_var(), weights="random:1")
    plans = set()
    for batch, cfg in itertools.product((1, 2, 1), (1.0, 2.0)):
        settings, observer = sampler.spec.settings.replace(cfg=cfg), Steps()
        sampler.sample([0] * batch, settings, noise=PerImageNoise(0, range(batch)), observer=observer)
        plan = sampler.schedule(settings, batch=batch)
        plans.add(id(plan))
        assert all(ours is theirs for ours, theirs in zip(observer.steps, plan, strict=True))
    assert len(plans) == 4


def test_llamagen_is_guided_as_nar_is_at_256_px():
    assert MODELS["llamagen-b-256"].settings.cfg == MODELS["nar-b"].settings.cfg == 2.0
