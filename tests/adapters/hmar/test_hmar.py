from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sampling_calls import LABELS, Steps, counted_flops, draw, same_tokens
from tiny_models import MASK_SCHEDULE, tiny_hmar

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.editing import KnownPixels
from arvbench.adapters.hmar.refinement import least_confident
from arvbench.adapters.hmar.sampler import HmarConfig, HmarSettings, mask_at_random
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import NULL_LABEL
from arvbench.adapters.sampling import filter_logits
from arvbench.errors import ContractError, UserError

PLAIN = HmarSettings(cfg=1.5, top_k=12, top_p=0.9)
HISTORY = HmarSettings(cfg=1.5, top_k=12, top_p=0.9, kv_cache=True)


@pytest.fixture
def spec():
    return tiny_hmar()


@pytest.fixture(scope="module", params=[False, True], ids=["adaln", "shared-adaln"])
def sampler(request):
    """One model for all tests: none of them changes its weights."""
    return build_sampler(tiny_hmar(shared_aln=request.param), weights="random:1")


def redrawn(observer):
    """Positions masked by each refinement, in order: [(side of the scale, (B, n))]."""
    steps = zip(observer.steps, observer.outputs, strict=True)
    return [(step.side[0], output.redrawn) for step, output in steps if step.kind == "mask"]


def test_steps_come_in_the_order_of_the_schedule(sampler):
    observer = Steps()
    samples = draw(sampler, observer=observer)
    kinds = [(step.kind, step.side[0]) for step in observer.steps]
    refined = [("scale", 2), ("mask", 2), ("scale", 3), ("mask", 3), ("mask", 3), ("scale", 4), ("mask", 4)]
    assert kinds == [("scale", 1), *refined]
    assert [step.index for step in observer.steps] == list(range(8))
    assert sampler.spec.steps == 8
    assert [t.shape for t in samples.tokens] == [(3, 1), (3, 4), (3, 9), (3, 16)]
    assert sum(group[0].new_tokens for group in sampler.schedule(sampler.spec.settings, batch=3).groups()) == 30


def test_one_element_entries_mean_no_refinement(sampler):
    ones = PLAIN.model_copy(update={"mask_schedule": ((1,), (4,), (9,), (16,))})
    assert same_tokens(draw(sampler, settings=ones), draw(sampler, settings=PLAIN))
    assert not same_tokens(draw(sampler), draw(sampler, settings=PLAIN))


def test_refinement_changes_masked_positions_only(sampler):
    observer = Steps()
    samples = draw(sampler, observer=observer)
    shown = []
    for step, output in zip(observer.steps, observer.outputs, strict=True):
        if step.kind == "scale":
            shown.append(output.tokens)
            continue
        where = torch.zeros_like(shown[-1], dtype=torch.bool).scatter(1, output.redrawn, True)
        shown[-1] = torch.where(where, output.tokens, shown[-1])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(shown, samples.tokens, strict=True))
    assert [(side, positions.shape[1]) for side, positions in redrawn(observer)] == [(2, 3), (3, 8), (3, 5), (4, 12)]


def test_a_second_refinement_masks_some_of_the_tokens_drawn_by_the_first(sampler):
    observer = Steps()
    draw(sampler, observer=observer)
    (_, first), (_, second) = redrawn(observer)[1:3]
    for before, after in zip(first.tolist(), second.tolist(), strict=True):
        assert len(set(after)) == 5
        assert set(after) < set(before)


def test_the_least_confident_tokens_under_the_filtered_logits_are_masked(sampler):
    observer = Steps()
    draw(sampler, observer=observer)
    output = observer.outputs[3]
    assert observer.steps[3].name == "scale 3x3"
    filtered = filter_logits(output.logits, 12, 0.9)
    probs = filtered.softmax(-1).gather(-1, output.tokens.unsqueeze(-1)).squeeze(-1)
    for row, positions in zip(probs, redrawn(observer)[1][1], strict=True):
        kept = sorted(set(range(9)) - set(positions.tolist()))
        assert row[kept].min() >= row[positions].max()
        assert torch.equal(row[positions], row[positions].sort().values)


def test_ties_go_to_the_first_position():
    ones = torch.ones(2, 36)
    first = least_confident(ones, None, 30)
    assert first.tolist() == [list(range(30))] * 2
    assert least_confident(ones, first.flip(1), 3).tolist() == [[29, 28, 27]] * 2


