from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_vq

from arvbench.adapters.checkpoints import random_tensors
from arvbench.adapters.tokenizers.vq import VqModel


@pytest.fixture
def vq():
    model = VqModel(tiny_vq())
    model.load_state_dict(random_tensors(model, 0, torch.device("cpu")))
    return model.eval()


def images(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (6, 2)])
def test_maps_of_any_size_encode_and_decode(vq, height, width):
    x = images(2, 3, height, width)
    side = (height // 2, width // 2)
    features, ids = vq.features(x), vq.encode(x)
    assert features.shape == (2, 8, *side)
    assert ids.shape == (2, side[0] * side[1])
    assert vq.decode(ids, side=side).shape == x.shape


def test_codes_are_in_raster_order(vq):
    ids = torch.arange(6).unsqueeze(0)
    codes = vq.quantize.lookup(ids, (2, 3))
    torch.testing.assert_close(codes[0, :, 1, 0], F.normalize(vq.quantize.embedding.weight[3], dim=0))


def test_the_nearest_code_is_the_one_at_the_smallest_angle(vq):
    z = torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(1))
    rows, codes = z.permute(0, 2, 3, 1).reshape(-1, 8), vq.quantize.embedding.weight
    expected = F.cosine_similarity(rows[:, None], codes[None], dim=-1).argmax(1)
    assert torch.equal(vq.quantize.nearest(z).flatten(), expected)
    assert torch.equal(vq.quantize.nearest(5 * z), vq.quantize.nearest(z))


def test_without_normalisation_distance_decides(vq):
    plain = VqModel(replace(tiny_vq(), codebook_l2_norm=False))
    plain.load_state_dict(vq.state_dict())
    z = 3 * torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(1))
    rows, codes = z.permute(0, 2, 3, 1).reshape(-1, 8), plain.quantize.embedding.weight
    expected = (rows[:, None] - codes[None]).square().sum(-1).argmin(1)
    assert torch.equal(plain.quantize.nearest(z).flatten(), expected)
    assert torch.equal(plain.quantize.lookup(torch.tensor([[7]]), (1, 1))[0, :, 0, 0], codes[7])


def test_every_code_is_its_own_nearest(vq):
    ids = torch.arange(24).view(1, 24)
    assert torch.equal(vq.quantize.nearest(vq.quantize.lookup(ids, (4, 6))), ids)


def test_training_passes_gradients_to_encoder_codebook_and_decoder(vq):
    x = images(2, 3, 8, 8)
    restored, loss = vq.train().training_loss(x)
    F.mse_loss(restored, x).backward(retain_graph=True)
    # Straight through: the reconstruction moves the encoder, and never the codebook.
    assert vq.encoder.conv_in.weight.grad.abs().sum() > 0
    assert vq.decoder.conv_out.weight.grad.abs().sum() > 0
    assert vq.quantize.embedding.weight.grad is None
    loss.backward()
    assert vq.quantize.embedding.weight.grad.abs().sum() > 0
    restored, _ = vq.eval().training_loss(x)
    torch.testing.assert_close(restored, vq.decode(vq.encode(x), side=(4, 4)), atol=1e-5, rtol=0)


def test_training_at_a_smaller_side_averages_the_features_first(vq):
    x = images(2, 3, 8, 8)
    restored, loss = vq.training_loss(x, 2)
    features = F.avg_pool2d(vq.features(x), 2)
    torch.testing.assert_close(restored, vq.decode(vq.quantize.nearest(features), (2, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(loss, vq.quantize.straight_through(features)[1])


def test_targets_are_features_with_the_ids_of_their_codes(vq):
    z = torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(1))
    ((vectors, ids),) = vq.quantize.targets(z)
    assert torch.equal(vectors[6 + 4], z[1, :, 1, 1])
    assert torch.equal(ids, vq.quantize.nearest(z).flatten())


def test_the_quantizers_loss_is_codebook_plus_weighted_commitment(vq):
    z = torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(1))
    codes = vq.quantize.lookup(vq.quantize.nearest(z), (2, 3))
    distance = (codes - F.normalize(z, dim=1)).square().mean()
    torch.testing.assert_close(vq.quantize.straight_through(z)[1], distance * 1.25)


def test_usage_statistics_are_the_only_constant(vq):
    constants = vq.constant_buffers()
    assert set(constants) == {name for name, _ in vq.named_buffers()}
    assert torch.equal(vq.quantize.codebook_used, constants["quantize.codebook_used"])
