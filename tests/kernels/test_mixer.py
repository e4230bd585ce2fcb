"""The operations of M-VAR's mixer and of SwiGLU: references are what the models do, bad operands are refused."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from arvbench.adapters.mvar.mamba2 import GatedRMSNorm, Mamba2, MambaConfig, MambaState
from arvbench.adapters.token_grid.llama import FeedForward, LlamaConfig
from arvbench.errors import ContractError
from arvbench.kernels import KERNELS
from arvbench.kernels.rms_norm_gated.reference import rms_norm_gated
from arvbench.kernels.ssd_scan.reference import ssd_scan
from arvbench.kernels.ssd_scan.spec import SCAN
from arvbench.kernels.ssd_scan.weights import ScanWeights, unsupported
from arvbench.kernels.swiglu.reference import swiglu

ROWS, CONFIG = 2, MambaConfig(d_model=32, d_state=16, headdim=16)


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    return Mamba2(CONFIG).requires_grad_(False)


def weights_of(mixer: Mamba2) -> ScanWeights:
    return ScanWeights(mixer.conv1d.weight, mixer.conv1d.bias, mixer.dt_bias, mixer.A_log, mixer.D)


def by_operations(mixer: Mamba2, x_RlW: torch.Tensor, state: MambaState) -> torch.Tensor:
    sizes = (CONFIG.d_inner, CONFIG.conv_channels, CONFIG.heads)
    z_RlE, new_RlM, dt_RlH = mixer.in_proj(x_RlW).split(sizes, dim=2)
    y_RlHP = ssd_scan(new_RlM, dt_RlH, weights_of(mixer), *state)
    return mixer.out_proj(rms_norm_gated(y_RlHP.flatten(2), z_RlE, mixer.norm.weight, mixer.norm.eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_scan_and_norm_are_the_mixer_bit_for_bit_over_steps_of_any_length(mixer, dtype):
    mixer = mixer.to(dtype)
    theirs, ours = mixer.initial_state(ROWS), mixer.initial_state(ROWS)
    for tokens in (1, 2, 40, 3):
        x_RlW = torch.randn(ROWS, tokens, CONFIG.d_model).to(dtype)
        expected, theirs = mixer(x_RlW, theirs)
        assert torch.equal(by_operations(mixer, x_RlW, ours), expected)
        assert torch.equal(ours.conv_RMK, theirs.conv_RMK)
        assert torch.equal(ours.ssm_RHPN, theirs.ssm_RHPN)


def test_the_gated_norm_is_that_of_the_mixer():
    norm = GatedRMSNorm(24, 1e-5)
    y, z = torch.randn(2, 2, 3, 24).unbind(0)
    assert torch.equal(rms_norm_gated(y, z, norm.weight, norm.eps), norm(y, z))
    assert rms_norm_gated(y, z.bfloat16(), norm.weight, norm.eps).dtype == torch.bfloat16


def test_swiglu_is_that_of_the_llama_block():
    layer = FeedForward(LlamaConfig(dim=12, n_layer=1, n_head=2, multiple_of=8)).requires_grad_(False)
    x = torch.randn(2, 3, 12)
    assert torch.equal(layer.w2(swiglu(layer.w1(x), layer.w3(x))), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_swiglu_rounds_once_in_half_precision(dtype):
    gate, x = torch.randn(2, 1, 5, 64).to(dtype).unbind(0)
    assert torch.equal(swiglu(gate, x), (F.silu(gate.float()) * x.float()).to(dtype))


def test_costs_equal_a_count_by_hand():
    shape = {"R": 2, "l": 3, "E": 4, "F": 4, "P": 0}
    assert KERNELS["rms_norm_gated"].bytes_moved(shape, 2) == 2 * (24 + 24 + 24 + 4)  # y, gate, out, weight
    assert KERNELS["swiglu"].bytes_moved(shape, 2) == 2 * 72
    scan = {"R": 1, "l": 1, "H": 2, "P": 3, "N": 5, "K": 4}
    assert SCAN.flops(scan) == 2 * 4 * 16 + 2 * (5 + 6) + 4 * 5 * 6
    # channels, step sizes and y of one token; then the states, in and out
    assert SCAN.bytes_moved(scan, 4) == 4 * ((16 + 2 + 6) + 2 * (16 * 4 + 6 * 5))


def test_workloads_hold_every_official_width():
    official = {w.shape["H"] for name, w in SCAN.workloads.items() if name.startswith("d")}
    assert official >= {2 * depth for depth in (12, 16, 20, 24, 30, 32)}


def scan_operands() -> dict[str, object]:
    return SCAN.inputs("one-token", dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("ssm_RHPN", lambda t: t[..., :5], r"head and state channels must be \(16, 32, 64\), got \(16, 5\)"),
        ("ssm_RHPN", lambda t: t.bfloat16(), "keeps its state in float32, got torch.bfloat16"),
        ("new_RlM", lambda t: t.double(), "takes float32, bfloat16 and float16, got torch.float64"),
        ("new_RlM", lambda t: t.expand(1, 2, -1).mT.contiguous().mT, "channels must be adjacent in memory"),
    ],
)
def test_operands_that_the_scan_cannot_take_have_a_reason(name, change, reason):
    operands = scan_operands()
    assert unsupported(**operands) is None
    assert re.search(reason, unsupported(**{**operands, name: change(operands[name])}) or "")


REFUSED = [
    ("ssd_scan", "dt_RlH", lambda t: t[..., :1], r"dt must be \(1, 1, 2\), got \(1, 1, 1\)"),
    ("ssd_scan", "new_RlM", lambda t: t[:, :0], "none of them 0"),
    ("ssd_scan", "conv_RMK", lambda t: t.mT.contiguous().mT, "must be contiguous"),
    ("ssd_scan", "ssm_RHPN", lambda t: t.requires_grad_(), "no backward pass"),
    ("ssd_scan", "ssm_RHPN", lambda t: t.double(), "keeps its state in float32"),
    ("ssd_scan", "conv_RMK", lambda t: t.to("meta"), "conv is on meta"),
    ("rms_norm_gated", "z_RlE", lambda t: t[:, :, :8], "y and its gate must be"),
    ("rms_norm_gated", "weight_E", lambda t: t[:8], r"weight must be \(64,\), got \(8,\)"),
    ("rms_norm_gated", "y_RlE", lambda t: t.double(), "takes float32, bfloat16 and float16"),
    ("rms_norm_gated", "y_RlE", lambda t: t.requires_grad_(), "no backward pass"),
    ("rms_norm_gated", "weight_E", lambda t: t.to("meta"), "one is on meta"),
    ("swiglu", "gate_RlF", lambda t: t[:, :, :1].expand(1, 2, 2), "both operands must be"),
    ("swiglu", "x_RlF", lambda t: t.double(), "takes float32, bfloat16 and float16"),
    ("swiglu", "gate_RlF", lambda t: t.requires_grad_(), "no backward pass"),
]
SMALLEST = {"ssd_scan": "one-token", "rms_norm_gated": "one-token", "swiglu": "one-channel"}


@pytest.mark.parametrize(("kernel", "name", "change", "message"), REFUSED)
def test_the_wrappers_refuse_bad_operands(kernel, name, change, message):
    pytest.importorskip("triton", reason="needs triton")
    spec = KERNELS[kernel]
    operands = spec.inputs(SMALLEST[kernel], dtype=torch.float32, device="cpu")
    with pytest.raises(ContractError, match=message):
        spec.implementations["triton"](**{**operands, name: change(operands[name])})
