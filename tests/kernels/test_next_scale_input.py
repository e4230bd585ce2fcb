"""The input of the next scale: the reference is what the canvas does, and bad operands are refused."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters.tokenizers.multiscale_vq import ResidualCanvas, ResidualQuantizer, VqVaeConfig
from arvbench.errors import ContractError
from arvbench.kernels.next_scale_input.plan import Blend, ScalePlan, unsupported
from arvbench.kernels.next_scale_input.reference import next_scale_input
from arvbench.kernels.next_scale_input.spec import INPUT

B, C = 2, 16


@pytest.mark.parametrize(
    "sides",
    [
        tuple((pn, pn) for pn in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)),
        tuple((pn, pn) for pn in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)),
        ((1, 2), (2, 3), (4, 7), (4, 7), (9, 12)),
        ((1, 1), (2, 2)),
    ],
    ids=["256px", "512px", "not-square", "two-scales"],
)
@pytest.mark.parametrize("shared", [1, 4, 0])
def test_the_reference_is_the_canvas_bit_for_bit(sides, shared):
    torch.manual_seed(0)
    config = VqVaeConfig(
        vocab_size=50, z_channels=C, share_quant_resi=shared, v_patch_nums=tuple(side[0] for side in sides)
    )
    quantize = ResidualQuantizer(config).requires_grad_(False)
    canvas, f_hat_BChw = ResidualCanvas(quantize, sides, B), torch.zeros(B, C, *sides[-1])
    for scale, side in enumerate(sides):
        last = scale == len(sides) - 1
        ids_Bl = torch.randint(50, (B, side[0] * side[1]))
        canvas.place(canvas.lookup(ids_Bl, scale), scale)
        phi = quantize.phi(scale, len(sides))
        plan = ScalePlan(side, None if last else sides[scale + 1])
        blend = Blend(phi.weight, phi.bias, phi.ratio)
        after = next_scale_input(ids_Bl, f_hat_BChw, quantize.embedding.weight, blend, plan)
        assert torch.equal(f_hat_BChw, canvas.state)
        assert after.shape == (B, 0, C) if last else torch.equal(after, canvas.input(scale + 1))


def test_costs_equal_a_count_by_hand():
    shape = {"B": 1, "ph": 1, "pw": 2, "qh": 2, "qw": 2, "h": 3, "w": 4, "V": 9, "C": 2, "P": 0}
    assert INPUT.flops(shape) == 12 * 2 * (32 + 36 + 5)
    assert INPUT.bytes_moved(shape, 4) == 4 * ((2 + 24 + 4) * 2 + 36 + 2)


def test_workloads_hold_every_scale_of_the_official_lists():
    shapes = [workload.shape for name, workload in INPUT.workloads.items() if "px-" in name]
    assert {s["ph"] for s in shapes if s["h"] == 16} == {1, 2, 3, 4, 5, 6, 8, 10, 13, 16}
    assert {s["ph"] for s in shapes if s["h"] == 32} == {1, 2, 3, 4, 6, 9, 13, 18, 24, 32}
    assert {s["qh"] for s in shapes if s["ph"] == s["h"]} == {0}


def operands() -> dict[str, object]:
    return INPUT.inputs("demo-last", dtype=torch.float32, device="cpu")


def test_operands_that_the_kernels_cannot_take_have_a_reason():
    good = operands()
    assert unsupported(**good) is None
    assert "code channels must be (16, 32, 64), got 8" in (
        unsupported(**{**good, "f_hat_BChw": good["f_hat_BChw"][:, :8]}) or ""
    )
    assert "got torch.float64" in (unsupported(**{**good, "codebook_VC": good["codebook_VC"].double()}) or "")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("f_hat_BChw", lambda f: f[0], r"f_hat must be \(B, C, h, w\)"),
        ("f_hat_BChw", lambda f: f[:0], "none of them 0"),
        ("f_hat_BChw", lambda f: f[..., :7], r"the last scale must have the sides of f_hat, \(8, 7\), got \(8, 8\)"),
        ("f_hat_BChw", lambda f: f.requires_grad_(), "no backward pass"),
        ("ids_Bl", lambda ids: ids[:, 1:], r"ids must be integers \(2, 8x8\), got torch.int64 \(2, 63\)"),
        ("ids_Bl", lambda ids: ids.float(), "ids must be integers"),
        ("codebook_VC", lambda codes: codes[:, :8], "codebook must be .* and contiguous"),
        ("codebook_VC", lambda codes: codes.double(), "take float32, bfloat16 and float16"),
        ("codebook_VC", lambda codes: codes.to("meta"), "one is on meta"),
        ("phi", lambda phi: phi._replace(bias_C=phi.bias_C[:8]), r"bias must be \(16,\)"),
        ("plan", lambda plan: plan._replace(next_side=(0, 3)), "sides of the next scale must be 1 or more"),
    ],
)
def test_the_wrapper_refuses_bad_operands(name, change, message):
    pytest.importorskip("triton", reason="needs triton")
    good = operands()
    with pytest.raises(ContractError, match=message):
        INPUT.implementations["triton"](**{**good, name: change(good[name])})
