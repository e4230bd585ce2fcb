"""D-AR: guidance on a line, one-dimensional positions, and a decoder that starts from noise of its images."""

from __future__ import annotations

import pytest
import torch
from sampling_calls import LABELS, Steps, counted_flops, draw
from tiny_models import tiny_dar, tiny_token_grid

from arvbench.adapters import MODELS
from arvbench.adapters.dar.sampler import DarSettings
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import Checkpoint
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise
from arvbench.errors import CheckpointError, UserError


@pytest.fixture(scope="module")
def sampler():
    return build_sampler(tiny_dar(), weights="random:1")


@pytest.mark.parametrize("name", ["dar-l", "dar-xl"])
def test_a_released_model_draws_256_tokens_in_as_many_passes(name):
    spec = MODELS[name]
    assert (spec.steps, spec.tokens, spec.image_px, spec.vocab_size) == (256, 256, 256, 16384)


def test_the_class_has_the_first_position_and_all_pairs_turn_by_the_slot(sampler):
    table = sampler.position_table(sampler.spec.transformer)
    assert table.shape == (9, 8, 2)
    assert table[-1, :, 0].tolist() == [1.0] * 8 and table[-1, :, 1].abs().max() == 0
    torch.testing.assert_close(torch.atan2(table[:3, 0, 1], table[:3, 0, 0]), torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cfg": 1.2, "cfg_end": 2.6}, [1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6]),
        ({"cfg": 3.0, "cfg_end": 1.6}, [3.0, 2.8, 2.6, 2.4, 2.2, 2.0, 1.8, 1.6]),
        ({"cfg": 1.0, "cfg_end": 1.7}, [1.001 + 0.699 * i / 7 for i in range(8)]),
        ({"cfg": 2.0, "cfg_end": None}, [2.0] * 8),
        ({"cfg": 2.0, "cfg_end": 2.0, "cfg_interval": 2}, [2.0] * 4 + [None] * 4),
        ({"cfg": 1.0, "cfg_end": None}, [None] * 8),
    ],
    ids=["rising", "falling", "from one", "constant", "interval", "off"],
)
def test_the_scale_of_guidance_runs_from_start_to_end(sampler, changes, expected):
    settings = DarSettings(**changes)
    assert sampler.guidance(sampler.plan.passes, settings) == pytest.approx(expected)
    observer = Steps()
    draw(sampler, settings=settings, observer=observer)
    for output, scale in zip(observer.outputs, expected, strict=True):
        rows = output.logits_pre_cfg.chunk(2) if expected[0] else (output.logits_pre_cfg,) * 2
        mixed = rows[0] if scale is None else rows[1] + scale * (rows[0] - rows[1])
        torch.testing.assert_close(output.logits, mixed, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("cfg", "end"), [(0.9, 3.0), (0.0, 2.0)])
def test_a_line_that_starts_without_guidance_is_refused(sampler, cfg, end):
    with pytest.raises(UserError, match="cfg_end needs a cfg of at least 1"):
        draw(sampler, settings=DarSettings(cfg=cfg, cfg_end=end))


@pytest.mark.parametrize("end", [1.0, 0.5, -1.0, float("nan")])
def test_an_end_without_guidance_is_refused(end):
    with pytest.raises(UserError, match="cfg_end"):
        DarSettings(cfg=2.0).replace(cfg_end=end)


def test_the_decoder_starts_from_noise_of_every_image(sampler):
    tokens = draw(sampler, [0] * 3).tokens
    same = [t[:1].expand(3, -1) for t in tokens]

    def images(noise, rows=slice(None)):
        return sampler.decode([t[rows] for t in same], noise=noise)

    together = images(PerImageNoise(7, [4, 5, 6]))
    assert (together[0] - together[1]).abs().max() > 0.01
    torch.testing.assert_close(images(PerImageNoise(7, [6]), slice(1)), together[2:])
    torch.testing.assert_close(images(PerImageNoise(7, [6, 4, 5])), together[[2, 0, 1]])
    assert (images(PerImageNoise(8, [4, 5, 6])) - together).abs().max() > 0.01


