from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sampling_calls import LABELS, Steps, counted_flops, draw, same_tokens
from tiny_models import tiny_flexvar

from arvbench.adapters import MODELS
from arvbench.adapters.flexvar.sampler import FlexVarSettings
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.next_scale.transformer import block_causal_bias, levels
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise
from arvbench.errors import UnknownName, UserError
from arvbench.harness.suites.suite import sampling_settings

LONGER = (1, 2, 2, 3, 4, 5, 6)
WIDE = (1, 2, (2, 3), (3, 5))


@pytest.fixture
def spec():
    return tiny_flexvar()


@pytest.fixture(scope="module", params=[False, True], ids=["adaln", "shared-adaln"])
def sampler(request):
    """One model for all tests: none of them changes its weights."""
    return build_sampler(tiny_flexvar(shared_aln=request.param), weights="random:1")


@pytest.fixture
def plain(spec):
    return build_sampler(spec, weights="random:1")


def changed(sampler, **changes):
    return sampler.spec.settings.model_copy(update=changes)


@pytest.mark.parametrize(
    ("scales", "tokens", "image"),
    [
        (None, [1, 4, 9, 16], (8, 8)),
        ((1, 2), [1, 4], (4, 4)),
        (LONGER, [1, 4, 4, 9, 16, 25, 36], (12, 12)),
        (WIDE, [1, 4, 6, 15], (6, 10)),
        ("1_2_2x3_3x5", [1, 4, 6, 15], (6, 10)),
        ("1_4_2", [1, 16, 4], (4, 4)),
    ],
)
def test_the_scales_of_the_call_decide_steps_and_image_size(sampler, scales, tokens, image):
    samples = draw(sampler, settings=changed(sampler, scales=scales))
    assert [t.shape for t in samples.tokens] == [(3, count) for count in tokens]
    assert samples.images.shape == (3, 3, *image)
    assert samples.images.dtype == torch.uint8


def test_only_the_last_scale_is_decoded_and_not_clamped(plain):
    samples = draw(plain)
    direct = plain.tokenizer.decode(samples.tokens[-1], side=(4, 4))
    torch.testing.assert_close(samples.decoded, (direct + 1) / 2)
    other = [torch.zeros_like(t) for t in samples.tokens[:-1]] + [samples.tokens[-1]]
    torch.testing.assert_close(plain.decode(other), samples.decoded)
    plain.tokenizer.decoder.conv_out.weight.data.mul_(20)
    assert draw(plain).decoded.abs().max() > 1


def test_official_lists_have_names_and_settings_can_ask_for_them(plain):
    spec = MODELS["flexvar-d16"]
    assert (spec.steps, spec.tokens, spec.image_px) == (9, 629, 256)
    named = plain.sides(sampling_settings(plain.spec, {"scales": "13-steps"}))
    assert [h for h, w in named] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16]
    assert all(len(plain.sides(changed(plain, scales=f"{steps}-steps"))) == steps for steps in (6, *range(8, 15)))
    assert plain.sides(changed(plain, scales="512px"))[-3:] == ((16, 16), (23, 23), (32, 32))
    assert sampling_settings(spec, {"scales": [1, 2, [4, 8]]}).scales == (1, 2, (4, 8))


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((1,), "at least two steps"),
        ((), "at least two steps"),
        ((2, 4), "must start with 1, where the model starts; got 2"),
        (((1, 2), 4), "got 1x2"),
        ((1, 0, 4), "scale 0 has no tokens"),
        ((1, (2, -1)), "scale 2x-1 has no tokens"),
        ("1_2_", "write sides as 1_2_4_8"),
        ("1x1x1_2", "write sides as 1_2_4_8"),
        ("13-step", "did you mean '13-steps'"),
    ],
)
def test_scales_that_no_model_can_follow_are_refused(plain, scales, message):
    settings = changed(plain, scales=scales)
    with pytest.raises(UserError, match=message):
        draw(plain, settings=settings)
    with pytest.raises(UserError, match=message):
        plain.check_settings(plain.spec, settings)


def test_an_unknown_list_is_an_unknown_name(plain):
    with pytest.raises(UnknownName):
        plain.sides(changed(plain, scales="many"))


