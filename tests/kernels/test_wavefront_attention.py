"""Attention of one pass of a token grid: the reference is the models' attention, and the wrapper refuses the rest."""

from __future__ import annotations

import pytest
import torch
from interpreted import run_interpreted

from arvbench.adapters.cache.policy import CacheShape
from arvbench.adapters.cache.static import StaticCache
from arvbench.adapters.token_grid.llama import Attention, LlamaConfig, rope_table
from arvbench.errors import ContractError
from arvbench.kernels.dispatch import select
from arvbench.kernels.wavefront_attention import reference, spec

R, H, D, CAPACITY = 2, 3, 8, 9


@torch.no_grad()
def test_fp32_reference_equals_the_models_bit_for_bit_pass_by_pass():
    torch.manual_seed(0)
    config = LlamaConfig(dim=H * D, n_layer=1, n_head=H, block_size=16)
    module, table, kernels = Attention(config), rope_table(config), select("reference", "cpu")
    shape = CacheShape(
        layers=1, rows=R, heads=H, head_dim=D, capacity_tokens=CAPACITY, dtype=torch.float32, device=torch.device("cpu")
    )
    cache, (keys, values) = StaticCache(shape), torch.full((2, R, H, CAPACITY, D), torch.nan)
    filled = torch.zeros(1, dtype=torch.int32)
    for positions in ([-1], [0], [1, 4], [2, 5, 8], [-1, -1]):
        x, rope = torch.randn(R, len(positions), H * D), table[positions]
        qkv = module.wqkv(x).view(R, len(positions), 3, H, D)
        out = reference.wavefront_attention(qkv, rope, keys, values, filled)
        assert torch.equal(module.wo(out), module(x, rope, kernels, layer=0, cache=cache, mask_lT=None))
        filled += len(positions)
    assert torch.equal(torch.stack((keys, values)), cache._kv[0])


def test_costs_equal_a_count_by_hand():
    shape = {"R": 2, "l": 3, "H": 5, "D": 8, "F": 4, "T": 20, "Z": 0, "P": 0}
    per_token = 2 * 5 * 8  # of rows, heads and channels
    assert spec.SPEC.bytes_moved(shape, 2) == 2 * per_token * (3 * 3 + 2 * 4 + 2 * 3 + 3)  # projections, old, new, out
    assert spec.SPEC.flops(shape) == 2 * 5 * 3 * (7 * (4 * 8 + 4) + 6 * 8)


def test_operands_of_other_kinds_are_not_supported():
    assert spec.SPEC.unsupported({"qkv_Rl3HD": torch.empty(1, 1, 3, 1, 130)}) == "heads of 130 channels, at most 128"
    assert spec.SPEC.unsupported({"qkv_Rl3HD": torch.empty(1, 1, 3, 1, 4).double()}) == "torch.float64"


