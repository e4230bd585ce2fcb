"""Attention between the tokens of all scales: the reference is the models' masked attention, and autograd agrees."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from interpreted import run_interpreted

from arvbench.adapters.next_scale.transformer import block_causal_bias, block_diagonal_bias, levels
from arvbench.errors import ContractError
from arvbench.kernels.block_sparse_attention import reference, spec
from arvbench.kernels.block_sparse_attention.reference import Scales

SIDES, OFFSETS = ((1, 1), (1, 2), (3, 2)), (0, 1, 3, 9)


@pytest.mark.parametrize(("causal", "bias"), [(True, block_causal_bias), (False, block_diagonal_bias)])
def test_fp32_reference_equals_the_models_masked_attention_bit_for_bit(causal, bias):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 9, 8)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias(levels(SIDES)), scale=0.5)
    assert torch.equal(reference.block_sparse_attention(q, k, v, Scales(OFFSETS, causal), 0.5), expected)


@pytest.mark.parametrize("causal", [True, False])
def test_reference_has_a_gradient_and_its_backward_pass_is_that(causal):
    torch.manual_seed(0)
    scales = Scales(OFFSETS, causal)
    leaves = [t.requires_grad_() for t in torch.randn(3, 1, 2, 9, 4, dtype=torch.float64).unbind(0)]
    assert torch.autograd.gradcheck(lambda *qkv: reference.block_sparse_attention(*qkv, scales, 0.5), leaves)
    grad = torch.randn(1, 2, 9, 4, dtype=torch.float64)
    expected = torch.autograd.grad(reference.block_sparse_attention(*leaves, scales, 0.5), leaves, grad)
    for ours, theirs in zip(
        reference.block_sparse_attention_backward(grad, *leaves, scales, 0.5), expected, strict=True
    ):
        assert torch.equal(ours, theirs)


def test_costs_equal_a_count_by_hand():
    shape = {"R": 2, "H": 3, "L": 91, "D": 8, "C": 1, "P": 0}
    own = [1, 4, 9, 16, 25, 36]
    assert spec.pairs(shape) == 1 * 1 + 4 * 5 + 9 * 14 + 16 * 30 + 25 * 55 + 36 * 91
    assert spec.pairs(shape | {"C": 0}) == sum(n * n for n in own)
    assert spec.FORWARD.bytes_moved(shape, 2) == 2 * 2 * 3 * 91 * 8 * 4  # queries, keys, values, out
    assert spec.BACKWARD.bytes_moved(shape, 2) == 2 * 2 * 3 * 91 * 8 * 7  # these three, four gradients
    assert spec.FORWARD.flops(shape) == 2 * 3 * spec.pairs(shape) * (4 * 8 + 4)


def test_operands_of_other_kinds_are_not_supported():
    assert spec.FORWARD.unsupported({"q_RHLD": torch.empty(1, 1, 1, 80)}) == "heads of 80 channels, at most 64"
    assert spec.BACKWARD.unsupported({"q_RHLD": torch.empty(1, 1, 1, 8).double()}) == "torch.float64"


class TestWrapper:
    @pytest.fixture
    def wrapper(self):
        pytest.importorskip("triton", reason="needs triton")
        from arvbench.kernels.block_sparse_attention import triton

        return triton

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"q_RHLD": torch.zeros(2, 9, 8)}, r"queries must be \(R, H, L, up to 64\)"),
            ({"k_RHLD": torch.zeros(1, 2, 8, 8)}, r"all operands must be torch.float32 \(1, 2, 9, 8\), one is"),
            ({"v_RHLD": torch.zeros(1, 2, 9, 8).half()}, "one is torch.float16"),
            ({"v_RHLD": torch.zeros(1, 2, 8, 9).mT}, "channels must be adjacent in memory"),
            ({"scales": Scales((0, 1, 5), True)}, r"scales \(0, 1, 5\) do not divide 9 tokens"),
            ({"scales": Scales((0, 3, 3, 9), True)}, "do not divide 9 tokens"),
            ({"scales": Scales((1, 9), True)}, "do not divide 9 tokens"),
        ],
    )
    def test_refuses_operands_that_the_kernel_does_not_support(self, wrapper, change, message):
        operands = dict.fromkeys(("q_RHLD", "k_RHLD", "v_RHLD"), torch.zeros(1, 2, 9, 8))
        operands |= {"scales": Scales(OFFSETS, True), "softmax_scale": 1.0}
        with pytest.raises(ContractError, match=message):
            wrapper.block_sparse_attention(**operands | change)

    def test_autograd_through_the_interpreted_kernel_is_that_of_the_reference(self, wrapper, programs):
        run_interpreted(programs, INTERPRETED)


INTERPRETED = """
import torch
from arvbench.kernels.block_sparse_attention import reference, triton
from arvbench.kernels.block_sparse_attention.reference import Scales

torch.manual_seed(0)
scales = Scales((0, 1, 5, 40), causal=True)
packed = torch.randn(1, 40, 3, 1, 16)
grads = []
for module in (triton, reference):
    leaf = packed.clone().requires_grad_()
    out = module.block_sparse_attention(*leaf.permute(2, 0, 3, 1, 4).unbind(0), scales, 0.25)
    # A sum's gradient is one number, expanded.
    grads += torch.autograd.grad((out.transpose(1, 2).reshape(1, 40, 16) * 3).sum() + out.sum(), leaf)
torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
"""