def test_scales_other_than_numbers_are_refused():
    with pytest.raises(ValueError, match="scales"):
        FlexVarSettings(cfg=1, scales=((1, 2, 3), 4))


def test_tokens_of_other_scales_are_refused(plain):
    tokens = draw(plain, settings=changed(plain, scales=LONGER)).tokens
    for call in (
        plain.decode,
        lambda t: plain.teacher_forced(t, LABELS),
        lambda t: plain.loss(t, torch.tensor(LABELS)),
    ):
        with pytest.raises(UserError, match="pass the settings they were made with"):
            call(tokens)


def test_positions_are_cell_averages_of_the_map(plain):
    grid_Css = plain.transformer.pos_1LC[0]
    positions = plain.transformer.positions(((1, 1), (2, 4), (8, 8), (16, 16)))[0]
    torch.testing.assert_close(positions[0], grid_Css.mean(dim=(1, 2)))
    # The second row of two, third column of four: rows 4 to 7, columns 4 and 5 of eight.
    torch.testing.assert_close(positions[1 + 4 + 2], grid_Css[:, 4:8, 4:6].mean(dim=(1, 2)))
    torch.testing.assert_close(positions[9:73], grid_Css.flatten(1).T)
    # Larger than the map: every cell is repeated.
    repeated = grid_Css.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(positions[73:], repeated.flatten(1).T)


def test_training_starts_from_sines_of_the_row_and_cosines_of_the_column(plain):
    values = plain.transformer.initial_values()["pos_1LC"]
    assert values.shape == plain.transformer.pos_1LC.shape
    frequency = 10000 ** (-6 / 32)
    torch.testing.assert_close(values[0, 6, 3, 5], torch.tensor(3 * frequency).sin())
    torch.testing.assert_close(values[0, 7, 3, 5], torch.tensor(5 * frequency).cos())


@pytest.mark.parametrize(("scales", "tokens"), [(None, 30), (LONGER, 95), (WIDE, 26)])
@pytest.mark.parametrize("policy", ["grow", "static"])
def test_live_cache_bytes_equal_the_plan_at_every_step(sampler, policy, scales, tokens):
    settings = changed(sampler, scales=scales)
    cache = sampler.make_cache(policy, settings, batch=len(LABELS))
    observer = Steps(cache)
    draw(sampler, settings=settings, cache=cache, observer=observer)
    plan = sampler.schedule(settings, batch=len(LABELS))
    assert observer.live == [step.cache_bytes for step in plan]
    assert plan.peak_cache_bytes == 2 * 2 * (2 * 3) * 32 * tokens * 4  # k and v, layers, rows, width, tokens, bytes


def test_a_scale_reads_the_resized_unit_codes_of_the_one_before(plain):
    tokens, seen = draw(plain).tokens, []
    hook = plain.transformer.word_embed.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    draw(plain)
    hook.remove()
    codes = F.normalize(plain.tokenizer.quantize.embedding.weight, dim=-1)[tokens[1]]
    resized = F.interpolate(codes.transpose(1, 2).reshape(3, 8, 2, 2), size=(3, 3), mode="bicubic")
    torch.testing.assert_close(seen[1], resized.flatten(2).transpose(1, 2))


def test_half_precision_keeps_head_and_codebook_in_fp32(spec, plain):
    half = build_sampler(spec, weights="random:1", dtype=torch.bfloat16)
    assert torch.equal(half.transformer.head.weight, plain.transformer.head.weight)
    assert torch.equal(half.tokenizer.quantize.embedding.weight, plain.tokenizer.quantize.embedding.weight)
    assert half.transformer.pos_1LC.dtype == torch.bfloat16
    observer = Steps()
    assert draw(half, settings=changed(half, scales=WIDE), observer=observer).images.dtype == torch.uint8
    assert observer.outputs[0].logits.dtype == torch.float32


def strengths(sampler, settings):
    """t of (1 + t) cond - t uncond at every step, by least squares."""
    observer = Steps()
    draw(sampler, settings=settings, observer=observer)
    scales = []
    for output in observer.outputs:
        cond, uncond = output.logits_pre_cfg.chunk(2)
        direction = cond - uncond
        scales.append(((output.logits - cond) * direction).sum().item() / direction.square().sum().item())
    return scales