def test_greedy_refinement_masks_the_lowest_raster_positions(sampler):
    observer = Steps()
    draw(sampler, settings=HmarSettings(cfg=1.5, top_k=1, mask_schedule=MASK_SCHEDULE), observer=observer)
    assert [positions.tolist() for _, positions in redrawn(observer)] == [[list(range(n))] * 3 for n in (3, 8, 5, 12)]


def test_guidance_is_practically_off_in_refinement(sampler):
    observer = Steps()
    draw(sampler, observer=observer, settings=sampler.spec.settings.model_copy(update={"cfg": 1000.0}))
    for output in observer.of("mask"):
        cond, uncond = output.logits_pre_cfg.chunk(2)
        torch.testing.assert_close(output.logits, (1 + 1e-3) * cond - 1e-3 * uncond)
    assert len(observer.of("mask")) == 4


def test_a_scale_goes_onto_the_canvas_once_with_its_refined_tokens(sampler):
    observer = Steps()
    samples = draw(sampler, observer=observer)
    canvas, f_hats = sampler.tokenizer.canvas(sampler.sides(PLAIN), 3), []
    for scale, ids in enumerate(samples.tokens):
        canvas.place(canvas.lookup(ids, scale), scale)
        f_hats.append(canvas.state)
    on_canvas = [0, 0, 1, 1, 1, 2, 2, 3]  # scales on it after each step
    for output, scale in zip(observer.outputs, on_canvas, strict=True):
        torch.testing.assert_close(output.state, f_hats[scale])


def test_a_masked_token_is_hidden_from_masked_prediction(sampler):
    sampler = build_sampler(sampler.spec, weights="random:1")
    tokens = draw(sampler).tokens
    changed = [t.clone() for t in tokens]
    changed[2][:, 4] = (changed[2][:, 4] + 1) % 24
    masked_too, shown = torch.tensor([4 + 4, 0]), torch.tensor([4 + 5, 0])  # positions after the first scale

    def logits(ids, positions):
        return sampler.masked_logits(ids, LABELS, positions)[:, 5:14]  # the 3 x 3 scale

    assert not torch.allclose(logits(tokens, shown), logits(changed, shown), atol=1e-4)
    everything = torch.arange(4, 13)
    assert torch.equal(logits(tokens, everything), logits(changed, everything))
    assert not torch.equal(logits(tokens, masked_too), logits(tokens, shown))
    before = logits(tokens, everything)
    sampler.transformer.mask_embed.weight.data *= -1
    assert not torch.allclose(logits(tokens, everything), before, atol=1e-2)


def test_stepwise_refinement_equals_the_one_pass_form(sampler):
    observer = Steps()
    samples = draw(sampler, [1], observer=observer)
    # Before its last refinement, a scale has other tokens than at its end: restore them.
    side, positions = redrawn(observer)[-1]
    shown = [*samples.tokens[:3], observer.outputs[6].tokens]
    logits = sampler.masked_logits(shown, [1], positions[0] + 4 + 9)[:, 14:]
    assert side == 4
    torch.testing.assert_close(observer.outputs[-1].logits_pre_cfg[:1], logits, atol=1e-4, rtol=0)


def test_images_are_rounded_to_uint8(sampler):
    samples = draw(sampler)
    assert samples.images.shape == (3, 3, 8, 8)
    assert torch.equal(samples.images, (samples.decoded * 255 + 0.5).clamp(0, 255).to(torch.uint8))


def test_a_scale_depends_on_coarser_ones_through_f_hat_only(sampler):
    sampler = build_sampler(sampler.spec, weights="random:1")
    tokens = [t.clone() for t in draw(sampler).tokens]
    sampler.tokenizer.quantize.embedding.weight.data[7] = sampler.tokenizer.quantize.embedding.weight.data[8]
    tokens[1][:], other = 7, [t.clone() for t in tokens]
    other[1][:] = 8  # another id with the same code vector: f_hat is equal
    assert torch.equal(sampler.teacher_forced(tokens, LABELS), sampler.teacher_forced(other, LABELS))


