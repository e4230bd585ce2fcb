"""Properties shared by LlamaGen, NAR and PAR."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sampling_calls import LABELS, Steps, counted_flops, draw, same_tokens
from tiny_models import TOKEN_GRID_FAMILIES, TOKEN_GRID_SETTINGS, tiny_token_grid

from arvbench.adapters.loading import build_sampler, load_sampler, meta_modules
from arvbench.adapters.sampler import NULL_LABEL, Checkpoint
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise, filter_logits, interpolate, nucleus
from arvbench.adapters.token_grid.passes import LEARNT
from arvbench.adapters.token_grid.sampler import TokenGridSettings, official_checkpoint
from arvbench.errors import UserError

UNGUIDED = TOKEN_GRID_SETTINGS.model_copy(update={"cfg": 1.0})


@pytest.fixture(scope="module", params=sorted(TOKEN_GRID_FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def sampler(family):
    """One model for all tests of a family: none of them changes its weights."""
    return build_sampler(tiny_token_grid(family), weights="random:1")


def test_every_position_is_drawn_once_and_images_are_uint8(sampler):
    samples = draw(sampler)
    assert samples.images.shape == (3, 3, 8, 8)
    assert samples.images.dtype == torch.uint8
    assert sorted(sampler.plan.order_N.tolist()) == list(range(16))
    assert [t.shape[1] for t in samples.tokens] == [len(p.draws) for p in sampler.plan.passes]
    assert sampler.to_raster(samples.tokens).shape == (3, 16)


def test_a_pass_feeds_the_tokens_of_the_pass_before_it(sampler):
    passes = sampler.plan.passes
    assert passes[0].feeds == (LEARNT,)
    for before, after in pairwise(passes):
        assert tuple(position for position in after.feeds if position != LEARNT) == before.draws


@pytest.mark.parametrize("policy", ["grow", "static"])
@pytest.mark.parametrize("settings", [TOKEN_GRID_SETTINGS, UNGUIDED], ids=["guided", "unguided"])
def test_live_cache_bytes_equal_the_plan_at_every_step(sampler, policy, settings):
    cache = sampler.make_cache(policy, settings, batch=len(LABELS))
    observer = Steps(cache)
    draw(sampler, settings=settings, cache=cache, observer=observer)
    plan = sampler.schedule(settings, batch=len(LABELS))
    assert observer.live == [step.cache_bytes for step in plan]
    layers = 3 if sampler.spec.family == "nar" else 2
    rows = 6 if settings.cfg > 1 else 3
    assert plan.peak_cache_bytes == 2 * layers * rows * 32 * 16 * 4  # k and v, layers, rows, width, tokens, bytes


@pytest.mark.parametrize("side", [4, 6])
def test_stepwise_logits_equal_the_teacher_forced_pass(family, side):
    sampler = build_sampler(tiny_token_grid(family, side=side), weights="random:1")
    observer = Steps()
    samples = draw(sampler, observer=observer)
    stepwise = observer.logits("logits_pre_cfg")
    assert stepwise.std() > 0.3
    torch.testing.assert_close(sampler.teacher_forced(samples.tokens, LABELS), stepwise[:3], atol=1e-4, rtol=0)
    null = sampler.teacher_forced(samples.tokens, [NULL_LABEL] * 3)
    torch.testing.assert_close(null, stepwise[3:], atol=1e-4, rtol=0)


def test_the_plan_with_its_tables_orders_and_masks_is_made_once(sampler):
    plan = sampler.plan
    samples = draw(sampler)
    sampler.teacher_forced(samples.tokens, LABELS)
    sampler.schedule(TOKEN_GRID_SETTINGS, batch=7)
    assert sampler.plan is plan


def test_state_is_all_tokens_drawn_so_far(sampler):
    observer = Steps()
    samples = draw(sampler, observer=observer)
    drawn = torch.cat(samples.tokens, dim=1)
    ends = torch.tensor([t.shape[1] for t in samples.tokens]).cumsum(0)
    for output, end in zip(observer.outputs, ends, strict=True):
        assert torch.equal(output.state, drawn[:, :end])


def test_encoded_images_come_in_the_order_of_generation(sampler):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = sampler.encode(images)
    raster = sampler.tokenizer.encode(images)
    assert [t.shape[1] for t in tokens] == [len(p.draws) for p in sampler.plan.passes]
    assert torch.equal(torch.cat(tokens, dim=1), raster[:, sampler.plan.order_N])
    assert torch.equal(sampler.to_raster(tokens), raster)
    with pytest.raises(UserError, match="16 tokens per image, got 15"):
        sampler.from_raster(raster[:, :15])


def test_the_official_stream_depends_on_the_seed_alone(sampler):
    def run(seed):
        return sampler.sample(LABELS, TOKEN_GRID_SETTINGS, noise=UpstreamNoise(seed))

    assert same_tokens(run(1), run(1))
    assert not same_tokens(run(1), run(2))


def test_half_precision_keeps_the_tokenizer_in_fp32_and_logits_too(family):
    full = build_sampler(tiny_token_grid(family), weights="random:1")
    half = build_sampler(tiny_token_grid(family), weights="random:1", dtype=torch.bfloat16)
    for name, tensor in half.tokenizer.state_dict().items():
        assert torch.equal(tensor, full.tokenizer.state_dict()[name])
    assert {t.dtype for t in half.transformer.parameters()} == {torch.bfloat16}
    assert half.plan.ropes[1].dtype == torch.float32
    observer = Steps()
    assert draw(half, observer=observer).images.dtype == torch.uint8
    assert observer.outputs[0].logits.dtype == torch.float32


def test_guidance_is_llamagens_scale_and_constant(sampler):
    observer = Steps()
    draw(sampler, observer=observer)
    cond, uncond = observer.logits("logits_pre_cfg").chunk(2)
    torch.testing.assert_close(observer.logits("logits"), uncond + 2.0 * (cond - uncond))


@pytest.mark.parametrize("cfg", [0.0, 0.7, 1.0])
def test_guidance_up_to_one_has_no_unconditional_rows(sampler, cfg):
    settings = TOKEN_GRID_SETTINGS.model_copy(update={"cfg": cfg})
    assert {step.rows for step in sampler.schedule(settings, batch=3)} == {3}
    observer = Steps()
    assert same_tokens(draw(sampler, settings=settings, observer=observer), draw(sampler, settings=UNGUIDED))
    assert torch.equal(observer.logits("logits_pre_cfg"), observer.logits("logits"))


def test_above_the_interval_logits_are_the_conditional_ones(sampler):
    settings = TOKEN_GRID_SETTINGS.model_copy(update={"cfg_interval": 3})
    observer = Steps()
    draw(sampler, settings=settings, observer=observer)
    unguided = 0
    for p, output in zip(sampler.plan.passes, observer.outputs, strict=True):
        cond, uncond = output.logits_pre_cfg.chunk(2)
        off = p.clock is not None and p.clock > 3
        torch.testing.assert_close(output.logits, cond if off else uncond + 2.0 * (cond - uncond))
        unguided += off
    assert 0 < unguided < len(observer.outputs) - 1


def test_guidance_takes_conditional_rows_first():
    assert interpolate(torch.tensor([3.0, 1.0]).view(2, 1, 1), 4.0).item() == 9.0


def test_the_nucleus_keeps_the_token_that_crosses_the_threshold():
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    assert nucleus(logits, 0.49).isfinite().tolist() == [False, True, False, False]
    assert nucleus(logits, 0.6).isfinite().tolist() == [False, True, False, True]
    assert nucleus(logits, 0.8).isfinite().tolist() == [False, True, True, True]
    assert torch.equal(nucleus(logits, 0.95)[[1, 2, 3]], logits[[1, 2, 3]])


def test_tokens_are_drawn_from_heated_then_filtered_logits(sampler, monkeypatch):
    logits_by_pass = []

    class Noise(PerImageNoise):
        def tokens(self, logits, step, *, one_by_one=False):
            logits_by_pass.append(logits)
            return super().tokens(logits, step, one_by_one=one_by_one)

    settings = TokenGridSettings(cfg=2.0, temperature=0.5, top_k=7, top_p=0.8)
    observer = Steps()
    sampler.sample(LABELS, settings, noise=Noise(0, range(3)), observer=observer)
    expected = nucleus(filter_logits(observer.logits("logits") / 0.5, 7, None), 0.8)
    torch.testing.assert_close(torch.cat(logits_by_pass, dim=1), expected)


@pytest.mark.parametrize("settings", [TOKEN_GRID_SETTINGS, UNGUIDED], ids=["guided", "unguided"])
def test_planned_flops_equal_the_counted_ones(sampler, settings):

    with counted_flops() as flops:
        draw(sampler, settings=settings, observer=flops)
    plan = sampler.schedule(settings, batch=3)
    assert flops.steps == [step.flops for step in plan]
    # On the meta device, fused attention is counted as its matrix products.
    assert flops.counted[-1] == plan.decode_flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planned_weight_traffic_is_the_size_of_the_weights_that_a_step_reads(family, dtype):
    sampler = build_sampler(tiny_token_grid(family), weights="random:1", dtype=dtype)
    read = sum(t.nbytes for name, t in sampler.transformer.state_dict().items() if "embedding" not in name)
    for step, p in zip(sampler.schedule(UNGUIDED, batch=1), sampler.plan.passes, strict=True):
        new_bytes = step.cache_bytes * step.new_tokens // step.cached_tokens
        assert step.bytes_moved == read + step.cache_bytes + new_bytes + 4 * len(p.draws) * 24


def test_the_plan_feeds_one_token_per_token_drawn(sampler):
    plan = sampler.schedule(TOKEN_GRID_SETTINGS, batch=1)
    assert sum(step.new_tokens for step in plan) == 16
    assert plan.steps[-1].context_tokens == 16


def test_training_moves_every_parameter(sampler):
    sampler.transformer.zero_grad()
    sampler.loss(draw(sampler).tokens, torch.tensor(LABELS)).backward()
    for name, parameter in sampler.transformer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_training_can_follow_sampling_in_inference_mode(sampler):
    with torch.inference_mode():
        tokens = draw(sampler).tokens
    sampler.loss([t.clone() for t in tokens], torch.tensor(LABELS)).backward()


@pytest.fixture
def files(family, tmp_path):
    """A spec with official files, and their tensors: transformer, tokenizer."""
    checkpoint = official_checkpoint("nobody/nothing", "t.pt")
    spec = tiny_token_grid(family, checkpoint=checkpoint)
    sampler = build_sampler(spec, weights="random:1")
    torch.save({"model": sampler.tokenizer.state_dict()}, tmp_path / "vq_ds16_c2i.pt")
    return spec, tmp_path, sampler.transformer.state_dict()


@pytest.mark.parametrize("nesting", [None, "model", "module", "state_dict"])
def test_every_nesting_of_official_files_loads(files, nesting):
    spec, folder, tensors = files
    torch.save(tensors if nesting is None else {nesting: tensors, "steps": 1}, folder / "t.pt")
    loaded = build_sampler(spec, weights=str(folder))
    assert same_tokens(draw(loaded), draw(build_sampler(spec, weights="random:1")))


def test_rotary_tables_and_caches_in_a_file_are_left_out_and_nothing_else(files):
    spec, folder, tensors = files
    stray = {"freqs_cis": torch.zeros(3), "layers.0.attention.kv_cache.k_cache": torch.zeros(2)}
    stray["layers.10.attention.kv_cache.v_cache"] = torch.zeros(2)
    torch.save({"model": {**tensors, **stray}}, folder / "t.pt")
    loaded = build_sampler(spec, weights=str(folder))
    assert same_tokens(draw(loaded), draw(build_sampler(spec, weights="random:1")))
    others = {"layers.0.attention.other": torch.zeros(2), "layers.0.freqs_cis": torch.zeros(2)}
    # Strict loading gets the remaining entries.
    assert loaded.transformer.adapt_state({**stray, **others}) == others


def test_the_tokenizer_comes_from_llamagens_repository():
    checkpoint = official_checkpoint("nobody/nothing", "t.pt")
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.tokenizer_repo, checkpoint.tokenizer_file) == ("FoundationVision/LlamaGen", "vq_ds16_c2i.pt")


@pytest.mark.parametrize("name", ["demo/llamagen", "demo/nar", "demo/par"])
def test_demo_models_fit_in_two_megabytes_and_run(name):
    from arvbench.adapters import MODELS

    spec = MODELS[name]
    size = sum(2 * t.numel() for module in meta_modules(spec).values() for t in module.state_dict().values())
    assert size < 1.9e6
    samples = draw(load_sampler(name, weights="random:0"), settings=spec.settings)
    assert samples.images.shape == (3, 3, 32, 32)
    assert spec.steps == len(samples.tokens)


def test_an_empty_batch_is_refused(sampler):
    with pytest.raises(UserError, match="batch 0"):
        sampler.sample([], TOKEN_GRID_SETTINGS, noise=PerImageNoise(0, [0]))


def test_top_k_larger_than_the_vocabulary_is_refused(sampler):
    with pytest.raises(UserError, match=r"top_k 25 is larger than the vocabulary"):
        draw(sampler, settings=TokenGridSettings(cfg=1, top_k=25))


@pytest.mark.parametrize(
    ("misfit", "message"),
    [
        (lambda tokens: tokens[:-1], "has 16 tokens per image, got 1"),
        (lambda tokens: (*tokens, tokens[-1]), "has 16 tokens per image, got"),
        (lambda tokens: (*tokens[:-1], tokens[-1][:, 1:]), "has 16 tokens per image, got 15"),
        (lambda tokens: (tokens[0][:1], *tokens[1:]), "all of one batch"),
        (lambda tokens: tuple(t[0] for t in tokens), "tensor .B, l. for every pass"),
        (lambda tokens: (), "got none"),
    ],
    ids=["a pass less", "a pass more", "a token less", "another batch", "no batch", "none"],
)
def test_tokens_that_do_not_fit_the_model_are_refused(sampler, misfit, message):
    tokens = misfit(tuple(draw(sampler).tokens))
    for call in (
        sampler.to_raster,
        sampler.decode,
        lambda t: sampler.teacher_forced(t, LABELS),
        lambda t: sampler.loss(t, torch.tensor(LABELS)),
    ):
        with pytest.raises(UserError, match=message):
            call(tokens)


@pytest.mark.parametrize(
    "values", [{"temperature": 0.0}, {"temperature": -1}, {"cfg_interval": -1}, {"top_p": 0.0}, {"more_smooth": True}]
)
def test_settings_out_of_range_or_unknown_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        TokenGridSettings(**{"cfg": 1, **values})