def test_guidance_ramps_up_to_cfg_and_beyond_it_after_ten_steps(plain):
    assert strengths(plain, plain.spec.settings) == pytest.approx([0, 0.5, 1, 1.5], abs=1e-4)
    twelve = changed(plain, scales=(1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3))
    assert strengths(plain, twelve) == pytest.approx([1.5 * si / 9 for si in range(12)], abs=1e-4)


def test_guidance_is_full_beyond_max_pn(plain):
    settings = changed(plain, scales=(1, 3, 2, (2, 3), 2), max_pn=2)
    assert strengths(plain, settings) == pytest.approx([0, 1.5, 0.75, 1.5, 1.5], abs=1e-4)


def test_constant_guidance_is_that_of_llamagen(plain):
    settings = changed(plain, cfg_style="constant", cfg=2.5)
    observer = Steps()
    draw(plain, settings=settings, observer=observer)
    for output in observer.outputs:
        cond, uncond = output.logits_pre_cfg.chunk(2)
        torch.testing.assert_close(output.logits, uncond + 2.5 * (cond - uncond))


@pytest.mark.parametrize(("style", "cfg"), [("ramp", 0.0), ("constant", 1.0)])
def test_the_optimized_backend_leaves_out_rows_that_do_not_reach_the_logits(spec, plain, style, cfg):
    settings = changed(plain, cfg_style=style, cfg=cfg)
    optimized = build_sampler(spec, weights="random:1", backend="optimized")
    assert plain.schedule(settings, batch=3).steps[0].rows == 6
    assert optimized.schedule(settings, batch=3).steps[0].rows == 3
    assert same_tokens(draw(plain, settings=settings), draw(optimized, settings=settings))


@pytest.mark.parametrize(("style", "cfg"), [("ramp", 1.0), ("constant", 0.0)])
def test_the_optimized_backend_keeps_rows_that_reach_the_logits(spec, style, cfg):
    optimized = build_sampler(spec, weights="random:1", backend="optimized")
    assert optimized.schedule(FlexVarSettings(cfg=cfg, cfg_style=style), batch=3).steps[0].rows == 6


def test_scales_that_were_not_trained_or_are_beyond_max_pn_take_the_most_likely_token(plain):
    observer = Steps()
    settings = changed(plain, scales=(1, 4, 7, 5, (4, 7), 8, (2, 8), 4), max_pn=7, top_k=None, top_p=None)
    draw(plain, settings=settings, observer=observer)
    greedy = [torch.equal(output.tokens, output.logits.argmax(-1)) for output in observer.outputs]
    assert greedy == [False, False, True, False, True, True, True, False]


def test_greedy_scales_use_up_the_same_randomness(plain):
    """After a greedy scale, the official stream continues from the state that sampling would have left."""
    drawn = {}
    for max_pn in (None, 1):
        observer, noise = Steps(), UpstreamNoise(3)
        settings = changed(plain, scales=(1, 2), max_pn=max_pn, top_k=None, top_p=None)
        plain.sample(LABELS, settings, noise=noise, observer=observer)
        drawn[max_pn] = noise.labels(8, 1000)
        greedy = torch.equal(observer.outputs[1].tokens, observer.outputs[1].logits.argmax(-1))
        assert greedy == (max_pn == 1)
    assert torch.equal(drawn[None], drawn[1])
    assert not torch.equal(drawn[1], UpstreamNoise(3).labels(8, 1000))


@pytest.mark.parametrize("style", ["ramp", "constant"])
def test_invalid_ids_are_never_drawn(plain, style):
    invalid = tuple(range(20))
    # Logits so low that even the official -100 would be likely beside them.
    with torch.no_grad():
        plain.transformer.head.bias.fill_(-300.0)
    observer = Steps()
    settings = changed(plain, cfg_style=style, cfg=1.2, invalid_ids=invalid, top_k=None, top_p=None)
    samples = draw(plain, settings=settings, observer=observer)
    assert all(int(t.min()) >= 20 for t in samples.tokens)
    for output in observer.outputs:
        torch.testing.assert_close(output.logits[..., :20], torch.full_like(output.logits[..., :20], -100.0))
        assert output.logits_pre_cfg[..., :20].max() < -200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"invalid_ids": (3, 24)}, r"invalid_ids has 24; tiny has tokens 0\.\.23"),
        ({"invalid_ids": (-1,)}, "invalid_ids has -1"),
        ({"invalid_ids": tuple(range(24))}, "nothing is left to draw"),
        ({"top_k": 25}, "top_k 25 is larger than the vocabulary of tiny"),
    ],
)
def test_settings_that_the_model_cannot_follow_are_refused(plain, changes, message):
    with pytest.raises(UserError, match=message):
        draw(plain, settings=changed(plain, **changes))