class TestWrapper:
    @pytest.fixture
    def wrapper(self):
        pytest.importorskip("triton", reason="needs triton")
        from arvbench.kernels.wavefront_attention import triton

        return triton

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"qkv_Rl3HD": torch.zeros(R, 2, 2, H, D)}, r"qkv must be \(rows, tokens, 3, heads, channels\)"),
            ({"qkv_Rl3HD": torch.zeros(R, 2, 3, H, D).double()}, "keys must be torch.float64 as the projections"),
            ({"rope_lP2": torch.zeros(3, D // 2, 2)}, r"rope must be \(2, 4, 2\) float32, got \(3, 4, 2\)"),
            ({"rope_lP2": torch.zeros(2, D // 2, 2).half()}, "rope must be"),
            ({"rope_lP2": torch.zeros(2, 2, D // 2).mT}, "rope must be"),
            ({"keys_RHTD": torch.zeros(R, H, 1, D)}, r"keys must be \(2, 3, at least 2, 8\)"),
            ({"values_RHTD": torch.zeros(R, H, D, 9).mT}, "channels must be adjacent in memory"),
            ({"filled_1": torch.zeros(2, dtype=torch.int32)}, "must be one int32"),
            ({"filled_1": torch.zeros(1, dtype=torch.int32, device="meta")}, "one is on meta"),
            ({"qkv_Rl3HD": torch.zeros(R, 2, 3, H, D).requires_grad_()}, "no backward pass"),
        ],
    )
    def test_refuses_operands_that_the_kernel_does_not_support(self, wrapper, change, message):
        operands = {
            "qkv_Rl3HD": torch.zeros(R, 2, 3, H, D),
            "rope_lP2": torch.zeros(2, D // 2, 2),
            "keys_RHTD": torch.zeros(R, H, 9, D),
            "values_RHTD": torch.zeros(R, H, 9, D),
            "filled_1": torch.zeros(1, dtype=torch.int32),
        }
        with pytest.raises(ContractError, match=message):
            wrapper.wavefront_attention(**operands | change)

    @pytest.mark.parametrize("width", [7, 130])
    def test_refuses_odd_and_very_wide_heads(self, wrapper, width):
        keys = torch.zeros(1, 1, 2, width)
        with pytest.raises(ContractError, match=f"at most 128 channels, even, got {width}"):
            wrapper.wavefront_attention(
                torch.zeros(1, 1, 3, 1, width), torch.zeros(1, width // 2, 2), keys, keys, torch.zeros(1).int()
            )

    @pytest.mark.parametrize(
        ("count", "capacity", "parts"),
        [(32, 256, 2), (32, 576, 4), (24, 591, 4), (2560, 576, 1), (1, 10_000, 8), (1, 100, 1)],
    )
    def test_a_context_is_split_where_few_programs_would_read_a_long_one(self, wrapper, count, capacity, parts):
        assert wrapper._parts(count, capacity) == parts

    def test_interpreted_calls_follow_the_filled_length_and_stay_inside_the_cache(self, wrapper, programs):
        run_interpreted(programs, INTERPRETED)


INTERPRETED = """
import torch
from arvbench.kernels.wavefront_attention import reference, triton

torch.manual_seed(0)
R, H, D, T = 3, 1, 16, 260


def buffers(row):
    # A row apart 2**30 elements: the last one lies behind 2**31. Pages that nobody touches take no memory.
    return [torch.empty(2 * row + H * (T + 4) * D, dtype=torch.half).as_strided(
        (R, H, T + 4, D), (row, (T + 4) * D, D, 1)).fill_(torch.nan) for _ in range(2)]


keys, values = buffers(2**30 + 64)
expected = buffers(H * (T + 4) * D)
filled = torch.zeros(1, dtype=torch.int32)
# The same buffers and the same length tensor in every call, as the replay of a graph has them.
for tokens in (1, 4, 250):
    qkv, rope = torch.randn(R, tokens, 3, H, D).half(), torch.randn(tokens, D // 2, 2)
    out = triton.wavefront_attention(qkv, rope, keys[:, :, :T], values[:, :, :T], filled)
    again = reference.wavefront_attention(qkv, rope, *(b[:, :, :T] for b in expected), filled)
    torch.testing.assert_close(out, again, rtol=8e-3, atol=8e-3)
    filled += tokens
torch.testing.assert_close(keys, expected[0], rtol=2e-3, atol=1e-3, equal_nan=True)
torch.testing.assert_close(values, expected[1], rtol=0, atol=0, equal_nan=True)
# Nine more tokens do not fit: four are not stored, and nothing behind the end is touched.
triton.wavefront_attention(qkv[:, :9], rope[:9], keys[:, :, :T], values[:, :, :T], filled)
assert torch.equal(values[:, :, 255:T].flatten(), qkv[:, :5, 2].transpose(1, 2).flatten())
assert values[:, :, T:].isnan().all() and keys[:, :, T:].isnan().all()
assert not keys[:, :, :T].isnan().any()
"""