def test_noise_is_no_draw_from_the_global_generator(sampler):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = draw(sampler)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(draw(sampler).images, first.images)


def test_without_noise_the_tokens_decide_the_image(sampler):
    tokens = draw(sampler).tokens
    together = sampler.decode(tokens)
    torch.testing.assert_close(sampler.decode([t[2:] for t in tokens]), together[2:])
    torch.testing.assert_close(sampler.decode([t[[2, 0, 1]] for t in tokens]), together[[2, 0, 1]])
    changed = [*tokens[:-1], (tokens[-1] + 1) % 24]
    assert (sampler.decode(changed) - together).abs().max() > 0.01


def test_the_official_stream_draws_one_normal_map_after_the_tokens(sampler):
    settings = DarSettings(cfg=2.0)
    samples = sampler.sample(LABELS, settings, noise=UpstreamNoise(5))
    noise = UpstreamNoise(5)
    for _ in range(8):
        noise.tokens(torch.zeros(3, 1, 24), 0)
    torch.testing.assert_close(sampler.decode(samples.tokens, noise=noise), samples.decoded)


@pytest.mark.parametrize("policy", ["static", "grow"])
@pytest.mark.parametrize("settings", [None, DarSettings(cfg=1.0)], ids=["guided", "unguided"])
def test_planned_flops_equal_the_counted_ones(sampler, policy, settings):
    with counted_flops() as flops:
        draw(sampler, settings=settings, policy=policy, observer=flops)
    plan = sampler.schedule(settings or sampler.spec.settings, batch=3, cache=policy)
    assert flops.steps == [step.flops for step in plan]
    assert flops.counted[-1] == plan.decode_flops


def test_every_step_of_the_decoder_sees_its_group_of_conditions():
    config = MODELS["dar-l"].tokenizer
    assert [config.first_seen(i / 8) for i in range(8)] == [0, 32, 64, 96, 128, 160, 192, 224]
    assert config.first_seen(0.99) == 224
    assert config.times(2) == pytest.approx([0.0, 0.125 / 1.875, 1.0])


def test_training_moves_every_parameter():
    sampler = build_sampler(tiny_dar(), weights="random:1")
    for layer in (*sampler.tokenizer.encoder_layers, *sampler.tokenizer.decoder_layers):
        # Random weights have closed gates.
        layer.gate1.data.fill_(1)
        layer.gate2.data.fill_(1)
    sampler.loss(draw(sampler).tokens, torch.tensor(LABELS)).backward()
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokenizer, drawn = sampler.tokenizer, torch.Generator().manual_seed(0)
    codes, loss = tokenizer.quantize.straight_through(tokenizer.features(images))
    (tokenizer.decoding_loss(images, codes, patches=2, draw=drawn) + loss).backward()
    for module in sampler.modules().values():
        for name, parameter in module.named_parameters():
            # A bias behind the norm of keys adds the same to every score of a query that no rotation turns.
            if "cross_attn.k_norm.bias" not in name:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.fixture
def files(tmp_path):
    checkpoint = Checkpoint(transformer_file="t.pt", tokenizer_file="vq.pt", hub_repo="nobody/nothing")
    spec = tiny_dar(checkpoint=checkpoint)
    built = build_sampler(spec, weights="random:1")
    torch.save(built.transformer.state_dict(), tmp_path / "t.pt")
    more = {"diff_decoder.net.repa_out.0.weight": torch.zeros(2, 2)}
    torch.save({f"_orig_mod.{k}": v for k, v in (built.tokenizer.state_dict() | more).items()}, tmp_path / "vq.pt")
    return spec, tmp_path


def test_tensors_of_training_in_a_file_are_left_out(files):
    spec, folder = files
    assert torch.equal(
        draw(build_sampler(spec, weights=str(folder))).images, draw(build_sampler(spec, weights="random:1")).images
    )


def test_a_tokenizer_of_another_family_is_refused(files):
    spec, folder = files
    torch.save(build_sampler(tiny_token_grid("llamagen"), weights="random:1").tokenizer.state_dict(), folder / "vq.pt")
    with pytest.raises(CheckpointError, match=r"tokenizer weights from .* does not fit"):
        build_sampler(spec, weights=str(folder))