@pytest.mark.parametrize("values", [{"max_pn": 0}, {"cfg_style": "linear"}, {"more_smooth": True}])
def test_settings_out_of_range_or_unknown_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        FlexVarSettings(**{"cfg": 1, **values})


@pytest.mark.parametrize("scales", [None, LONGER, WIDE], ids=["default", "longer", "wide"])
def test_planned_flops_equal_the_counted_ones(sampler, scales):
    settings = changed(sampler, scales=scales)

    with counted_flops() as flops:
        draw(sampler, settings=settings, observer=flops)
    plan = sampler.schedule(settings, batch=3)
    assert flops.counted == [*(step.flops for step in plan), plan.decode_flops]


def test_every_scale_encodes_the_same_features_on_its_own(plain):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = plain.tokenizer.features(images)
    short, long = plain.encode(images), plain.encode(images, settings=changed(plain, scales=WIDE))
    assert torch.equal(short[1], long[1])
    codes = F.normalize(plain.tokenizer.quantize.embedding.weight, dim=-1)
    cells = F.normalize(F.interpolate(features, size=(3, 5), mode="area").flatten(2).transpose(1, 2), dim=-1)
    assert torch.equal(long[3], (cells @ codes.T).argmax(-1))
    assert torch.equal(short[3], plain.tokenizer.encode(images))


def test_training_moves_the_positions_through_every_scale(plain):
    settings = changed(plain, scales=WIDE)
    plain.transformer.train()
    tokens = [t.clone() for t in draw(plain, settings=settings).tokens]
    plain.loss(tokens, torch.tensor(LABELS), settings=settings).backward()
    assert (plain.transformer.pos_1LC.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("scales", [None, LONGER, WIDE], ids=["default", "longer", "wide"])
def test_editing_keeps_known_tokens_and_draws_the_others(plain, scales):
    assert plain.edits
    settings = changed(plain, scales=scales)
    sides = plain.sides(settings)
    height, width = sides[-1][0] * 2, sides[-1][1] * 2
    images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.zeros(3, height, width, dtype=torch.bool)
    keep[:, :, : width // 2 + 1] = True
    encoded = plain.encode(images, settings=settings)
    edited = plain.edit(images, keep, LABELS, settings, noise=PerImageNoise(0, range(3)))
    changes = 0
    for (h, w), ours, theirs in zip(sides, edited.tokens, encoded, strict=True):
        share = F.interpolate(keep[:1, None].float(), size=(h, w), mode="area").flatten()
        assert torch.equal(ours[:, share >= 0.5], theirs[:, share >= 0.5])
        changes += int((ours != theirs)[:, share < 0.5].sum())
    assert changes > 0
    none_kept = plain.edit(images, torch.zeros_like(keep), LABELS, settings, noise=PerImageNoise(0, range(3)))
    assert same_tokens(none_kept, draw(plain, settings=settings))


def test_the_mask_of_a_file_is_replaced_by_our_own(plain):
    files = dict(plain.transformer.state_dict())
    files["attn_bias_for_masking"] = torch.full((1, 1, 40, 40), 7.0)
    adapted = plain.transformer.adapt_state(files)
    expected = block_causal_bias(levels(((1, 1), (2, 2), (3, 3), (4, 4))))
    assert torch.equal(adapted["attn_bias_for_masking"], expected)
    assert all(adapted[name] is files[name] for name in files if name != "attn_bias_for_masking")


def test_a_file_without_a_mask_stays_without_one(plain):
    assert plain.transformer.adapt_state({"head.bias": torch.zeros(24)}).keys() == {"head.bias"}
