from __future__ import annotations

import torch
from tiny_models import tiny_token_grid

from arvbench.adapters.loading import build_sampler
from arvbench.adapters.nar import NarConfig, NarSampler, neighbours
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise
from arvbench.adapters.token_grid.passes import LEARNT

CPU = torch.device("cpu")
CONFIG = NarConfig(dim=32, n_layer=1, n_head=2, block_size=9)


def test_a_pass_draws_one_anti_diagonal_from_the_top_row_down():
    passes = NarSampler.passes(CONFIG)
    assert [p.draws for p in passes] == [(0,), (1, 3), (2, 4, 6), (5, 7), (8,)]
    assert [p.feeds for p in passes] == [(LEARNT,), (0,), (1, 3), (2, 4, 6), (5, 7)]
    assert {p.kind for p in passes} == {"wavefront"}


def test_the_interval_counts_tokens_not_passes():
    assert [p.clock for p in NarSampler.passes(CONFIG)] == [None, 1, 3, 6, 8]


def test_256_tokens_take_31_passes():
    assert len(NarSampler.passes(NarConfig(dim=32, n_layer=1, n_head=2))) == 31


def test_interior_tokens_average_left_and_upper_neighbour_and_borders_have_one():
    near = neighbours((1, 3), (2, 4, 6), 3, CPU)
    assert near.left_weight_l1.flatten().tolist() == [1.0, 0.5, 0.0]
    assert near.above_weight_l1.flatten().tolist() == [0.0, 0.5, 1.0]
    assert near.left_l[:2].tolist() == [0, 1]
    assert near.above_l[1:].tolist() == [0, 1]


def test_the_class_token_predicts_the_first_token_with_both_heads():
    near = neighbours((LEARNT,), (0,), 3, CPU)
    assert (near.left_l.item(), near.above_l.item()) == (0, 0)
    assert (near.left_weight_l1.item(), near.above_weight_l1.item()) == (0.5, 0.5)


def test_logits_are_averages_of_the_two_chained_heads():
    sampler = build_sampler(tiny_token_grid("nar"), weights="random:1")
    raster = torch.arange(16).view(1, 16)
    hidden = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _a, out, i=i: hidden.update({i: out}))
        for i, layer in enumerate(sampler.transformer.layers)
    ]
    logits = sampler.teacher_forced(sampler.from_raster(raster), [2])[:, sampler.plan.raster_N]
    for hook in hooks:
        hook.remove()
    model = sampler.transformer
    slots = torch.tensor(sampler.plan.trained).argsort()  # the class token, then raster order
    with torch.no_grad():
        right = model.output(model.norm(hidden[1]))[0, slots]
        below = model.medusa_output(model.medusa_norm(hidden[2]))[0, slots]
    torch.testing.assert_close(logits[0, 0], (right[0] + below[0]) / 2)
    torch.testing.assert_close(logits[0, 3], right[1 + 2])
    torch.testing.assert_close(logits[0, 8], below[1 + 4])
    torch.testing.assert_close(logits[0, 6], (right[1 + 5] + below[1 + 2]) / 2)


def test_a_token_sees_its_own_anti_diagonal_and_nothing_further():
    sampler = build_sampler(tiny_token_grid("nar"), weights="random:1")
    raster = sampler.to_raster(sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0])).tokens)
    changed = raster.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 24  # row 1, column 2: distance 3
    a, b = (sampler.teacher_forced(sampler.from_raster(t), [1])[0, sampler.plan.raster_N] for t in (raster, changed))
    moved = ((a - b).abs().amax(-1) > 1e-6).view(4, 4).tolist()
    assert moved == [[row + column > 3 for column in range(4)] for row in range(4)]


def test_official_draws_are_made_position_by_position():
    sampler = build_sampler(tiny_token_grid("nar"), weights="random:1")
    calls = []

    class Noise(UpstreamNoise):
        def tokens(self, logits, step, *, one_by_one=False):
            calls.append(one_by_one)
            return super().tokens(logits, step)

    sampler.sample([0], sampler.spec.settings, noise=Noise(0))
    assert calls == [True] * 7
