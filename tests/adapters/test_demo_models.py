"""Promises of every demo model with its trained weights; a model is tested by its line in the table."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from sampling_calls import Steps, same_tokens

from arvbench.adapters.loading import demo_models, load_sampler
from arvbench.adapters.sampling import PerImageNoise

IMAGES = 3
"""A batch of two, and one image."""
LABELS = [i % 10 for i in range(IMAGES)]


@pytest.fixture(scope="module", params=demo_models())
def sampler(request):
    return load_sampler(request.param, weights="demo")


@pytest.fixture(scope="module")
def heard(sampler):
    """The steps of `together`, when it is drawn."""
    return Steps()


@pytest.fixture(scope="module")
def together(sampler, heard):
    """All images in one call, drawn by the reference."""
    return draw(sampler, range(IMAGES), observer=heard)


@pytest.fixture(scope="module")
def cached(sampler):
    """Cache policy -> a call of the reference with it, and the steps of that call, whose observer has the cache."""
    calls = {}
    for policy in filter(partial(runs_with, sampler), sampler.cache_policies()):
        steps = Steps(sampler.make_cache(policy, settings_of(sampler), batch=IMAGES))
        calls[policy] = draw(sampler, range(IMAGES), cache=steps.cache, observer=steps), steps
    return calls


def settings_of(sampler):
    """The settings of the model, with few of the steps that denoise a latent, which are alike."""
    settings = sampler.spec.settings
    return settings.replace(num_steps=4) if sampler.spec.latent_dim else settings


def draw(sampler, indices, policy=None, cache=None, observer=None):
    labels, settings = [LABELS[i] for i in indices], settings_of(sampler)
    cache = cache or sampler.make_cache(policy, settings, batch=len(labels))
    noise = PerImageNoise(0, list(indices))
    return sampler.sample(labels, settings, noise=noise, cache=cache, observer=observer)


def assert_same_images(samples, together, indices):
    assert same_tokens(samples, [theirs[list(indices)] for theirs in together.tokens])
    # The same tokens; convolutions may round a pixel differently with another batch, by one step of 255.
    difference = samples.images.int() - together.images[list(indices)].int()
    assert difference.abs().max() <= 1


def test_an_image_is_the_same_in_another_batch(sampler, together):
    assert_same_images(draw(sampler, range(IMAGES - 1)), together, range(IMAGES - 1))


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.slow), IMAGES - 1])
def test_an_image_is_the_same_alone(sampler, together, index):
    assert_same_images(draw(sampler, [index]), together, [index])


def test_an_image_is_the_same_in_any_order(sampler, together):
    shuffled = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0)).tolist()
    assert_same_images(draw(sampler, shuffled), together, shuffled)


def test_every_cache_policy_and_backend_draws_the_tokens_of_the_reference(sampler, together, cached):
    optimized = load_sampler(sampler.spec.name, weights="demo", backend="optimized")
    every = range(IMAGES)
    for policy, (samples, _) in cached.items():
        assert_same_images(samples, together, every)
        assert_same_images(draw(optimized, every, policy), together, every)


def runs_with(sampler, policy):
    """HMAR's `grow` and `static` are another model (attention over all scales), which refinement excludes."""
    return sampler.spec.family != "hmar" or policy == "none"


def test_cache_bytes_equal_the_plan_at_every_step(sampler, cached):
    for policy, (_, steps) in cached.items():
        plan = sampler.schedule(settings_of(sampler), batch=IMAGES, cache=policy)
        assert steps.live == [step.cache_bytes for step in plan]
        assert steps.cache.allocated_bytes() >= max(steps.live)


def test_teacher_forcing_gives_the_logits_of_the_steps(sampler, together, heard):
    settings = settings_of(sampler)
    if sampler.spec.latent_dim:
        # A path of latents is denoised again, from equal noise.
        again = sampler.forced_latents(together.tokens, LABELS, settings, PerImageNoise(0, range(IMAGES)))
        assert same_tokens(again, [output.tokens for output in heard.outputs])
        return
    conditional = [
        output.logits_pre_cfg[:IMAGES]
        for step, output in zip(heard.steps, heard.outputs, strict=True)
        if step.kind != "mask"
    ]
    forced = sampler.teacher_forced(together.tokens, LABELS)
    if len(sampler.schedule(settings, batch=IMAGES)) > len(together.tokens):
        # Refinement draws tokens again that later scales then build on; their logits are those of the final tokens.
        assert len(conditional) == len(together.tokens)
    torch.testing.assert_close(torch.cat(conditional, dim=1), forced, atol=2e-3, rtol=0)


def test_decoding_the_tokens_gives_the_image(sampler, together):
    # A decoder that draws takes the noise of the call.
    decoded = sampler.decode(together.tokens, noise=PerImageNoise(0, range(IMAGES)))
    torch.testing.assert_close(decoded, together.decoded, atol=1e-5, rtol=0)


def test_encoding_gives_the_form_that_decoding_takes(sampler, together):
    tokens = sampler.encode(together.decoded[:2].clamp(0, 1) * 2 - 1)
    assert [t.shape for t in tokens] == [t[:2].shape for t in together.tokens]
    assert sampler.decode(tokens).shape == (2, 3, 32, 32)
