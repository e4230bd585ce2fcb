from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_token_grid

from arvbench.adapters.common.rotary import rotate
from arvbench.adapters.llamagen import LlamaGenSampler
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.token_grid.llama import LlamaConfig, RMSNorm, rope_table

CONFIG = LlamaConfig(dim=32, n_layer=1, n_head=2, block_size=9)


def test_tokens_come_one_by_one_in_raster_order():
    passes = LlamaGenSampler.passes(CONFIG)
    assert [p.draws for p in passes] == [(n,) for n in range(9)]
    assert {p.kind for p in passes} == {"token"}


def test_the_interval_counts_from_the_second_token():
    assert [p.clock for p in LlamaGenSampler.passes(CONFIG)] == [None, *range(8)]


@pytest.mark.parametrize(("dim", "hidden"), [(768, 2048), (1024, 2816), (1280, 3584), (1536, 4096), (3200, 8704)])
def test_hidden_width_is_rounded_up(dim, hidden):
    assert LlamaConfig(dim=dim, n_layer=1, n_head=32).hidden == hidden


def test_half_of_the_pairs_turn_with_the_row_and_half_with_the_column():
    angles = torch.atan2(*rope_table(CONFIG)[:9].unbind(-1)[::-1]).view(3, 3, 8)
    frequencies = 10000.0 ** -(torch.arange(4) * 2 / 8)
    for row in range(3):
        for column in range(3):
            expected = torch.cat((row * frequencies, column * frequencies))
            torch.testing.assert_close(angles[row, column], expected)


def test_learnt_tokens_become_the_zero_vector_not_unturned_ones():
    x = torch.randn(1, 2, 1, 16)
    assert rotate(x, rope_table(CONFIG)[-1:]).abs().max() == 0


def test_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    table = rope_table(CONFIG)[:9].view(3, 3, 8, 2)

    def score(at, to):
        return (rotate(q, table[at].unsqueeze(0)) * rotate(k, table[to].unsqueeze(0))).sum()

    torch.testing.assert_close(score((0, 0), (1, 1)), score((1, 1), (2, 2)))
    torch.testing.assert_close(score((0, 2), (0, 1)), score((2, 2), (2, 1)))
    assert (score((0, 0), (0, 1)) - score((0, 0), (1, 0))).abs() > 1e-3


def test_rms_norm_rounds_before_it_scales():
    x, weight = torch.randn(2, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    norm = RMSNorm(256, 1e-5)
    norm.weight.data = weight
    normalised = x.float() / (x.float().square().mean() + 1e-5).sqrt()
    assert norm(x).dtype == torch.bfloat16
    assert torch.equal(norm(x), normalised.bfloat16() * weight)
    assert not torch.equal(norm(x), (normalised * weight).bfloat16())


def test_attention_is_causal():
    sampler = build_sampler(tiny_token_grid("llamagen"), weights="random:1")
    tokens = sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0])).tokens
    raster = torch.cat(tokens, dim=1)
    changed = raster.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 24
    a, b = (sampler.teacher_forced(sampler.from_raster(t), [1])[0] for t in (raster, changed))
    same = (a - b).abs().amax(-1) < 1e-6
    assert same.tolist() == [True] * 10 + [False] * 6
