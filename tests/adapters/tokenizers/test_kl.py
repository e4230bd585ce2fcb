"""The KL VAE: latents in and out, the official file, training."""

from __future__ import annotations

import pytest
import torch
from manifests import contents, manifest, parameters
from tiny_models import TINY_KL, tiny_vq, tiny_xar

from arvbench.adapters.checkpoints import random_tensors
from arvbench.adapters.loading import assemble, build_sampler, meta_modules
from arvbench.adapters.model_files import WeightsInfo
from arvbench.adapters.tokenizers.kl import KlConfig, KlVae
from arvbench.adapters.tokenizers.vq import VqModel
from arvbench.errors import CheckpointError, UserError


@pytest.fixture(scope="module")
def vae():
    module = KlVae(TINY_KL)
    module.load_state_dict(random_tensors(module, 0, torch.device("cpu")))
    return module.eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_defaults_are_those_of_the_official_file():
    with torch.device("meta"):
        official = KlVae(KlConfig())
    assert contents(official) == manifest("kl16")
    assert parameters(official) == 66_456_019
    assert (KlConfig().downsample, KlConfig().code_dim, KlConfig().scale) == (16, 16, 0.2325)


@torch.no_grad()
def test_latents_are_the_scaled_mean_and_drawn_ones_spread_around_it(vae, images):
    mean, log_variance = vae.moments(images)
    assert torch.equal(vae.features(images), mean * 0.5)
    assert torch.equal(vae.sampled(images, torch.zeros_like(mean)), vae.features(images))
    ones = vae.sampled(images, torch.ones_like(mean))
    torch.testing.assert_close(ones, 0.5 * (mean + (0.5 * log_variance).exp()))
    torch.testing.assert_close(vae.decode_map(mean * 0.5), vae.decoder(vae.post_quant_conv(mean)))


@torch.no_grad()
def test_log_variances_are_limited(vae, images):
    vae = KlVae(TINY_KL)
    for parameter in vae.parameters():
        parameter.zero_()
    vae.quant_conv.bias.data[4:] = 1e6
    drawn = vae.sampled(images, torch.ones(2, 4, 4, 4))
    torch.testing.assert_close(drawn, torch.full_like(drawn, 0.5 * torch.tensor(10.0).exp()))


def test_training_returns_a_reconstruction_and_the_divergence(vae, images):
    restored, divergence = vae.training_loss(images)
    assert restored.shape == images.shape and divergence > 0
    (restored.square().mean() + divergence).backward()
    assert all(p.grad is not None for p in vae.parameters())
    vae.zero_grad(set_to_none=True)


def test_images_that_are_not_finite_have_no_latents():
    sampler = build_sampler(tiny_xar(), weights="random:0")
    with pytest.raises(UserError, match="features are not finite"):
        sampler.encode(torch.full((1, 3, 8, 8), float("nan")))


def test_a_tokenizer_of_another_family_is_refused():
    spec = tiny_xar()
    state = {part: random_tensors(m, 0, torch.device("cpu")) for part, m in meta_modules(spec).items()}
    state["tokenizer"] = random_tensors(VqModel(tiny_vq()), 0, torch.device("cpu"))
    info = WeightsInfo(source="a test", random=True)
    with pytest.raises(
        CheckpointError, match=r"tokenizer weights from a test .*does not fit: .*looks most like the tokenizer of demo/"
    ):
        assemble(spec, meta_modules(spec), (state, info), device=torch.device("cpu"))
