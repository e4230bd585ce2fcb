"""DetailFlow: passes, first tokens, guidance, caches and the tokenizer that decodes any number of latents."""

from __future__ import annotations

import pytest
import torch
from sampling_calls import LABELS, Steps, counted_flops, draw, same_tokens
from tiny_models import TOKEN_GRID_SETTINGS, tiny_detailflow, tiny_token_grid

from arvbench.adapters import MODELS
from arvbench.adapters.detailflow.sampler import DetailFlowSettings
from arvbench.adapters.loading import build_sampler, locate_weights
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import CheckpointError, UserError


@pytest.fixture(scope="module")
def sampler():
    return build_sampler(tiny_detailflow(), weights="random:1")


def settings(**changes):
    return DetailFlowSettings(**({"cfg": 2.0} | changes))


@pytest.mark.parametrize(
    ("name", "passes"), [("detailflow-l-128", 23), ("detailflow-l-256", 39), ("detailflow-l-512", 71)]
)
def test_passes_of_the_released_models_are_the_official_ones(name, passes):
    spec = MODELS[name]
    assert (spec.steps, spec.tokens, spec.image_px) == (passes, int(name[-3:]), 256)


@pytest.mark.parametrize("causal", [4, 8])
def test_a_slot_sees_earlier_groups_and_all_of_its_own(causal):
    plan = build_sampler(tiny_detailflow(causal_num=causal), weights="random:1").plan
    for i in range(16):
        for j in range(16):
            sees = j <= i if i < causal else i // 4 >= j // 4
            assert bool(plan.trained_mask_LL[i, j]) == sees, (i, j)


def test_the_class_has_no_position_and_special_tokens_have_one(sampler):
    rope = sampler.plan.trained_rope_LP2
    assert rope[0].abs().max() == 0
    assert rope[1:].square().sum(-1).allclose(torch.ones(15, 8))
    assert sampler.plan.passes[4].feeds == (3, -1, -1, -1) and sampler.plan.passes[4].rows == (3, 4, 5, 6)
    assert sampler.plan.passes[5].feeds == (4, 5, 6, 7) and sampler.plan.passes[5].rows == (7, 8, 9, 10)


@pytest.mark.parametrize("tokens", [1, 3, 4, 8, 12])
@pytest.mark.parametrize("policy", ["none", "static"])
def test_the_first_tokens_are_those_of_a_whole_call(sampler, tokens, policy):
    whole = torch.cat(draw(sampler, settings=settings()).tokens, dim=1)
    first = draw(sampler, settings=settings(tokens=tokens), policy=policy)
    assert torch.equal(torch.cat(first.tokens, dim=1), whole[:, :tokens])
    assert first.images.shape[2:] == sampler.image_shape(settings(tokens=tokens))


def test_the_side_of_the_picture_follows_the_resolution_curve():
    config = MODELS["detailflow-l-128"].tokenizer
    # 256 - 255 (128 - t)^1.5 / 127^1.5, rounded down, then up to whole patches.
    assert [config.side_of(t) for t in (1, 8, 64, 120, 128)] == [16, 32, 176, 256, 256]


@pytest.mark.parametrize("tokens", [0, 5, 9, 17, 20])
def test_tokens_that_end_no_pass_are_refused(sampler, tokens):
    with pytest.raises((UserError, ValueError), match="tokens"):
        draw(sampler, settings=settings(tokens=tokens))


@pytest.mark.parametrize("cfg", [1.0, 0.5, 0.0])
def test_the_official_loop_cannot_run_without_guidance(cfg):
    with pytest.raises(UserError, match="cfg: Input should be greater than 1"):
        settings().replace(cfg=cfg)


def test_settings_of_another_family_are_refused(sampler):
    with pytest.raises(UserError, match="tiny-detailflow takes DetailFlowSettings, got TokenGridSettings"):
        draw(sampler, settings=TOKEN_GRID_SETTINGS)


def test_guidance_falls_from_group_to_group(sampler):
    observer = Steps()
    draw(sampler, settings=settings(gradual_cfg=True, cfg=3.0), observer=observer)
    scales = []
    for output in observer.outputs:
        cond, uncond = output.logits_pre_cfg.chunk(2)
        scales.append(float(((output.logits - uncond) / (cond - uncond)).median()))
    # Single tokens have the whole scale; groups 1, 2 and 3 of four have 4, 3 and 2 fifths of it.
    assert scales == pytest.approx([3.0] * 4 + [2.4, 1.8, 1.2], abs=1e-3)


@pytest.mark.parametrize("policy", ["none", "static", "grow"])
@pytest.mark.parametrize("tokens", [None, 8])
def test_planned_flops_equal_the_counted_ones(sampler, policy, tokens):
    asked = settings(tokens=tokens)
    with counted_flops() as flops:
        draw(sampler, settings=asked, policy=policy, observer=flops)
    plan = sampler.schedule(asked, batch=3, cache=policy)
    assert flops.steps == [step.flops for step in plan]
    assert flops.counted[-1] == plan.decode_flops


