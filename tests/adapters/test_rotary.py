from __future__ import annotations

import pytest
import torch
from rotation import by_sums, rotated_inputs

from arvbench.adapters.common.rotary import rotate
from arvbench.adapters.latents.blocks import Turn, rope_frequencies, rope_tables


# 20 and 100: a number of pairs that fills no whole vectors, the second that of LlamaGen-3B.
@pytest.mark.parametrize("width", [16, 20, 32, 64, 100])
@pytest.mark.parametrize(("rows", "tokens", "heads"), [(1, 1, 1), (2, 1, 12), (3, 7, 2), (16, 8, 3)])
def test_pairs_of_channels_turn_with_the_bits_of_the_sums(width, rows, tokens, heads):
    x, rope = rotated_inputs(rows, tokens, heads, width)
    assert torch.equal(rotate(x, rope), by_sums(x, rope))


def test_the_angle_is_that_of_the_token():
    x = torch.tensor([1.0, 0.0]).repeat(8).expand(1, 1, 2, 16)
    angles = torch.tensor([[0.0], [torch.pi / 2]]).expand(2, 8)
    turned = rotate(x, torch.stack((angles.cos(), angles.sin()), dim=-1))
    torch.testing.assert_close(turned[0, 0, 0], x[0, 0, 0])
    torch.testing.assert_close(turned[0, 0, 1], torch.tensor([0.0, 1.0]).repeat(8))


@pytest.mark.parametrize("width", [20, 32])
def test_half_precision_is_turned_in_fp32_and_rounded_once(width):
    x, rope = rotated_inputs(2, 3, 2, width)
    assert torch.equal(rotate(x.bfloat16(), rope), by_sums(x.bfloat16().float(), rope).bfloat16())


@pytest.mark.parametrize("width", [20, 32])
def test_gradients_turn_back(width):
    x, rope = rotated_inputs(1, 2, 1, width)
    x = x.contiguous().requires_grad_()
    rotate(x, rope).sum().backward()
    back = torch.stack((rope[..., 0], -rope[..., 1]), dim=-1)
    torch.testing.assert_close(x.grad, by_sums(torch.ones_like(x), back))


def test_tables_with_both_channels_of_a_pair_turn_alike():
    rows, columns = torch.arange(6.0), torch.arange(6.0).flip(0)
    cos, sin = rope_tables(rope_frequencies(32), rows, columns)
    x, _ = rotated_inputs(2, 6, 3, 32)
    rope = torch.stack((cos[:, ::2], sin[:, ::2]), dim=-1)
    assert torch.equal(Turn.of_tables(cos, sin)(x), by_sums(x, rope))
    assert torch.equal(cos[:, ::2], cos[:, 1::2])
