"""Methods over the schedule: what they compute, what they plan, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.methods.code import CodeSampler, CodeSettings, code_spec
from arvbench.adapters.methods.fastvar import FastVarSampler, FastVarSettings
from arvbench.adapters.registry import MODELS
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.work import total_work
from arvbench.errors import UserError

PRUNED = {"prune": {6: 0.4, 8: 0.5}, "prune_layers": (1, 2), "cache_side": 4}


class Steps(SilentObserver):
    """Planned and live bytes after every step, and its logits."""

    def __init__(self, cache) -> None:
        self.cache, self.bytes, self.logits = cache, [], []

    def step_end(self, step, output) -> None:
        self.bytes.append((step.cache_bytes, self.cache.live_bytes()))
        self.logits.append(output.logits.clone())


def drawn(sampler, settings, policy="static"):
    cache = sampler.make_cache(policy, settings, batch=2)
    seen = Steps(cache)
    noise = PerImageNoise(0, range(2))
    return sampler.sample([1, 2], settings, noise=noise, cache=cache, observer=seen), seen


@pytest.fixture(scope="module")
def var():
    return load_sampler("demo/var", weights="demo")


def rebuilt(var, kind, spec, modules=None):
    return kind(
        spec, modules or var.modules(), weights=var.weights, backend="reference", device=var.device, dtype=var.dtype
    )


def pruned_sampler(var):
    settings = FastVarSettings(**var.spec.settings.model_dump())
    return rebuilt(var, FastVarSampler, replace(var.spec, sampler=FastVarSampler, settings=settings)), settings


def code_sampler(var, steps=3):
    spec = code_spec(var.spec, var.spec, steps)
    modules = {**var.modules(), "refiner": var.modules()["transformer"]}
    return rebuilt(var, CodeSampler, spec, modules), spec.settings


@pytest.mark.parametrize("steps", range(1, 6))
@pytest.mark.parametrize("policy", ["static", "grow"])
def test_a_drafter_that_refines_itself_is_the_plain_model(var, steps, policy):
    sampler, settings = code_sampler(var, steps)
    samples, seen = drawn(sampler, settings, policy)
    plain, _ = drawn(var, var.spec.settings, policy)
    assert all(torch.equal(a, b) for a, b in zip(samples.tokens, plain.tokens, strict=True))
    assert all(planned == live for planned, live in seen.bytes)


def test_the_refiner_enters_by_the_block_sparse_kernel_and_makes_no_mask(var, monkeypatch):
    sampler, settings = code_sampler(var)
    plain, _ = drawn(sampler, settings)
    calls, reference = [], sampler._kernels.block_sparse_attention

    def counted(q, k, v, scales, softmax_scale):
        calls.append(scales)
        return reference(q, k, v, scales, softmax_scale)

    sampler.use_kernels(sampler._kernels.replacing("block_sparse_attention", counted, name="counted"))
    monkeypatch.setattr("arvbench.adapters.methods.code.block_causal_bias", lambda levels: pytest.fail("an L x L mask"))
    fused, seen = drawn(sampler, settings)
    assert len(calls) == sampler.spec.transformer.refiner.depth
    assert all(scales.causal and scales.offsets == (0, 1, 5, 14, 30) for scales in calls)
    assert all(torch.equal(a, b) for a, b in zip(fused.tokens, plain.tokens, strict=True))
    assert all(planned == live for planned, live in seen.bytes)


def test_code_counts_the_work_of_both_models(var):
    sampler, settings = code_sampler(var, 3)
    work = total_work(sampler.scale_work("static", settings, batch=2))
    rows, tokens = 4, [1, 4, 9, 16, 36, 64]
    assert work.forward_passes == 6
    assert work.tokens_forwarded == rows * (sum(tokens) + sum(tokens[:3]))
    assert work.layer_tokens == 4 * work.tokens_forwarded
    plain = total_work(var.scale_work("static", var.spec.settings, batch=2))
    assert plain.tokens_forwarded == rows * 130
    assert plain.attention_pairs == rows * 4 * 3 * sum(t * sum(tokens[: i + 1]) for i, t in enumerate(tokens))


def test_teacher_forcing_of_code_is_that_of_the_model_at_work(var):
    sampler, settings = code_sampler(var, 3)
    samples, _ = drawn(sampler, settings)
    forced = sampler.teacher_forced(samples.tokens, [1, 2], settings=settings)
    plain = var.teacher_forced(samples.tokens, [1, 2])
    assert torch.equal(forced, plain)


def test_no_pruning_is_the_plain_model(var):
    sampler, settings = pruned_sampler(var)
    samples, seen = drawn(sampler, settings)
    plain, expected = drawn(var, var.spec.settings)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(seen.logits, expected.logits, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(samples.tokens, plain.tokens, strict=True))


@pytest.mark.parametrize("policy", ["static", "grow"])
def test_pruned_tokens_never_enter_the_cache(var, policy):
    sampler, settings = pruned_sampler(var)
    settings = settings.replace(**PRUNED)
    samples, seen = drawn(sampler, settings, policy)
    assert all(planned == live for planned, live in seen.bytes)
    assert samples.images.shape == (2, 3, 32, 32)
    works = sampler.scale_work(policy, settings, batch=2)
    assert works[4].queries == (36, 22, 22, 36)
    assert works[5].queries == (64, 32, 32, 64)
    assert total_work(works).layer_tokens == 4 * (4 * 130 - 2 * (14 + 32))
    full = var.schedule(var.spec.settings, batch=2, cache=policy)
    planned = sampler.schedule(settings, batch=2, cache=policy)
    assert planned.flops < full.flops
    assert planned.steps[3].flops == full.steps[3].flops


def test_skipped_scales_cost_nothing_and_add_nothing(var):
    sampler, settings = pruned_sampler(var)
    samples, seen = drawn(sampler, settings.replace(skip_scales=2))
    plain, _ = drawn(var, var.spec.settings)
    assert len(samples.tokens) == len(seen.bytes) == 4
    assert all(torch.equal(a, b) for a, b in zip(samples.tokens, plain.tokens[:4], strict=True))
    assert samples.images.shape == plain.images.shape
    assert total_work(sampler.scale_work("static", settings.replace(skip_scales=2), batch=2)).tokens_forwarded == 4 * 30


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"skip_scales": 6}, "demo/var has 6 scales, and one must stay"),
        ({"prune": {7: 0.5}, "cache_side": 4}, "take a side of demo/var's scales"),
        ({"prune": {8: 1.0}, "cache_side": 4}, "a share in 0..1, below 1"),
        ({"prune": {8: 0.5}}, "cache_side None must be the side of a scale before"),
        ({"prune": {6: 0.5}, "cache_side": 8}, "cache_side 8 must be the side of a scale before"),
        ({**PRUNED, "prune_layers": (4,)}, "has layers 0..3"),
    ],
)
def test_pruning_that_cannot_be_done_is_refused(var, changes, reason):
    sampler, settings = pruned_sampler(var)
    with pytest.raises(UserError, match=reason):
        sampler.check_settings(sampler.spec, settings.replace(**changes))


def test_methods_run_with_exact_caches_alone(var):
    for sampler, settings in (pruned_sampler(var), code_sampler(var)):
        with pytest.raises(UserError, match="exact cache policies alone"):
            sampler.check_cache(sampler.spec, "window:2", settings)


@pytest.mark.parametrize(
    ("drafter", "refiner", "reason"),
    [
        ("var-d36", "var-d16", "share a tokenizer: var-d36 and var-d16 do not"),
        ("demo/var", "var-d16", "share a tokenizer"),
        ("var-d30", "mvar-d16", "mvar-d16 is not one"),
    ],
)
def test_a_refiner_with_another_tokenizer_is_refused(drafter, refiner, reason):
    with pytest.raises(UserError, match=reason):
        code_spec(MODELS[drafter], MODELS[refiner], 6)


def test_a_refiner_with_other_scales_is_refused(var):
    other = replace(var.spec, transformer=replace(var.spec.transformer, patch_nums=(1, 2, 4, 8)), name="other")
    with pytest.raises(UserError, match="share scales: demo/var has patch_nums"):
        code_spec(var.spec, other, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"draft_steps": 6}, "must be in 1..5"),
        ({"top_k_by_scale": (1, 2)}, "top_k_by_scale has 2 values"),
        ({"top_k_by_scale": (-1,) * 6}, "must be in 0..256"),
        ({"temperatures": (0.0,) * 6}, "above 0"),
        ({"more_smooth": True}, "no more_smooth"),
    ],
)
def test_settings_of_code_that_cannot_be_followed_are_refused(var, changes, reason):
    sampler, settings = code_sampler(var)
    assert isinstance(settings, CodeSettings)
    with pytest.raises(UserError, match=reason):
        sampler.check_settings(sampler.spec, settings.replace(**changes))