def test_without_a_cache_every_pass_computes_its_prefix_again(sampler):
    none, static = (sampler.schedule(settings(), batch=1, cache=policy) for policy in ("none", "static"))
    assert [step.new_tokens for step in none] == [1, 2, 3, 4, 8, 12, 16]
    assert [step.new_tokens for step in static] == [1, 1, 1, 1, 4, 4, 4]
    assert [step.context_tokens for step in static] == [step.context_tokens for step in none]
    assert none.peak_cache_bytes == 0 and static.peak_cache_bytes == 2 * 2 * 2 * 32 * 16 * 4
    assert {step.name for step in none} == {"token", "parallel"}


def test_the_official_loop_has_no_cache_and_ours_has(sampler):
    assert sampler.make_cache(None, settings(), batch=1).policy == "none"
    ours = build_sampler(tiny_detailflow(), weights="random:1", backend="optimized")
    assert ours.make_cache(None, settings(), batch=1).policy == "static"


def test_images_of_first_tokens_do_not_depend_on_the_batch(sampler):
    asked, labels = settings(tokens=8), [i % 5 for i in range(32)]
    together = draw(sampler, labels, asked)
    for images in ([31], [6, 5, 4, 3, 2, 1, 0]):
        samples = sampler.sample([labels[i] for i in images], asked, noise=PerImageNoise(0, images))
        assert same_tokens(samples, [t[images] for t in together.tokens])


def test_encoded_images_are_cut_to_the_tokens_that_are_asked_for(sampler):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, first = (torch.cat(sampler.encode(images, settings=settings(tokens=t)), dim=1) for t in (None, 8))
    assert whole.shape == (2, 16) and torch.equal(first, whole[:, :8])


def test_an_image_that_is_not_whole_patches_is_refused(sampler):
    with pytest.raises(UserError, match="images of 7 x 8 pixels cannot be cut into patches of 2 x 2"):
        sampler.encode(torch.zeros(1, 3, 7, 8))


def test_training_moves_every_parameter(sampler):
    for module in sampler.modules().values():
        module.zero_grad()
    sampler.loss(draw(sampler).tokens, torch.tensor(LABELS)).backward()
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    restored, loss = sampler.tokenizer.training_loss(images)
    (restored.square().mean() + loss).backward()
    for module in sampler.modules().values():
        for name, parameter in module.named_parameters():
            # A bias of keys adds the same to every score of a query.
            assert "k_proj.bias" in name or parameter.grad.abs().sum() > 0, name


def test_a_tokenizer_restores_from_the_first_latents_when_it_trains(sampler):
    restored, _ = sampler.tokenizer.training_loss(torch.zeros(1, 3, 8, 8), 4)
    assert restored.shape[2:] == (sampler.tokenizer.config.side_of(4),) * 2


@pytest.fixture
def files(tmp_path):
    """A spec whose two official files have one name, and a folder with them."""
    from arvbench.adapters.sampler import Checkpoint

    checkpoint = Checkpoint(
        transformer_file="checkpoints/16.pt",
        tokenizer_file="checkpoints/16.pt",
        hub_repo="nobody/Model-GPT",
        tokenizer_repo="nobody/Model",
        transformer_nesting=(("ema",), ("model",)),
        tokenizer_nesting=(("ema",), ("model",)),
    )
    spec = tiny_detailflow(checkpoint=checkpoint)
    built = build_sampler(spec, weights="random:1")
    for folder, module in (("Model-GPT", built.transformer), ("Model", built.tokenizer)):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
        state = dict(module.state_dict())
        if folder == "Model":
            state |= {"encoder.refined_tokens": torch.zeros(1, 16, 16), "refine_conv.weight": torch.zeros(16, 8)}
            state |= {"repa_model.x": torch.zeros(1), "projection.0.bias": torch.zeros(1)}
        torch.save({"ema": state, "model": state, "steps": 1}, tmp_path / folder / "checkpoints" / "16.pt")
    return spec, tmp_path


@pytest.mark.parametrize("given", ["", "Model-GPT/checkpoints/16.pt"], ids=["folder", "file"])
def test_two_files_of_one_name_are_told_apart_by_their_repositories(files, given):
    spec, folder = files
    loaded = build_sampler(spec, weights=str(folder / given))
    assert same_tokens(draw(loaded), draw(build_sampler(spec, weights="random:1")))
    assert sorted(loaded.weights.sha256) == ["tokenizer 16.pt", "transformer 16.pt"]


def test_a_missing_tokenizer_is_named_with_its_repository(files):
    spec, folder = files
    (folder / "Model" / "checkpoints" / "16.pt").unlink()
    with pytest.raises(
        CheckpointError, match=r"Model/checkpoints/16.pt is missing; get it from huggingface.co/nobody/Model"
    ):
        locate_weights(spec, str(folder))


def test_a_tokenizer_of_another_family_is_refused(files):
    spec, folder = files
    other = build_sampler(tiny_token_grid("llamagen"), weights="random:1").tokenizer
    torch.save({"model": other.state_dict()}, folder / "Model" / "checkpoints" / "16.pt")
    with pytest.raises(CheckpointError, match=r"tokenizer weights from .* does not fit"):
        build_sampler(spec, weights=str(folder))


def test_a_tensor_that_is_not_known_is_refused(files):
    spec, folder = files
    path = folder / "Model" / "checkpoints" / "16.pt"
    state = torch.load(path, weights_only=True)["ema"] | {"decoder.more": torch.zeros(1)}
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(decoder.more\)"):
        build_sampler(spec, weights=str(folder))
