"""adaLN: the reference equals PyTorch's own modules, and the Triton wrapper refuses unsupported operands."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from interpreted import run_interpreted

from arvbench.errors import ContractError
from arvbench.kernels import KERNELS
from arvbench.kernels.adaln import reference, spec

R, TOKENS, C = 2, 3, 8


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(R, TOKENS, C, generator=generator), torch.randn(R, 1, 6, C, generator=generator)


def test_fp32_reference_equals_pytorch_bit_for_bit():
    x, modulation = operands()
    gate, _, scale, _, shift, _ = modulation.unbind(2)
    expected = F.layer_norm(x, (C,), eps=1e-6).mul(scale.add(1)).add_(shift)
    assert torch.equal(reference.adaln_modulate(x, scale, shift, 1e-6), expected)
    assert torch.equal(reference.adaln_residual(x, gate, expected), x + expected.mul(gate))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_reference_rounds_once(dtype):
    x, modulation = (t.to(dtype) for t in operands())
    gate, scale = modulation[:, :, 0], modulation[:, :, 1]
    out = reference.adaln_modulate(x, scale, gate, 1e-6)
    assert out.dtype == dtype
    assert torch.equal(out, reference.adaln_modulate(x.float(), scale.float(), gate.float(), 1e-6).to(dtype))
    assert torch.equal(reference.adaln_residual(x, gate, x), (x.float() + gate.float() * x.float()).to(dtype))


def test_reference_has_a_gradient():
    x, modulation = operands()
    inputs = [t.double().requires_grad_() for t in (x, modulation[:, :, 0], modulation[:, :, 1])]
    assert torch.autograd.gradcheck(lambda x, scale, shift: reference.adaln_modulate(x, scale, shift, 1e-6), inputs)
    assert torch.autograd.gradcheck(reference.adaln_residual, (inputs[0], inputs[1], inputs[0]))


def test_costs_equal_a_count_by_hand():
    shape = {"R": 2, "l": 3, "C": 4, "M": 1, "S": 6, "P": 0}
    assert spec.MODULATE.bytes_moved(shape, 2) == 2 * (24 + 24 + 4 + 4)  # x, out, scale, shift
    assert spec.RESIDUAL.bytes_moved(shape, 2) == 2 * (24 + 24 + 24 + 4)  # x, branch, out, gate
    assert spec.MODULATE.flops(shape) == 24 * 7 + 4
    assert spec.RESIDUAL.flops(shape) == 24 * 2


def test_workloads_hold_every_official_width_and_both_ends_of_the_schedule():
    official = [workload.shape for name, workload in spec.WORKLOADS.items() if name.startswith("d")]
    assert {shape["C"] for shape in official} == {64 * depth for depth in (16, 20, 24, 30, 36)}
    assert {shape["l"] for shape in official} >= {1, 256, 1024}


def test_inputs_are_slices_that_lie_between_poison():
    workload = spec.WORKLOADS["ragged"]
    inputs = KERNELS["adaln_modulate"].inputs("ragged", dtype=torch.float32, device="cpu")
    x, scale = inputs["x_RlC"], inputs["scale_R1C"]
    assert x.stride(1) == workload.shape["C"] + workload.shape["P"]
    assert scale.stride(0) == 6 * workload.shape["C"]
    assert not x.isnan().any()
    assert not scale.isnan().any()
    assert scale._base.isnan().sum() == 5 * scale.numel()


class TestWrapper:
    @pytest.fixture
    def wrapper(self):
        pytest.importorskip("triton", reason="needs triton")
        from arvbench.kernels.adaln import triton

        return triton

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, s, b: (x[0], s, b), r"x must be \(rows, tokens, channels\)"),
            (lambda x, s, b: (x, s.expand(R, TOKENS, C), b), r"modulation must be \(2 or 1, 1, 8\), got \(2, 3, 8\)"),
            (lambda x, s, b: (x, s[..., :4], b), r"modulation must be .* got \(2, 1, 4\)"),
            (lambda x, s, b: (x, s, b[:1]), r"branch must have x's shape \(2, 3, 8\), got \(1, 3, 8\)"),
            (lambda x, s, b: (x.double(), s, b), "takes float32, bfloat16 and float16, got torch.float64"),
            (lambda x, s, b: (x, s.to("meta"), b), "all operands must be on cpu, one is on meta"),
            (lambda x, s, b: (x.mT.contiguous().mT, s, b), "channels must be adjacent in memory"),
            (lambda x, s, b: (x, s.clone().requires_grad_(), b), "no backward pass: use backend 'reference' to train"),
        ],
    )
    def test_refuses_operands_that_the_kernel_does_not_support(self, wrapper, change, message):
        x, modulation = operands()
        with pytest.raises(ContractError, match=message):
            wrapper.adaln_residual(*change(x, modulation[:, :, 0], x.clone()))

    def test_modulate_refuses_those_operands_too(self, wrapper):
        x, modulation = operands()
        scale, shift = modulation[:, :, 0], modulation[:, :, 1]
        with pytest.raises(ContractError, match="modulation must be"):
            wrapper.adaln_modulate(x, scale, shift[:, :, :4], 1e-6)
        with pytest.raises(ContractError, match="no backward pass"):
            wrapper.adaln_modulate(x.requires_grad_(), scale, shift, 1e-6)

    def test_operands_of_different_dtypes_are_widened(self, wrapper, programs):
        """fp32 tokens under a bf16 modulation, as a half-precision head of an fp32 stream gives them."""
        run_interpreted(programs, MIXED)


MIXED = """
import torch
from arvbench.kernels.adaln import reference, triton

g = torch.Generator().manual_seed(0)
x = torch.randn(2, 3, 40, generator=g)
scale, shift = torch.randn(2, 2, 1, 40, generator=g).to(torch.bfloat16)
branch = torch.randn(2, 3, 40, generator=g).to(torch.float16)
pairs = [
    (triton.adaln_modulate(x, scale, shift, 1e-6), reference.adaln_modulate(x, scale, shift, 1e-6)),
    (triton.adaln_residual(x, scale, branch), reference.adaln_residual(x, scale, branch)),
]
for got, expected in pairs:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
"""