def test_guidance_zero_needs_no_unconditional_rows(spec):
    settings = spec.settings.model_copy(update={"cfg": 0.0})
    reference = build_sampler(spec, weights="random:1")
    optimized = build_sampler(spec, weights="random:1", backend="optimized")
    assert [step.rows for step in reference.schedule(settings, batch=3)] == [6] * 8
    assert [step.rows for step in optimized.schedule(settings, batch=3)] == [3] * 8
    assert same_tokens(draw(reference, settings=settings), draw(optimized, settings=settings))


def test_half_precision_keeps_both_heads_in_fp32(spec):
    full = build_sampler(spec, weights="random:1")
    half = build_sampler(spec, weights="random:1", dtype=torch.bfloat16)
    for head in ("ns_head", "mask_head"):
        weight = half.transformer.get_parameter(f"{head}.weight")
        assert torch.equal(weight, full.transformer.get_parameter(f"{head}.weight"))
    assert half.transformer.mask_blocks[0].ffn.fc1.weight.dtype == torch.bfloat16
    observer = Steps()
    draw(half, observer=observer)
    assert {output.logits.dtype for output in observer.outputs} == {torch.float32}


def test_the_class_condition_of_refinement_is_computed_in_its_first_step(sampler):
    steps = []

    class Watching(SilentObserver):
        step = None

        def step_begin(self, step):
            self.step = step.index

    observer = Watching()
    hook = sampler.transformer.class_emb.register_forward_hook(lambda *_: steps.append(observer.step))
    draw(sampler, observer=observer)
    hook.remove()
    assert steps == [0, 2]  # next-scale prediction needs it in the first step


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_both_kv_caches_draw_the_same_tokens_and_their_bytes_are_planned(spec, backend):
    sampler = build_sampler(spec, weights="random:1", backend=backend)
    drawn = {}
    for policy in ("grow", "static"):
        cache = sampler.make_cache(policy, HISTORY, batch=3)
        observer = Steps(cache)
        drawn[policy] = draw(sampler, settings=HISTORY, cache=cache, observer=observer)
        plan = sampler.schedule(HISTORY, batch=3, cache=policy)
        assert observer.live == [step.cache_bytes for step in plan]
        assert plan.peak_cache_bytes == 2 * 3 * 6 * 32 * 30 * 4  # k and v, layers, rows, width, tokens, bytes
    assert same_tokens(drawn["grow"], drawn["static"])
    assert same_tokens(drawn["grow"], draw(sampler, settings=HISTORY))
    assert not same_tokens(drawn["grow"], draw(sampler, settings=PLAIN))


def test_the_kv_cache_is_the_official_policy_of_its_backend(spec):
    for backend, policy in (("reference", "grow"), ("optimized", "static")):
        sampler = build_sampler(spec, weights="random:1", backend=backend)
        assert sampler.make_cache(None, HISTORY, batch=1).policy == policy
        assert sampler.make_cache(None, PLAIN, batch=1).policy == "none"


def test_without_a_cache_nothing_is_kept(sampler):
    cache = sampler.make_cache(None, sampler.spec.settings, batch=3)
    observer = Steps(cache)
    draw(sampler, cache=cache, observer=observer)
    plan = sampler.schedule(sampler.spec.settings, batch=3)
    assert observer.live == [0] * 8 == [step.cache_bytes for step in plan]
    assert [step.context_tokens for step in plan] == [step.new_tokens for step in plan]


def test_stepwise_logits_with_a_kv_cache_equal_their_teacher_forced_pass(sampler):
    observer = Steps()
    samples = draw(sampler, settings=HISTORY, observer=observer)
    stepwise = torch.cat([output.logits_pre_cfg for output in observer.outputs], dim=1)
    forced = sampler.teacher_forced(samples.tokens, LABELS, settings=HISTORY)
    torch.testing.assert_close(forced, stepwise[:3], atol=1e-4, rtol=0)
    assert not torch.allclose(forced, sampler.teacher_forced(samples.tokens, LABELS), atol=1e-2)


def test_a_kv_cache_with_refinement_is_refused(sampler):
    with pytest.raises(UserError, match="kv_cache excludes refinement: set mask_schedule to none"):
        draw(sampler, settings=HISTORY.model_copy(update={"mask_schedule": MASK_SCHEDULE}))


