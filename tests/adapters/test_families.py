"""Promises of every family, in all forms that change its arithmetic; a new family is tested by its line in FORMS."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from latent_forms import LATENT_FORMS
from sampling_calls import LABELS, Steps, draw, same_tokens
from tiny_models import (
    build_mvar,
    tiny_dar,
    tiny_detailflow,
    tiny_flexvar,
    tiny_hmar,
    tiny_mvar,
    tiny_token_grid,
    tiny_var,
)

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import NULL_LABEL
from arvbench.adapters.sampling import PerImageNoise, ReplayTokens
from arvbench.errors import ContractError, UserError

ADALN = {"": False, " shared-adaln": True}
PREDICTIONS = {
    "": {},
    " plain": {"mask_schedule": "none"},
    " kv-cache": {"mask_schedule": "none", "kv_cache": True},
}
SCALES = {
    "": None,
    " longer": (1, 2, 2, 3, 4, 5, 6),
    " wide": (1, 2, (2, 3), (3, 5)),
    " down": (1, 4, 2, 5),
}
FORMS = {
    **{f"var{name}": (partial(tiny_var, shared_aln=shared), {}) for name, shared in ADALN.items()},
    "mvar": (tiny_mvar, {}),
    "mvar plain-attention": (partial(tiny_mvar, attn_l2_norm=False), {}),
    **{
        f"hmar{name}{form}": (partial(tiny_hmar, shared_aln=shared), changes)
        for name, shared in ADALN.items()
        for form, changes in PREDICTIONS.items()
    },
    **{
        f"flexvar{name}{form}": (partial(tiny_flexvar, shared_aln=shared), {"scales": scales})
        for name, shared in ADALN.items()
        for form, scales in SCALES.items()
    },
    **{family: (partial(tiny_token_grid, family), {}) for family in ("llamagen", "nar", "par")},
    **LATENT_FORMS,
    "detailflow": (tiny_detailflow, {}),
    "detailflow gradual": (tiny_detailflow, {"gradual_cfg": True}),
    "detailflow first-tokens": (tiny_detailflow, {"tokens": 8}),
    "dar": (tiny_dar, {}),
    "dar constant": (tiny_dar, {"cfg": 2.0, "cfg_end": None}),
    "detailflow two-groups": (partial(tiny_detailflow, causal_num=8), {}),
}
"""Form -> the maker of its spec, and changes to the official settings."""


def forms(names):
    """The forms as parameters; those with two changes at once, whose parts other forms have alone, are slow."""
    both = {f"hmar shared-adaln{form}" for form in PREDICTIONS if form} | {
        f"flexvar shared-adaln{form}" for form in SCALES if form
    }
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in both)) for name in names]


DROPOUT = {
    "var": partial(tiny_var, cond_drop_rate=1.0),
    "flexvar": partial(tiny_flexvar, cond_drop_rate=1.0),
    "mvar": partial(tiny_mvar, cond_drop_rate=1.0),
    **{family: partial(tiny_token_grid, family, class_dropout_prob=1.0) for family in ("llamagen", "nar", "par")},
    "detailflow": partial(tiny_detailflow, class_dropout_prob=1.0),
    "dar": partial(tiny_dar, class_dropout_prob=1.0),
}
"""Family -> the maker of a spec that drops every label in training; HMAR, with two losses, has its own test."""

OF_IDS = [form for form in FORMS if form not in LATENT_FORMS]
"""Forms whose steps draw ids; `test_latents` has the promises of the others that name logits or ids here."""
REFINED = [form for form, (_, changes) in FORMS.items() if form.startswith("hmar") and not changes]
"""Forms that draw tokens again: the last ones alone cannot be replayed to the same image."""
UNTRAINED = [form for form, (_, changes) in FORMS.items() if changes.get("kv_cache")]
"""Forms of sampling only: HMAR trains without a history, so its loss has no such form."""


def build_form(form: str, **options):
    """Build a sampler with random weights, and the settings of the form."""
    make, changes = FORMS[form]
    spec = make()
    build = build_mvar if spec.family == "mvar" else partial(build_sampler, weights="random:1")
    return build(spec, **options), spec.settings.replace(**changes)


def policies(sampler, settings) -> list[str]:
    """Return the cache policies that the family can run `settings` with."""

    def fits(policy: str) -> bool:
        try:
            sampler.check_cache(sampler.spec, policy, settings)
        except UserError:
            return False
        return True

    return [policy for policy in sampler.cache_policies() if fits(policy)]


@pytest.fixture(scope="module", params=forms(FORMS))
def form(request):
    return request.param


@pytest.fixture(scope="module")
def built(form):
    return build_form(form)


@pytest.fixture
def sampler(built):
    return built[0]


@pytest.fixture
def settings(built):
    return built[1]


@pytest.fixture(scope="module")
def cached(built):
    """Cache policy -> a call with its cache, which the observer has, and the observer."""
    sampler, settings = built
    calls = {}
    for policy in policies(sampler, settings):
        observer = Steps(sampler.make_cache(policy, settings, batch=len(LABELS)))
        assert observer.cache.policy == policy
        calls[policy] = draw(sampler, settings=settings, cache=observer.cache, observer=observer), observer
    return calls


def test_images_and_tokens_have_the_planned_form(sampler, settings, drawn):
    samples = drawn
    assert samples.images.dtype == torch.uint8
    assert samples.images.shape == samples.decoded.shape == (3, 3, *sampler.image_shape(settings))
    groups = sampler.schedule(settings, batch=3).groups()
    assert len(samples.tokens) == len(groups)
    kind = torch.float32 if sampler.spec.latent_dim else torch.int64
    assert all(t.shape[0] == 3 and t.dtype == kind for t in samples.tokens)


def test_every_policy_draws_the_same_tokens(cached, drawn):
    assert all(same_tokens(samples, drawn) for samples, _ in cached.values())


def test_every_policy_of_the_optimized_backend_draws_the_tokens_of_the_reference(form, settings, drawn):
    candidate = build_form(form, backend="optimized")[0]
    for policy in policies(candidate, settings):
        assert same_tokens(draw(candidate, settings=settings, policy=policy), drawn)


def test_a_cache_can_be_used_again(sampler, settings, cached):
    for first, observer in cached.values():
        second = draw(sampler, settings=settings, cache=observer.cache)
        assert torch.equal(first.images, second.images)
        assert same_tokens(first, second)
        observer.cache.reset()
        # A preallocated buffer stays, without live bytes.
        assert observer.cache.live_bytes() == 0


def test_a_cache_of_another_batch_is_refused(sampler, settings):
    for policy in policies(sampler, settings):
        with pytest.raises(ContractError, match="needs a cache"):
            draw(sampler, settings=settings, cache=sampler.make_cache(policy, settings, batch=1))


def test_live_cache_bytes_equal_the_plan_at_every_step(sampler, settings, cached):
    for policy, (_, observer) in cached.items():
        plan = sampler.schedule(settings, batch=len(LABELS), cache=policy)
        assert observer.live == [step.cache_bytes for step in plan]


def test_an_image_depends_neither_on_its_batch_nor_on_its_place(sampler, settings):
    labels = [i % 5 for i in range(6)]
    together = draw(sampler, labels, settings)
    for images in ([5], [3, 2, 5, 4, 0]):
        samples = sampler.sample([labels[i] for i in images], settings, noise=PerImageNoise(0, images))
        assert same_tokens(samples, [theirs[images] for theirs in together.tokens])
        # The same tokens; convolutions may round a pixel differently with another batch, by one step of 255.
        assert (samples.images.int() - together.images[images].int()).abs().max() <= 1


@pytest.mark.parametrize("form", forms(OF_IDS), indirect=True)
def test_stepwise_logits_equal_the_teacher_forced_pass(sampler, settings):
    for policy in policies(sampler, settings):
        observer = Steps()
        samples = draw(sampler, settings=settings, policy=policy, observer=observer)
        predicted = zip(observer.steps, observer.outputs, strict=True)
        stepwise = torch.cat([output.logits_pre_cfg for step, output in predicted if step.kind != "mask"], dim=1)
        for labels, rows in ((LABELS, slice(3)), ([NULL_LABEL] * 3, slice(3, 6))):
            forced = sampler.teacher_forced(samples.tokens, labels, settings=settings)
            torch.testing.assert_close(forced, stepwise[rows], atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", forms(form for form in FORMS if form not in REFINED), indirect=True)
def test_replayed_tokens_give_the_same_image(sampler, settings, drawn, heard):
    again = sampler.sample(LABELS, settings, noise=ReplayTokens([output.tokens for output in heard.outputs]))
    assert torch.equal(again.images, drawn.images)


def test_decoded_tokens_give_the_same_image(sampler, settings, drawn):
    again = sampler.decode(drawn.tokens, settings=settings, noise=PerImageNoise(0, range(len(LABELS))))
    torch.testing.assert_close(again, drawn.decoded)


@pytest.mark.parametrize("form", forms(form for form in OF_IDS if form not in UNTRAINED), indirect=True)
def test_loss_is_the_cross_entropy_of_the_teacher_forced_logits(sampler, settings, drawn):
    tokens = drawn.tokens
    logits = sampler.teacher_forced(tokens, LABELS, settings=settings)
    expected = -logits.log_softmax(-1).gather(-1, torch.cat(tokens, 1).unsqueeze(-1)).mean()
    if sampler.spec.family == "hmar":  # whose own loss adds that of masked prediction
        loss = sampler.next_scale_loss(tokens, torch.tensor(LABELS))
    else:
        loss = sampler.loss(tokens, torch.tensor(LABELS), settings=settings)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("make", DROPOUT.values(), ids=DROPOUT)
def test_labels_are_dropped_only_in_training_and_at_the_stated_rate(make):
    sampler = (build_mvar if make.func is tiny_mvar else partial(build_sampler, weights="random:1"))(make())
    tokens, labels = draw(sampler).tokens, torch.tensor(LABELS)
    without_dropout = sampler.loss(tokens, labels)
    sampler.transformer.train()
    with_dropout = sampler.loss(tokens, labels, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(without_dropout, with_dropout)
    sampler.transformer.eval()
    torch.testing.assert_close(sampler.loss(tokens, torch.full((3,), NULL_LABEL)), with_dropout)


@pytest.mark.parametrize("label", [5, 1000, -2])
def test_a_label_out_of_range_is_refused(sampler, settings, label):
    with pytest.raises(UserError, match=rf"label {label} is out of range: {sampler.spec.name} has classes 0..4"):
        draw(sampler, [0, label], settings)


class _Modes(SilentObserver):
    """Note of every step, and of the decode, whether it ran in inference mode."""

    def __init__(self) -> None:
        self.inference: list[bool] = []

    def step_end(self, step, output) -> None:
        self.inference.append(torch.is_inference_mode_enabled())

    def decode_end(self, decoded) -> None:
        self.inference.append(torch.is_inference_mode_enabled())


def test_a_call_pays_for_no_gradients_and_its_results_may_be_changed_and_trained_on(sampler, settings):
    modes = _Modes()
    samples = draw(sampler, settings=settings, observer=modes)
    assert len(modes.inference) >= 2 and all(modes.inference)
    results = [samples.images, samples.decoded, samples.labels, *samples.tokens]
    assert not any(result.is_inference() for result in results)
    samples.images.sub_(1)
    samples.decoded.requires_grad_().square().sum().backward()
    assert torch.equal(samples.decoded.grad, 2 * samples.decoded)


@pytest.mark.parametrize("form", forms([form for form in FORMS if form not in UNTRAINED]))
def test_training_follows_sampling(form):
    """Tables that a call makes once and keeps can be trained with."""
    sampler, settings = build_form(form)
    tokens = draw(sampler, settings=settings).tokens
    settings = settings if form in OF_IDS else None
    sampler.loss(tokens, torch.tensor(LABELS), settings=settings).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in sampler.modules()["transformer"].parameters())
