from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from arvbench.adapters.checkpoints import random_tensors
from arvbench.adapters.tokenizers.multiscale_vq import VqVae, VqVaeConfig, phi_ticks

TINY = {"vocab_size": 24, "z_channels": 8, "ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1}


def tiny(**changes) -> VqVae:
    config = VqVaeConfig(**{**TINY, "v_patch_nums": (1, 2, 4), **changes})
    vae = VqVae(config)
    vae.load_state_dict(random_tensors(vae, 0, torch.device("cpu")))
    return vae.eval()


@torch.no_grad()
def placed(vae: VqVae, ids, sides=None) -> torch.Tensor:
    """f_hat of the ids of all scales."""
    canvas = vae.canvas(sides or vae.config.sides, len(ids[0]))
    canvas.place_tokens(ids)
    return canvas.state


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        (4, [0, 1, 2, 3]),
        (5, [0, 1, 2, 2, 3]),
        (7, [0, 0, 1, 2, 2, 3, 3]),
        (10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),  # two of these are ties that float64 rounding decides
        (13, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]),
        (14, [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]),
    ],
)
def test_scales_take_the_official_phi(scales, expected):
    quantize = tiny().quantize
    chosen = [quantize.phi(scale, scales) for scale in range(scales)]
    assert [list(quantize.quant_resi.qresi_ls).index(phi) for phi in chosen] == expected


def test_ticks_of_other_counts_are_cell_centres():
    torch.testing.assert_close(torch.from_numpy(phi_ticks(2)), torch.tensor([0.25, 0.75], dtype=torch.float64))


@pytest.mark.parametrize(
    ("share", "names"),
    [
        (1, {"qresi.weight", "qresi.bias"}),
        (2, {f"qresi_ls.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")}),
        (0, {f"{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}),
    ],
)
def test_shared_convolutions_have_the_official_names(share, names):
    vae = tiny(share_quant_resi=share)
    assert set(vae.quantize.quant_resi.state_dict()) == names
    ids = vae.encode_scales(torch.rand(1, 3, 8, 8) * 2 - 1, vae.config.sides)
    assert vae.decode_map(placed(vae, ids)).shape == (1, 3, 8, 8)


def test_ids_of_all_scales_add_up_to_the_encoders_f_hat():
    vae = tiny()
    ids, f_hat = vae.quantize.encode(torch.randn(2, 8, 4, 4))
    assert [t.shape for t in ids] == [(2, 1), (2, 4), (2, 16)]
    torch.testing.assert_close(placed(vae, ids), f_hat)


def test_every_scale_brings_f_hat_closer_when_codes_are_fine():
    quantize = tiny(vocab_size=512).quantize
    features = torch.randn(4, 8, 4, 4)
    errors = [F.mse_loss(code.f_hat_BChw, features).item() for code in quantize.pyramid(features)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("znorm", [False, True])
def test_nearest_code_by_distance_or_by_angle(znorm):
    quantize = tiny(using_znorm=znorm).quantize
    z = torch.randn(1, 8, 2, 2)
    rows, codes = z.permute(0, 2, 3, 1).reshape(-1, 8), quantize.embedding.weight
    if znorm:
        expected = F.cosine_similarity(rows[:, None], codes[None], dim=-1).argmax(1)
    else:
        expected = (rows[:, None] - codes[None]).square().sum(-1).argmin(1)
    assert torch.equal(quantize.nearest(z)[0], expected)


def test_other_patch_numbers_and_oblong_maps_can_be_encoded():
    vae, sides = tiny(), ((1, 2), (2, 3), (4, 6))
    features = torch.randn(1, 8, 4, 6)
    ids, f_hat = vae.quantize.encode(features, sides)
    assert [t.shape[1] for t in ids] == [2, 6, 24]
    torch.testing.assert_close(placed(vae, ids, sides), f_hat)


def test_training_passes_gradients_to_encoder_and_codebook():
    vae = tiny().train()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    restored, loss = vae.training_loss(images)
    (F.mse_loss(restored, images) + loss).backward()
    for name in ("encoder.conv_in.weight", "quantize.embedding.weight", "decoder.conv_out.weight"):
        assert vae.get_parameter(name).grad.abs().sum() > 0
    restored, _ = vae.eval().training_loss(images)
    ids = vae.encode_scales(images, vae.config.sides)
    torch.testing.assert_close(restored.clamp(-1, 1), vae.decode_map(placed(vae, ids)), atol=1e-5, rtol=0)


def test_usage_statistics_of_another_number_of_scales_are_replaced():
    vae = tiny()
    state = vae.state_dict() | {"quantize.ema_vocab_hit_SV": torch.ones(10, 24)}
    assert vae.adapt_state(state)["quantize.ema_vocab_hit_SV"].shape == (3, 24)
