from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sampling_calls import LABELS, Steps, counted_flops, draw, same_tokens
from tiny_models import FILES, build_mvar, tiny_mvar

from arvbench.adapters import MODELS
from arvbench.adapters.checkpoints import MisfitError, nearest, shapes_of
from arvbench.adapters.loading import DEMO_FOLDER, build_sampler, load_sampler, meta_modules
from arvbench.adapters.mvar.sampler import DEMO
from arvbench.adapters.mvar.state_cache import StateCache
from arvbench.adapters.sampling import PerImageNoise, ReplayTokens
from arvbench.errors import UserError

POLICIES = ["history", "state"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "l2-norm"])
def sampler(request):
    return build_mvar(tiny_mvar(attn_l2_norm=request.param))


def test_the_backends_take_the_official_way_and_the_carried_state(sampler):
    assert sampler.make_cache(None, sampler.spec.settings, batch=1).policy == "history"
    optimized = build_sampler(sampler.spec, weights="random:1", backend="optimized")
    assert optimized.make_cache(None, sampler.spec.settings, batch=1).policy == "state"


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_the_carried_state_draws_the_tokens_of_the_full_history(sampler, backend):
    reference, ours = Steps(), Steps()
    expected = draw(sampler, policy="history", observer=reference)
    samples = draw(build_mvar(sampler.spec, backend=backend), policy="state", observer=ours)
    assert same_tokens(samples, expected)
    torch.testing.assert_close(ours.logits(), reference.logits(), atol=1e-4, rtol=0)
    assert len({tuple(t.tolist()) for t in torch.cat(samples.tokens, dim=1)}) == len(LABELS)


def test_tokens_of_earlier_scales_reach_later_ones_through_the_mixer_alone(sampler):
    """Without the state, a scale knows the earlier ones only from its input; the logits must notice."""
    samples, expected = draw(sampler), Steps()
    replayed = ReplayTokens(samples.tokens)
    sampler.sample(LABELS, sampler.spec.settings, noise=replayed, observer=expected)

    class ForgetfulCache(StateCache):
        def mix(self, layer, x, branch):
            return super().mix(layer, x, lambda h, _state: branch(h, None))

    forgetful, settings = Steps(), sampler.spec.settings
    cache = ForgetfulCache(sampler.cache_shape("state", settings, batch=3))
    sampler.sample(LABELS, sampler.spec.settings, noise=replayed, cache=cache, observer=forgetful)
    difference = (forgetful.logits() - expected.logits()).abs().amax(dim=(0, 2))
    assert difference[0] < 1e-4
    assert (difference[1:] > 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("policy", POLICIES)
def test_live_cache_bytes_equal_the_plan_at_every_step(policy, dtype):
    sampler = build_mvar(tiny_mvar(), dtype=dtype)
    settings = sampler.spec.settings
    cache = sampler.make_cache(policy, settings, batch=len(LABELS))
    assert cache.live_bytes() == 0
    observer = Steps(cache)
    draw(sampler, cache=cache, observer=observer)
    plan = sampler.schedule(settings, batch=len(LABELS), cache=policy)
    assert observer.live == [step.cache_bytes for step in plan]
    assert observer.allocated == observer.live
    layers, rows = 2, 2 * 3
    if policy == "history":
        assert observer.live == [layers * rows * 32 * seen * dtype.itemsize for seen in (1, 5, 14, 30, 66)]
    else:
        one = (64 + 2 * 8) * 4 * dtype.itemsize + 4 * 16 * 8 * 4  # four columns of the convolution; S in fp32
        assert observer.live == [layers * rows * one] * 5


@pytest.mark.parametrize("policy", ["grow", "static", "none"])
def test_key_and_value_caches_are_refused(sampler, policy):
    with pytest.raises(UserError, match=r"no cache policy .*history, state"):
        sampler.make_cache(policy, sampler.spec.settings, batch=1)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_image_does_not_depend_on_its_batch_or_order(policy):
    sampler = build_mvar(tiny_mvar())
    labels = [i % 5 for i in range(6)]
    together = draw(sampler, labels, policy=policy)
    orders = [range(start, min(start + size, 6)) for size in (1, 4) for start in range(0, 6, size)]
    for images in [*orders, list(reversed(range(6)))]:
        cache = sampler.make_cache(policy, sampler.spec.settings, batch=len(images))
        samples = sampler.sample(
            [labels[i] for i in images], sampler.spec.settings, noise=PerImageNoise(0, images), cache=cache
        )
        assert same_tokens(samples.tokens, [theirs[list(images)] for theirs in together.tokens])
        # The same tokens; convolutions may round a pixel differently with another batch, by one step of 255.
        assert (samples.images.int() - together.images[list(images)].int()).abs().max() <= 1


def test_smoothing_is_that_of_var(sampler):
    smooth = sampler.spec.settings.model_copy(update={"more_smooth": True})
    plain, mixed = draw(sampler), draw(sampler, settings=smooth)
    assert torch.equal(plain.tokens[0], mixed.tokens[0])
    assert not torch.equal(plain.decoded, mixed.decoded)
    assert same_tokens(draw(sampler, settings=smooth, policy="state"), mixed)


@pytest.mark.parametrize("policy", POLICIES)
def test_half_precision_runs_with_logits_in_fp32(policy):
    observer = Steps()
    samples = draw(build_mvar(tiny_mvar(), dtype=torch.bfloat16), policy=policy, observer=observer)
    assert samples.images.dtype == torch.uint8
    assert observer.logits().dtype == torch.float32
    full = Steps()
    replay = ReplayTokens(samples.tokens)
    build_mvar(tiny_mvar()).sample(LABELS, tiny_mvar().settings, noise=replay, observer=full)
    assert (observer.logits() - full.logits()).abs().max() < 0.1 * full.logits().abs().max()


def test_an_image_can_be_edited(sampler):
    assert sampler.edits
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.zeros(3, 12, 12, dtype=torch.bool)
    keep[:, :, :6] = True
    noise = PerImageNoise(0, range(3))
    samples = sampler.edit(images, keep, LABELS, sampler.spec.settings, noise=noise)
    encoded, drawn = sampler.encode(images)[-1].view(3, 6, 6), samples.tokens[-1].view(3, 6, 6)
    assert torch.equal(drawn[:, :, :3], encoded[:, :, :3])
    assert not torch.equal(drawn[:, :, 3:], encoded[:, :, 3:])


@pytest.mark.parametrize("policy", POLICIES)
def test_planned_flops_equal_the_counted_ones(sampler, policy):

    with counted_flops() as flops:
        draw(sampler, policy=policy, observer=flops)
    plan = sampler.schedule(sampler.spec.settings, batch=3, cache=policy)
    # The count has the phi convolutions as well, which belong to the tokenizer.
    phi = 3 * 6 * 6 * 2 * 9 * 8 * 8
    assert flops.steps == [step.flops + phi for step in plan]


def test_only_the_history_makes_a_step_cost_more_the_later_it_comes(sampler):
    def flops(policy):
        return [step.flops for step in sampler.schedule(sampler.spec.settings, batch=3, cache=policy)]

    mixer = sampler.spec.transformer.mixer
    extra = [a - b for a, b in zip(flops("history"), flops("state"), strict=True)]
    seen, new = (1, 5, 14, 30, 66), (1, 4, 9, 16, 36)
    assert extra == [2 * 6 * (mixer.flops(s) - mixer.flops(n)) for s, n in zip(seen, new, strict=True)]
    assert extra[-1] > extra[1] > extra[0] == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planned_weight_traffic_is_the_size_of_the_weights_that_a_step_reads(dtype, policy):
    sampler = build_mvar(tiny_mvar(), dtype=dtype)
    steps = sampler.schedule(sampler.spec.settings, batch=1, cache=policy).steps
    bytes_of = sampler.cache_shape(policy, sampler.spec.settings, batch=1).bytes_of

    def weight_bytes(step, seen):
        cache_read_and_written = bytes_of(seen) + bytes_of(step.new_tokens)
        return step.bytes_moved - cache_read_and_written - 4 * step.rows * step.new_tokens * 24

    def size(*parts):
        tensors = sampler.transformer.state_dict().items()
        return sum(t.nbytes for name, t in tensors if any(part in name for part in parts))

    attention = size(".attn.mat_qkv", ".attn.proj", "q_bias", "k_bias", "v_bias")
    every_step = attention + size(".mamba.", ".ffn.", "head.weight", "head.bias")
    assert weight_bytes(steps[-1], 66) == every_step + size("word_embed")
    assert weight_bytes(steps[0], 1) == every_step + size("ada_lin")


def test_training_moves_every_parameter():
    sampler = build_mvar(tiny_mvar(cond_drop_rate=0.0, attn_l2_norm=True))
    tokens = [t.clone() for t in draw(sampler).tokens]
    sampler.transformer.train()
    sampler.loss(tokens, torch.tensor(LABELS)).backward()
    still = [n for n, p in sampler.transformer.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_shared_adaln_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"no shared adaLN.*nine"):
        tiny_mvar(shared_aln=True)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "training-checkpoint"])