def test_a_policy_that_does_not_fit_the_attention_is_refused(sampler):
    for refused in (sampler.make_cache, lambda policy, *a, **k: sampler.schedule(*a, cache=policy, **k)):
        with pytest.raises(UserError, match="cache policy grow needs the setting kv_cache=true"):
            refused("grow", PLAIN, batch=1)
        with pytest.raises(UserError, match="take cache policy grow or static, not none"):
            refused("none", HISTORY, batch=1)
    with pytest.raises(UserError, match="has no cache policy 'state'; it has: none, grow, static"):
        sampler.make_cache("state", PLAIN, batch=1)
    with pytest.raises(UserError, match="take cache policy grow or static"):
        draw(sampler, settings=HISTORY, cache=sampler.make_cache("none", PLAIN, batch=3))
    with pytest.raises(ContractError, match="needs a cache"):
        draw(sampler, settings=HISTORY, cache=sampler.make_cache("grow", HISTORY, batch=1))


@pytest.mark.parametrize("settings", [None, PLAIN, HISTORY], ids=["refined", "plain", "kv-cache"])
def test_planned_flops_equal_the_counted_ones(sampler, settings):
    settings = settings or sampler.spec.settings

    with counted_flops() as flops:
        draw(sampler, settings=settings, observer=flops)
    plan = sampler.schedule(settings, batch=3)
    # The count includes the tokenizer's phi convolutions: one for each scale placed on the canvas, one for the input of
    # each refinement.
    phi = 3 * 16 * 2 * 9 * 8 * 8
    last = {group[-1].index for group in plan.groups()}
    expected = [step.flops + phi * ((step.index in last) + (step.kind == "mask")) for step in plan]
    assert flops.steps == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [False, True])
def test_planned_weight_traffic_is_the_size_of_the_weights_that_a_step_reads(shared, dtype):
    sampler = build_sampler(tiny_hmar(shared_aln=shared), weights="random:1", dtype=dtype)
    steps = sampler.schedule(sampler.spec.settings, batch=1).steps

    def weight_bytes(step):
        return step.bytes_moved - 4 * step.rows * step.new_tokens * 24

    def size(*starts, but=(), only=""):
        tensors = sampler.transformer.state_dict().items()
        chosen = [(n, t) for n, t in tensors if n.startswith(starts) and not any(part in n for part in but)]
        return sum(t.nbytes for name, t in chosen if only in name)

    # The plan leaves out per-head scales and a block's own part of the shared modulation, a few numbers each.
    small = ("ada_lin", "ada_gss", "scale_mul")
    base, ns, mask = (size(f"{path}_blocks", but=small) for path in ("base", "ns", "mask"))
    common = "shared_ada_lin" if shared else "base_blocks"
    first_scale, second_scale, first_mask = steps[:3]
    assert weight_bytes(first_scale) == base + ns + size("ns_head.") + size(
        *({common, "ns_head_nm"} if shared else {"base_blocks", "ns_blocks", "ns_head_nm"}), only="ada_lin"
    )
    assert weight_bytes(second_scale) == base + ns + size("ns_head.", "word_embed")
    again = base + mask + size("mask_head.", "word_embed", "mask_embed")
    own = ("shared_ada_lin", "mask_head_nm") if shared else ("mask_blocks", "mask_head_nm")
    assert weight_bytes(first_mask) == again + size(*own, only="ada_lin")
    assert weight_bytes(steps[-1]) == again


def test_editing_keeps_known_tokens_and_refines_the_others(sampler):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.zeros(3, 8, 8, dtype=torch.bool)
    keep[:, :, :4] = True
    keep[2] = True
    observer = Steps()
    assert sampler.edits
    samples = draw(sampler, observer=observer, known=KnownPixels(images=images, keep=keep))
    known = sampler.encode(images)
    for scale, tokens in enumerate(samples.tokens):
        kept = F.interpolate(keep.float()[:, None], size=sampler.spec.transformer.sides[scale], mode="area")
        kept = kept.flatten(1) >= 0.5
        assert torch.equal(tokens[kept], known[scale][kept])
        assert not kept[:2].all() or scale == 0
    # All tokens of the third image are known; in the others, the schedule masks more tokens than are unknown.
    assert torch.equal(torch.cat(samples.tokens, 1)[2], torch.cat(known, 1)[2])
    free = draw(sampler)
    assert not same_tokens(samples, free)
    # The unknown half of the last scale is masked first.
    unknown = {row * 4 + column for row in range(4) for column in (2, 3)}
    assert set(redrawn(observer)[3][1][0, :8].tolist()) == unknown


