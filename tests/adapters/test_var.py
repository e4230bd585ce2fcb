from __future__ import annotations

import pytest
import torch
from sampling_calls import LABELS, Steps, counted_flops, draw, same_tokens
from tiny_models import tiny_var
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.loading import build_sampler, load_sampler
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise
from arvbench.adapters.var import VarSettings
from arvbench.errors import UserError


@pytest.fixture
def spec():
    return tiny_var()


@pytest.fixture(scope="module", params=[False, True], ids=["adaln", "shared-adaln"])
def sampler(request):
    """One model for all tests: none of them changes its weights."""
    return build_sampler(tiny_var(shared_aln=request.param), weights="random:1")


def test_images_are_uint8_and_tokens_come_per_scale(sampler):
    samples = draw(sampler)
    assert samples.images.shape == (3, 3, 8, 8)
    assert samples.images.dtype == torch.uint8
    assert [t.shape for t in samples.tokens] == [(3, 1), (3, 4), (3, 9), (3, 16)]
    assert 0 <= samples.decoded.min() <= samples.decoded.max() <= 1


@pytest.mark.parametrize("policy", ["grow", "static"])
def test_live_cache_bytes_equal_the_plan_at_every_step(sampler, policy):
    settings = sampler.spec.settings
    cache = sampler.make_cache(policy, settings, batch=len(LABELS))
    observer = Steps(cache)
    draw(sampler, cache=cache, observer=observer)
    plan = sampler.schedule(settings, batch=len(LABELS))
    assert observer.live == [step.cache_bytes for step in plan]
    assert plan.peak_cache_bytes == 2 * 2 * (2 * 3) * 32 * 30 * 4  # k and v, layers, rows, width, tokens, bytes


def test_guidance_ramps_up_from_zero(sampler):
    observer = Steps()
    draw(sampler, observer=observer)
    for step, output in zip(observer.steps, observer.outputs, strict=True):
        cond, uncond = output.logits_pre_cfg.chunk(2)
        t = 1.5 * step.index / 3
        torch.testing.assert_close(output.logits, (1 + t) * cond - t * uncond)


def test_the_optimized_backend_leaves_out_rows_that_guidance_zero_does_not_use(spec):
    settings = VarSettings(cfg=0)
    reference = build_sampler(spec, weights="random:1")
    optimized = build_sampler(spec, weights="random:1", backend="optimized")
    assert reference.schedule(settings, batch=3).steps[0].rows == 6
    assert optimized.schedule(settings, batch=3).steps[0].rows == 3
    a, b = draw(reference, settings=settings), draw(optimized, settings=settings)
    assert same_tokens(a, b)


def test_smoothing_mixes_codes_without_changing_the_draws_of_the_first_scale(sampler):
    smooth = sampler.spec.settings.model_copy(update={"more_smooth": True})
    plain, mixed = draw(sampler), draw(sampler, settings=smooth)
    assert torch.equal(plain.tokens[0], mixed.tokens[0])
    assert not torch.equal(plain.decoded, mixed.decoded)
    assert torch.equal(draw(sampler, settings=smooth).images, mixed.images)


def test_the_class_condition_is_computed_inside_the_first_step(sampler):
    inside = []

    class Watching(SilentObserver):
        open = False

        def step_begin(self, step):
            assert not self.open
            self.open = True

        def step_end(self, step, output):
            self.open = False

    observer = Watching()
    hook = sampler.transformer.class_emb.register_forward_hook(lambda *_: inside.append(observer.open))
    draw(sampler, observer=observer)
    hook.remove()
    assert inside == [True]


def test_the_official_stream_depends_on_the_seed_alone(sampler):
    def run(seed):
        return sampler.sample(LABELS, sampler.spec.settings, noise=UpstreamNoise(seed)).images

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_half_precision_keeps_head_and_quantizer_in_fp32():
    full = build_sampler(tiny_var(), weights="random:1")
    half = build_sampler(tiny_var(), weights="random:1", dtype=torch.bfloat16)
    assert torch.equal(half.transformer.head.weight, full.transformer.head.weight)
    assert torch.equal(half.tokenizer.quantize.embedding.weight, full.tokenizer.quantize.embedding.weight)
    assert half.transformer.blocks[0].ffn.fc1.weight.dtype == torch.bfloat16
    observer = Steps()
    assert draw(half, observer=observer).images.dtype == torch.uint8
    assert observer.outputs[0].logits.dtype == torch.float32


