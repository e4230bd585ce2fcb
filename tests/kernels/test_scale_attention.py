"""Attention of one scale: the reference is the models' attention, and the Triton wrapper refuses other operands."""

from __future__ import annotations

import pytest
import torch
from interpreted import run_interpreted

from arvbench.adapters.cache.policy import CacheShape
from arvbench.adapters.cache.static import StaticCache
from arvbench.adapters.next_scale.blocks import SelfAttention
from arvbench.errors import ContractError
from arvbench.kernels.scale_attention import reference, spec

R, H, D, CAPACITY = 2, 3, 8, 14


def attention(*, l2_norm: bool) -> SelfAttention:
    torch.manual_seed(0)
    module = SelfAttention(H * D, H, l2_norm=l2_norm)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def project(module: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    bias = torch.cat((module.q_bias, module.zero_k_bias, module.v_bias))
    return torch.nn.functional.linear(x, module.mat_qkv.weight, bias).view(*x.shape[:2], 3, H, D)


@torch.no_grad()
@pytest.mark.parametrize("l2_norm", [True, False])
def test_fp32_reference_equals_the_models_bit_for_bit_scale_by_scale(l2_norm):
    module = attention(l2_norm=l2_norm)
    log_scale = module.scale_mul_1H11 if l2_norm else None
    shape = CacheShape(
        layers=1, rows=R, heads=H, head_dim=D, capacity_tokens=CAPACITY, dtype=torch.float32, device=torch.device("cpu")
    )
    cache, (keys, values) = StaticCache(shape), torch.full((2, R, H, CAPACITY, D), torch.nan)
    filled = torch.zeros(1, dtype=torch.int32)
    for tokens in (1, 4, 9):
        x = torch.randn(R, tokens, H * D)
        out = reference.scale_attention(project(module, x), log_scale, keys, values, filled, module.softmax_scale)
        assert torch.equal(module.proj(out), module(x, cache=cache))
        filled += tokens
    assert torch.equal(torch.stack((keys, values)), cache._kv[0])
    alone = reference.scale_attention(project(module, x), log_scale, None, None, None, module.softmax_scale)
    assert torch.equal(module.proj(alone), module(x))


def test_costs_equal_a_count_by_hand():
    shape = {"R": 2, "l": 3, "H": 5, "D": 8, "F": 4, "T": 20, "N": 1, "P": 0}
    per_token = 2 * 5 * 8  # of rows, heads and channels
    assert spec.SPEC.bytes_moved(shape, 2) == 2 * per_token * (3 * 3 + 2 * 4 + 2 * 3 + 3)  # projections, old, new, out
    assert spec.SPEC.flops(shape) == 2 * 5 * 3 * (7 * (4 * 8 + 4) + 6 * 8)


def test_unfilled_slots_of_workloads_hold_nan():
    inputs = spec.SPEC.inputs("full-at-the-end", dtype=torch.float32, device="cpu")
    assert inputs["keys_RHTD"][:, :, 21:].isnan().all()
    assert not inputs["keys_RHTD"][:, :, :21].isnan().any()


@pytest.mark.parametrize(
    ("dtype", "width", "reason"),
    [(torch.float32, 64, None), (torch.float64, 64, "torch.float64"), (torch.float32, 100, "heads of 100 channels")],
)
def test_operands_of_other_kinds_are_not_supported(dtype, width, reason):
    operands = {"qkv_Rl3HD": torch.empty(1, 1, 3, 1, width, dtype=dtype), "log_scale_H": None}
    found = spec.SPEC.unsupported(operands)
    assert found is None if reason is None else reason in found


class TestWrapper:
    @pytest.fixture
    def wrapper(self):
        pytest.importorskip("triton", reason="needs triton")
        from arvbench.kernels.scale_attention import triton

        return triton

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"qkv_Rl3HD": torch.zeros(R, 2, H, D)}, r"qkv must be \(rows, tokens, 3, heads, channels\)"),
            ({"qkv_Rl3HD": torch.zeros(R, 0, 3, H, D)}, "qkv must be"),
            ({"qkv_Rl3HD": torch.zeros(R, 2, 3, H, 65)}, "heads of at most 64 channels, got 65"),
            ({"qkv_Rl3HD": torch.zeros(R, 2, 3, D, H).mT}, "channels must be adjacent in memory"),
            ({"qkv_Rl3HD": torch.zeros(R, 2, 3, H, D).requires_grad_()}, "no backward pass"),
            ({"log_scale_H": torch.zeros(H + 1)}, "the scale must be 3 adjacent numbers"),
            ({"keys_RHTD": None}, "or none of these"),
            ({"filled_1": None}, "or none of these"),
            ({"filled_1": torch.zeros(1, dtype=torch.int64)}, "must be one int32, got torch.int64"),
            ({"filled_1": torch.zeros(1, dtype=torch.int32, device="meta")}, "one is on meta"),
            ({"keys_RHTD": torch.zeros(R, H, 1, D)}, r"keys must be \(2, 3, at least 2, 8\)"),
            ({"values_RHTD": torch.zeros(R, H, 9, D).half()}, "values must be torch.float32 as the projections are"),
        ],
    )
    def test_refuses_operands_that_the_kernel_does_not_support(self, wrapper, change, message):
        operands = {
            "qkv_Rl3HD": torch.zeros(R, 2, 3, H, D),
            "log_scale_H": torch.zeros(1, H, 1, 1),
            "keys_RHTD": torch.zeros(R, H, 9, D),
            "values_RHTD": torch.zeros(R, H, 9, D),
            "filled_1": torch.zeros(1, dtype=torch.int32),
            "softmax_scale": 1.0,
        }
        with pytest.raises(ContractError, match=message):
            wrapper.scale_attention(**operands | change)

    def test_interpreted_calls_follow_the_filled_length_and_stay_inside_the_cache(self, wrapper, programs):
        run_interpreted(programs, INTERPRETED)


