from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_token_grid

from arvbench.adapters.loading import build_sampler
from arvbench.adapters.par import ParConfig, ParSampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.token_grid.passes import LEARNT

CONFIG = ParConfig(dim=32, n_layer=1, n_head=2, block_size=16, ar_token_num=4)


def test_first_tokens_of_the_regions_come_alone_then_one_token_of_every_region_per_pass():
    passes = ParSampler.passes(CONFIG)
    assert [p.draws for p in passes] == [
        *[(0,), (2,), (8,), (10,)],
        *[(1, 3, 9, 11), (4, 6, 12, 14), (5, 7, 13, 15)],
    ]
    assert [p.kind for p in passes] == ["token"] * 4 + ["parallel"] * 3


def test_the_first_parallel_pass_reads_one_token_and_the_special_ones():
    feeds = [p.feeds for p in ParSampler.passes(CONFIG)]
    assert feeds[:4] == [(LEARNT,), (0,), (2,), (8,)]
    assert feeds[4] == (10, LEARNT, LEARNT, LEARNT)
    assert feeds[5:] == [(1, 3, 9, 11), (4, 6, 12, 14)]


def test_the_interval_counts_sequential_and_parallel_tokens_apart():
    assert [p.clock for p in ParSampler.passes(CONFIG)] == [None, 0, 1, 2, 0, 4, 8]


@pytest.mark.parametrize(("regions", "passes"), [(4, 147), (16, 51)])
def test_576_tokens_take_the_official_number_of_passes(regions, passes):
    assert (
        len(ParSampler.passes(ParConfig(dim=32, n_layer=1, n_head=2, block_size=576, ar_token_num=regions))) == passes
    )


def test_tokens_see_their_group_and_nothing_further():
    sampler = build_sampler(tiny_token_grid("par"), weights="random:1")
    raster = sampler.to_raster(sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0])).tokens)
    order = sampler.plan.order_N.tolist()

    def moved_by(k: int) -> list[int]:
        """Generation indices whose prediction changes with the k-th token drawn."""
        changed = raster.clone()
        changed[0, order[k]] = (changed[0, order[k]] + 1) % 24
        a, b = (sampler.teacher_forced(sampler.from_raster(t), [1])[0] for t in (raster, changed))
        return ((a - b).abs().amax(-1) > 1e-6).nonzero()[:, 0].tolist()

    assert moved_by(1) == list(range(2, 16))
    assert moved_by(3) == list(range(4, 16))
    # Read by the pass that draws the third group, all of whose tokens see it.
    assert moved_by(6) == list(range(8, 16))
    assert moved_by(13) == []


def test_special_tokens_decide_the_first_parallel_pass_and_the_later_ones():
    sampler = build_sampler(tiny_token_grid("par"), weights="random:1")
    tokens = sampler.from_raster(torch.arange(16).view(1, 16))
    before = sampler.teacher_forced(tokens, [1])[0]
    with torch.no_grad():
        sampler.transformer.spe_tok_embeddings.special_embeddings.weight[1] += torch.linspace(-1, 1, 32)
    moved = (sampler.teacher_forced(tokens, [1])[0] - before).abs().amax(-1) > 1e-6
    assert moved.tolist() == [False] * 4 + [True] * 12