def test_planned_flops_equal_the_counted_ones(sampler):
    settings = sampler.spec.settings

    with counted_flops() as flops:
        draw(sampler, observer=flops)
    plan = [step.flops for step in sampler.schedule(settings, batch=3)]
    # The count has the phi convolutions as well, which belong to the tokenizer.
    phi = 3 * 16 * 2 * 9 * 8 * 8
    assert flops.steps == [cached_schedule + phi for cached_schedule in plan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [False, True])
def test_planned_weight_traffic_is_the_size_of_the_weights_that_a_step_reads(shared, dtype):
    sampler = build_sampler(tiny_var(shared_aln=shared), weights="random:1", dtype=dtype)
    steps = sampler.schedule(sampler.spec.settings, batch=1).steps

    def weight_bytes(step):
        cache_read_and_written = step.cache_bytes + step.cache_bytes * step.new_tokens // step.cached_tokens
        return step.bytes_moved - cache_read_and_written - 4 * step.rows * step.new_tokens * 24

    def size(*parts):
        tensors = sampler.transformer.state_dict().items()
        return sum(t.nbytes for name, t in tensors if any(part in name for part in parts))

    every_step = size(".attn.mat_qkv", ".attn.proj", "q_bias", "k_bias", "v_bias", ".ffn.") + size(
        "head.weight", "head.bias"
    )
    assert weight_bytes(steps[-1]) == every_step + size("word_embed")
    assert weight_bytes(steps[0]) == every_step + size("ada_lin")


def test_decode_flops_equal_the_counted_ones(sampler):
    tokens = draw(sampler).tokens
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        f_hat = sampler.state_of(tokens, sampler.spec.settings)
        counted = counter.get_total_flops()
        sampler.tokenizer.decode_map(f_hat)
    assert sampler.schedule(sampler.spec.settings, batch=3).decode_flops == counter.get_total_flops() - counted


@pytest.mark.parametrize(
    ("labels", "message"), [([], "batch 0"), (3, "flat list"), ([[1]], "flat list"), (["a"], "list of integers")]
)
def test_labels_other_than_a_list_of_integers_are_refused(sampler, labels, message):
    with pytest.raises(UserError, match=message):
        sampler.sample(labels, sampler.spec.settings, noise=PerImageNoise(0, [0]))


def test_fractional_labels_are_refused(sampler):
    with pytest.raises(UserError, match="integers"):
        sampler.sample(torch.tensor([0.5]), sampler.spec.settings, noise=PerImageNoise(0, [0]))


def test_top_k_larger_than_the_vocabulary_is_refused(sampler):
    with pytest.raises(UserError, match=r"top_k 25 is larger than the vocabulary of tiny \(24\)"):
        draw(sampler, settings=VarSettings(cfg=1, top_k=25))


@pytest.mark.parametrize(
    "misfit",
    [
        lambda tokens: tokens[:-1],
        lambda tokens: (*tokens, tokens[-1]),
        lambda tokens: (*tokens[:-1], tokens[-1][:, 1:]),
        lambda tokens: (tokens[0][:1], *tokens[1:]),
        lambda tokens: tuple(t[0] for t in tokens),
        lambda tokens: (torch.cat(tokens, dim=1),),
        lambda tokens: (),
    ],
    ids=["a scale less", "a scale more", "a token less", "another batch", "no batch", "in one piece", "none"],
)
@pytest.mark.parametrize("family", ["var", "mvar", "hmar", "flexvar"])
def test_tokens_that_do_not_fit_the_scales_are_refused_in_every_next_scale_family(misfit, family):
    sampler = load_sampler(f"demo/{family}", weights="random:1")
    tokens = misfit(tuple(torch.zeros(3, h * w, dtype=torch.int64) for h, w in sampler.sides(sampler.spec.settings)))
    for call in (
        sampler.decode,
        lambda t: sampler.teacher_forced(t, LABELS),
        lambda t: sampler.loss(t, torch.tensor(LABELS)),
    ):
        with pytest.raises(UserError, match=r"tokens per scale .* do not fit the scales 1x1, 2x2, 3x3"):
            call(tokens)


@pytest.mark.parametrize("values", [{"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0}, {"cfg": -1}, {"smooth": True}])
def test_settings_out_of_range_or_unknown_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        VarSettings(**{"cfg": 1, **values})


def test_the_uint8_rules_differ_by_rounding():
    x = torch.tensor([0.0, 0.5, 0.999, 1.0])
    assert to_uint8(x, "truncate").tolist() == [0, 127, 254, 255]
    assert to_uint8(x, "round").tolist() == [0, 128, 255, 255]