INTERPRETED = """
import torch
from arvbench.kernels.scale_attention import reference, triton

torch.manual_seed(0)
R, H, D, T = 3, 1, 16, 12
log_scale = torch.zeros(H).half()


def buffers(row):
    # A row apart 2**30 elements: the last one lies behind 2**31. Pages that nobody touches take no memory.
    return [torch.empty(2 * row + H * (T + 4) * D, dtype=torch.half).as_strided(
        (R, H, T + 4, D), (row, (T + 4) * D, D, 1)).fill_(torch.nan) for _ in range(2)]

for row in (H * (T + 4) * D, 2**30 + 64):
    keys, values = buffers(row)
    expected = buffers(H * (T + 4) * D)
    filled = torch.zeros(1, dtype=torch.int32)
    # The same buffers and the same length tensor in every call, as the replay of a graph has them.
    for tokens in (1, 4, 5):
        qkv = torch.randn(R, tokens, 3, H, D).half()
        out = triton.scale_attention(qkv, log_scale, keys[:, :, :T], values[:, :, :T], filled, 1.0)
        again = reference.scale_attention(qkv, log_scale, *(b[:, :, :T] for b in expected), filled, 1.0)
        torch.testing.assert_close(out, again, rtol=4e-3, atol=4e-3)
        filled += tokens
    torch.testing.assert_close(keys, expected[0], rtol=2e-3, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(values, expected[1], rtol=0, atol=0, equal_nan=True)
    # Five more tokens do not fit: three are not stored, and nothing behind the end is touched.
    triton.scale_attention(qkv, log_scale, keys[:, :, :T], values[:, :, :T], filled, 1.0)
    assert torch.equal(values[:, :, 10:T].flatten(), qkv[:, :2, 2].transpose(1, 2).flatten())
    assert values[:, :, T:].isnan().all() and keys[:, :, T:].isnan().all()
    assert not keys[:, :, :T].isnan().any()
"""