def test_masked_loss_is_the_cross_entropy_at_masked_positions(sampler):
    tokens = draw(sampler).tokens
    positions = mask_at_random([4, 9, 16], 0.5, torch.Generator().manual_seed(3))
    logits = sampler.masked_logits(tokens, LABELS, positions)[:, positions + 1]
    expected = F.cross_entropy(logits.flatten(0, 1), torch.cat(tokens, 1)[:, positions + 1].flatten())
    loss = sampler.masked_loss(tokens, torch.tensor(LABELS), share=0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss, expected)


def test_half_of_every_scale_is_masked_rounded_up():
    positions = mask_at_random([4, 9, 16], 0.5, torch.Generator().manual_seed(0))
    scales = [sum(a <= p < b for p in positions.tolist()) for a, b in ((0, 4), (4, 13), (13, 29))]
    assert scales == [2, 5, 8]
    assert len(set(positions.tolist())) == 15
    assert len(mask_at_random([4, 9], 0.0, None)) == 2
    assert sorted(mask_at_random([4, 9], 1.0, None).tolist()) == list(range(13))
    with pytest.raises(UserError, match="share of masked tokens"):
        mask_at_random([4], 1.5, None)


def test_loss_is_the_sum_of_both(sampler):
    tokens, labels = draw(sampler).tokens, torch.tensor(LABELS)
    both = sampler.next_scale_loss(tokens, labels) + sampler.masked_loss(tokens, labels)
    torch.testing.assert_close(sampler.loss(tokens, labels), both)
    assert sampler.masked_loss(tokens, labels) == sampler.masked_loss(tokens, labels)


def test_the_next_scale_part_of_the_loss_follows_the_settings(sampler):
    tokens, labels = draw(sampler).tokens, torch.tensor(LABELS)
    forced = sampler.teacher_forced(tokens, LABELS, settings=HISTORY)
    expected = F.cross_entropy(forced.flatten(0, 1), torch.cat(tokens, 1).flatten())
    torch.testing.assert_close(sampler.next_scale_loss(tokens, labels, settings=HISTORY), expected)
    both = expected + sampler.masked_loss(tokens, labels)
    torch.testing.assert_close(sampler.loss(tokens, labels, settings=HISTORY), both)
    assert not torch.allclose(both, sampler.loss(tokens, labels), atol=1e-4)


def test_labels_are_dropped_in_training_by_both_losses():
    sampler = build_sampler(tiny_hmar(cond_drop_rate=1.0), weights="random:1")
    tokens, labels = [t.clone() for t in draw(sampler).tokens], torch.tensor(LABELS)
    null = torch.full((3,), NULL_LABEL)
    # A share of 1 masks every position, so the random numbers used by the label drop do not change the loss.
    expected = sampler.next_scale_loss(tokens, null), sampler.masked_loss(tokens, null, share=1.0)
    kept = sampler.next_scale_loss(tokens, labels), sampler.masked_loss(tokens, labels, share=1.0)
    sampler.transformer.train()
    dropped = sampler.next_scale_loss(tokens, labels), sampler.masked_loss(tokens, labels, share=1.0)
    torch.testing.assert_close(dropped, expected)
    assert all(a != b for a, b in zip(dropped, kept, strict=True))


def test_the_stages_train_all_parameters_each_its_own(sampler):
    first, second = sampler.next_scale_parameters(), sampler.refinement_parameters()
    assert sorted([*first, *second]) == sorted(name for name, _ in sampler.transformer.named_parameters())
    assert {name.split(".")[0] for name in second} == {"mask_embed", "mask_blocks", "mask_head", "mask_head_nm"}
    tokens, labels = [t.clone() for t in draw(sampler).tokens], torch.tensor(LABELS)
    sampler.next_scale_loss(tokens, labels).backward()
    trained = {name for name, p in sampler.transformer.named_parameters() if p.grad is not None}
    assert trained == set(first)


def test_a_path_has_at_least_one_block_of_its_own():
    for n in (0, 4):
        with pytest.raises(UserError, match=r"n_layers_train must be in 1\.\.depth \(3\)"):
            HmarConfig(depth=3, embed_dim=32, num_heads=2, n_layers_train=n)
