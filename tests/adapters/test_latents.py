"""Promises of every family whose steps yield latents: recomputation, loss, settings, values that are not finite."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from latent_forms import LATENT_FORMS
from sampling_calls import LABELS, Steps, counted_flops, draw, same_tokens
from tiny_models import tiny_flowar, tiny_xar

from arvbench.adapters.flowar.solver import evaluation_times
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import NULL_LABEL
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise
from arvbench.errors import UserError


@pytest.fixture(scope="module", params=LATENT_FORMS)
def built(request):
    make, changes = LATENT_FORMS[request.param]
    spec = make()
    return build_sampler(spec, weights="random:1"), spec.settings.replace(**changes)


@pytest.fixture
def sampler(built):
    return built[0]


@pytest.fixture
def settings(built):
    return built[1]


@pytest.fixture(scope="module")
def lean(built):
    """The sampler of the optimized backend."""
    return build_sampler(built[0].spec, weights="random:1", backend="optimized")


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_every_step_is_denoised_again_from_the_latents_before_it(sampler, settings, lean, backend):
    sampler = lean if backend == "optimized" else sampler
    observer = Steps()
    samples = draw(sampler, settings=settings, observer=observer)
    drawn = [output.tokens for output in observer.outputs]
    again = sampler.forced_latents(samples.tokens, LABELS, settings, PerImageNoise(0, range(3)))
    assert same_tokens(again, drawn)
    other = sampler.forced_latents(samples.tokens, LABELS, settings, PerImageNoise(1, range(3)))
    assert not same_tokens(other, drawn)


def test_later_steps_read_earlier_ones_and_the_first_reads_none(sampler, settings, drawn):
    tokens = drawn.tokens
    changed = (tokens[0] + 1, *tokens[1:])
    before, after = (
        sampler.forced_latents(path, LABELS, settings, PerImageNoise(0, range(3))) for path in (tokens, changed)
    )
    assert torch.equal(before[0], after[0])
    assert not any(torch.equal(one, other) for one, other in zip(before[1:], after[1:], strict=True))


def test_the_official_stream_is_repeated_by_its_seed_and_by_no_other(sampler, settings):
    one, again, other = (sampler.sample(LABELS, settings, noise=UpstreamNoise(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.images, again.images)
    assert not same_tokens(one, other)


def test_a_backend_that_leaves_draws_out_repeats_the_official_stream_all_the_same(sampler, settings, lean):
    assert same_tokens(*(each.sample(LABELS, settings, noise=UpstreamNoise(5)) for each in (lean, sampler)))


def test_the_observer_gets_latents_of_every_step_and_the_state_so_far(sampler, settings, drawn, heard):
    observer, samples = heard, drawn
    groups = sampler.schedule(settings, batch=3).groups()
    for step, output in zip(observer.steps, observer.outputs, strict=True):
        assert output.tokens.shape[1] == step.new_tokens and torch.equal(output.logits, output.tokens)
        assert output.logits_pre_cfg.shape[0] == step.rows and step.inner_passes >= 1
    for number, steps in enumerate(groups):
        # A step yields a group of tokens, or several complete one in random order.
        if len(steps) == 1:
            assert torch.equal(
                observer.outputs[steps[0].index].tokens.sort(1).values, samples.tokens[number].sort(1).values
            )
        state = observer.outputs[steps[-1].index].state
        before = sum(t.shape[1] for t in samples.tokens[:number])
        assert torch.equal(state[:, before : before + samples.tokens[number].shape[1]], samples.tokens[number])
    assert torch.equal(sampler.decode_state(observer.outputs[-1].state), samples.decoded)


def test_the_loss_is_that_of_the_training_pass_and_training_drops_labels(sampler, settings, drawn):
    tokens = drawn.tokens
    labels = torch.tensor(LABELS)
    predicted = sampler.teacher_forced(tokens, LABELS, settings=settings)
    generator = torch.Generator().manual_seed(0)
    done = sampler.training_pass(tokens, labels, sampler.draw_training(3, generator))
    torch.testing.assert_close(predicted, done.predicted)
    torch.testing.assert_close(sampler.loss(tokens, labels), done.loss())
    dropping = replace(sampler.spec, transformer=replace(sampler.spec.transformer, label_drop_prob=1.0))
    always = build_sampler(dropping, weights="random:1")
    assert torch.equal(always.training_labels(labels, generator), labels)
    always.transformer.train()
    assert (always.training_labels(labels, generator) == sampler.spec.num_classes).all()
    without = sampler.loss(tokens, torch.full((3,), NULL_LABEL))
    assert not torch.equal(without, sampler.loss(tokens, labels))


def test_the_loss_reaches_every_parameter(sampler, drawn):
    sampler, tokens = build_sampler(sampler.spec, weights="random:1"), drawn.tokens
    for seed in range(4):  # of few tokens, a draw may mask all
        generator = torch.Generator().manual_seed(seed)
        sampler.loss(tokens, torch.tensor([*LABELS[:2], NULL_LABEL]), generator=generator).backward()
    trained = [(name, p) for name, p in sampler.transformer.named_parameters() if p.requires_grad]
    unused = [name for name, p in trained if p.grad is None or not p.grad.any()]
    assert unused == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_never_an_image(sampler, settings, drawn, value):
    tokens = [t.clone() for t in drawn.tokens]
    tokens[-1][0, 0, 0] = value
    with pytest.raises(UserError, match="hold NaN or infinity: no image can be made of them"):
        sampler.decode(tokens, settings=settings)
    with pytest.raises(UserError, match="hold NaN or infinity"):
        sampler.loss(tokens, torch.tensor(LABELS))
    broken = build_sampler(sampler.spec, weights="random:1")
    next(reversed(dict(broken.transformer.named_parameters()).values())).data.fill_(value)
    with pytest.raises(UserError, match=r"latents are not finite in step \d \(.*no image can be made of NaN"):
        draw(broken, settings=settings)


def test_latents_of_another_form_are_refused(sampler, settings, drawn):
    tokens = drawn.tokens
    wrong = [tokens[:-1], [t[..., :-1] for t in tokens], [*tokens, tokens[-1][:1]], []]
    if len(tokens) > 1:
        wrong.append([*tokens[:-1], tokens[-1][:1]])
    for path in wrong:
        with pytest.raises(UserError, match=f"latents must be batch x .* for {sampler.spec.name}, all of one batch"):
            sampler.decode(path, settings=settings)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"num_steps": 0}, "num_steps"), ({"num_steps": 2.5}, "num_steps"), ({"num_steps": True}, "num_steps"),
     ({"cfg": -1}, "cfg"), ({"cfg": float("nan")}, "cfg"), ({"num_steps": 10**6}, "num_steps")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(sampler, settings, change, text):
    with pytest.raises(UserError, match=text):
        settings.replace(**change)


@pytest.mark.parametrize("change", [{"top_k": 5}, {"top_p": 0.5}])
def test_filters_of_logits_do_not_apply(sampler, settings, change):
    with pytest.raises(UserError, match=f"{next(iter(change))} does not apply to .*yield latents, and draw no ids"):
        draw(sampler, settings=settings.replace(**change))


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_planned_flops_and_cache_bytes_are_the_counted_ones(sampler, settings, lean, backend):
    sampler = lean if backend == "optimized" else sampler
    for policy in sampler.cache_policies():
        plan = sampler.schedule(settings, batch=3, cache=policy)
        with counted_flops(sampler.make_cache(policy, settings, batch=3)) as flops:
            draw(sampler, settings=settings, cache=flops.cache, observer=flops)
        assert flops.counted == [step.flops for step in plan] + [plan.decode_flops]
        assert flops.live == [step.cache_bytes for step in plan]


def test_only_exact_cache_policies_run(sampler, settings):
    assert sampler.cache_policies() in (("grow", "static"), ("none",))
    with pytest.raises(UserError):
        sampler.make_cache("window:2", settings, batch=1)


def test_guidance_is_part_of_every_flowar_call():
    sampler = build_sampler(tiny_flowar(), weights="random:1")
    for cfg in (1.0, 0.5):
        with pytest.raises(UserError, match="must be above 1 for tiny-flowar: the official code cannot run without"):
            draw(sampler, settings=sampler.spec.settings.replace(cfg=cfg))


@pytest.mark.parametrize("change", [{"guidance": 0}, {"guidance": 1.5}, {"num_steps": 1}])
def test_times_of_guidance_and_steps_out_of_range_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        tiny_flowar().settings.replace(**change)


@pytest.mark.parametrize(("steps", "passes"), [(2, 2), (25, 24), (50, 50), (4, 4)])
def test_odd_numbers_of_steps_have_one_evaluation_less(steps, passes):
    times = evaluation_times(steps)
    assert len(times) == passes + 1 and times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)


@pytest.mark.parametrize("scale", [(2, 4), (1, 2), (1,)])
def test_scales_begin_with_one_and_end_with_the_map(scale):
    with pytest.raises(ValueError, match="scales must begin with 1 and end with 4"):
        tiny_flowar(scale=scale)


@pytest.mark.parametrize("change", [{"clusters": 3}, {"decoder_num_heads": 4}, {"encoder_num_heads": 16}])
def test_sizes_that_do_not_fit_are_refused(change):
    with pytest.raises(ValueError, match="must"):
        tiny_xar(**change)


def test_the_loss_of_velocities_is_their_weighted_error():
    sampler = build_sampler(tiny_xar(), weights="random:1")
    tokens = draw(sampler).tokens
    done = sampler.training_pass(tokens, torch.tensor(LABELS), sampler.draw_training(3, torch.Generator()))
    expected = ((done.predicted - done.target) ** 2).mean((0, 2)) @ done.weights_L
    torch.testing.assert_close(done.loss(), expected)


@pytest.mark.parametrize("form", ["xar", "xar one-step"])
def test_the_official_code_also_computes_rows_that_it_does_not_use(form):
    make, changes = LATENT_FORMS[form]
    sampler = build_sampler(make(), weights="random:1")
    settings = sampler.spec.settings.replace(**changes)
    assert {step.rows for step in sampler.schedule(settings.replace(cfg=1.0), batch=3)} == {6}
    lean = build_sampler(sampler.spec, weights="random:1", backend="optimized")
    assert {step.rows for step in lean.schedule(settings.replace(cfg=1.0), batch=3)} == {3}
    assert same_tokens(draw(lean, settings=settings), draw(sampler, settings=settings))


@pytest.mark.parametrize("guidance", [1.0, 0.5])
def test_only_the_official_code_denoises_noise_that_it_discards(guidance):
    sampler = build_sampler(tiny_flowar(), weights="random:1")
    lean = build_sampler(sampler.spec, weights="random:1", backend="optimized")
    settings = sampler.spec.settings.replace(guidance=guidance)
    official, ours = (each.schedule(settings, batch=3).steps for each in (sampler, lean))
    # The first scale has no guidance at all, and the others have none above the time.
    fewer = [own.flops < theirs.flops for own, theirs in zip(ours, official, strict=True)]
    assert fewer == [True] + [guidance < 1] * (len(official) - 1)
    for noise in (lambda: PerImageNoise(0, range(3)), lambda: UpstreamNoise(5)):
        both = [each.sample(LABELS, settings, noise=noise()) for each in (lean, sampler)]
        assert same_tokens(*both)
