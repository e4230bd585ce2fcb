"""The check of correctness where steps yield latents: two judges, no tokens to count."""

from __future__ import annotations

import math

import pytest
import torch
from latent_forms import LATENT_FORMS

from arvbench.adapters.cache.grow import GrowCache
from arvbench.adapters.loading import build_sampler
from arvbench.errors import ContractError
from arvbench.harness.measure.correctness import TOLERANCES, check_correctness
from arvbench.harness.measure.integrity import FreshNoise

JUDGES = {"reference": "recomputation without a cache", "optimized": "reference backend"}


def build(form, **options):
    make, changes = LATENT_FORMS[form]
    spec = make()
    return build_sampler(spec, weights="random:1", **options), spec.settings.replace(**changes)


def policies(form: str) -> list[str]:
    """Return the exact policies that keep a cache; "none" for a family that has none."""
    exact = LATENT_FORMS[form][0]().sampler.cache_policies()
    return [policy for policy in exact if policy != "none"] or ["none"]


def forms_and_policies():
    """Every form with every policy; a second policy is slow but once, since policies give the same latents."""
    for number, form in enumerate(LATENT_FORMS):
        for place, policy in enumerate(policies(form)):
            yield pytest.param(form, policy, marks=[pytest.mark.slow] * (number > 0 and place > 0))


@pytest.mark.parametrize(("form", "policy"), list(forms_and_policies()))
@pytest.mark.parametrize("backend", JUDGES)
def test_latents_are_compared_and_no_tokens_are_counted(form, backend, policy):
    sampler, settings = build(form, backend=backend)
    result = check_correctness(sampler, settings, cache_policy=policy, batch=3)
    assert result.passed and result.judge == JUDGES[backend]
    assert result.max_abs_diff <= result.tolerance
    assert result.equal_tokens is None and result.required_equal_tokens is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_within_their_own_tolerance(dtype):
    sampler, settings = build("xar", dtype=dtype)
    assert check_correctness(sampler, settings, cache_policy="grow", batch=3).passed


class ForgetfulCache(GrowCache):
    """Loses the first token of every layer."""

    def extend(self, layer, k_RHlD, v_RHlD):
        keys, values = super().extend(layer, k_RHlD, v_RHlD)
        return keys[:, :, 1:], values[:, :, 1:]

    def attend_keeping(self, layer, new, kept):
        return super().attend_keeping(layer, new._replace(bias_llT=None), kept)


@pytest.mark.parametrize("backend", JUDGES)
def test_a_cache_that_forgets_a_token_fails(backend):
    sampler, settings = build("xar", backend=backend)
    real = sampler.make_cache
    sampler.make_cache = lambda policy, settings, batch: ForgetfulCache(real("grow", settings, batch=batch).shape)
    ForgetfulCache.policy = "grow"
    result = check_correctness(sampler, settings, cache_policy="grow", batch=3)
    assert not result.passed and result.max_abs_diff > result.tolerance


@pytest.mark.parametrize("backend", JUDGES)
def test_latents_that_are_no_numbers_fail(backend):
    sampler, settings = build("xar", backend=backend)
    next(reversed(dict(sampler.transformer.named_parameters()).values())).data.fill_(float("nan"))
    result = check_correctness(sampler, settings, cache_policy="grow", batch=3)
    assert not result.passed and math.isinf(result.max_abs_diff) and result.equal_tokens is None
    assert result.judge == "finite latents (there is a NaN in step 0)"


def test_a_call_that_denoises_nothing_is_noticed():
    sampler, settings = build("xar")
    noise, schedule = FreshNoise(0, 3), sampler.schedule(settings, batch=3)
    sampler.sample([0, 1, 2], settings, noise=noise.next())
    noise.check(schedule)
    noise.next()
    with pytest.raises(ContractError, match="drew no tokens in 4 of 4 steps"):
        noise.check(schedule)


def test_every_dtype_has_a_tolerance_for_latents():
    assert [TOLERANCES[dtype].latents for dtype in (torch.float32, torch.float16, torch.bfloat16)] == [1e-3, 3e-2, 0.2]