@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_the_file_decides_whether_attention_is_normalised(tmp_path, stored, configured, nested):
    original = build_mvar(tiny_mvar(attn_l2_norm=stored))
    state = original.transformer.state_dict()
    torch.save({"trainer": {"mvar_wo_ddp": state}} if nested else state, tmp_path / "tiny.pth")
    torch.save(original.tokenizer.state_dict(), tmp_path / "vae.pth")
    spec = tiny_mvar(attn_l2_norm=configured, checkpoint=FILES)
    loaded = build_sampler(spec, weights=str(tmp_path))
    assert loaded.spec.transformer.attn_l2_norm is stored
    assert same_tokens(draw(loaded), draw(original))


@pytest.mark.parametrize("l2_norm", [False, True])
@pytest.mark.parametrize("name", ["mvar-d30", "mvar-d32"])
def test_a_file_of_the_largest_models_is_recognised_under_any_name(name, l2_norm):
    spec = MODELS[name]
    file = shapes_of(
        meta_modules(replace(spec, transformer=replace(spec.transformer, attn_l2_norm=l2_norm)))[
            "transformer"
        ].state_dict()
    )
    official = [name for name in MODELS if name.startswith(("mvar-", "var-"))]
    candidates = [(model, shapes_of(meta_modules(MODELS[model])["transformer"].state_dict())) for model in official]
    assert nearest(file, candidates)[0] == name


def test_the_file_of_another_family_is_named():
    with pytest.raises(MisfitError, match="most like the transformer of demo/var"):
        load_sampler("demo/mvar", weights=DEMO_FOLDER / "var.safetensors")


def test_the_demo_model_is_small_enough_to_ship():
    modules = meta_modules(DEMO).values()
    assert 1.3e6 < sum(2 * t.numel() for module in modules for t in module.state_dict().values()) < 1.9e6
