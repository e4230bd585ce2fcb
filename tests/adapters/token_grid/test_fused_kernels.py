"""Token-grid models hand attention to a kernel that stores keys and values itself, where the cache lets it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from interpreted import run_interpreted
from sampling_calls import LABELS, draw
from tiny_models import TOKEN_GRID_FAMILIES, tiny_token_grid

from arvbench.adapters.loading import build_sampler
from arvbench.kernels.swiglu.reference import swiglu
from arvbench.kernels.wavefront_attention.reference import wavefront_attention


class Counted:
    """An operation that keeps the operands of its calls."""

    def __init__(self, operation):
        self.operation, self.calls = operation, []

    def __call__(self, *operands):
        self.calls.append(operands)
        return self.operation(*operands)


@pytest.fixture(params=sorted(TOKEN_GRID_FAMILIES))
def sampler(request):
    return build_sampler(tiny_token_grid(request.param), weights="random:1", backend="optimized")


def use_kernels(sampler) -> tuple[Counted, Counted]:
    attention, product = Counted(wavefront_attention), Counted(swiglu)
    operations = {"wavefront_attention": attention, "swiglu": product}
    sampler._kernels = replace(
        sampler._kernels,
        names={**sampler._kernels.names, **dict.fromkeys(operations, "other")},
        operations={**sampler._kernels.operations, **operations},
    )
    return attention, product


@pytest.mark.parametrize(("policy", "fused"), [("static", True), ("grow", False), ("int8", False)])
def test_the_operations_give_the_tokens_of_the_plain_way(sampler, policy, fused):
    plain = draw(sampler, policy=policy)
    attention, product = use_kernels(sampler)
    cache = sampler.make_cache(policy, sampler.spec.settings, batch=len(LABELS))
    samples = draw(sampler, cache=cache)
    assert torch.equal(samples.decoded, plain.decoded)
    layers, passes = sampler.spec.transformer.blocks, sampler.plan.passes
    assert len(product.calls) == layers * len(passes)
    assert len(attention.calls) == (layers * len(passes) if fused else 0)
    assert (
        cache.live_bytes() == sampler.schedule(sampler.spec.settings, batch=len(LABELS), cache=policy).peak_cache_bytes
    )


def test_every_call_reads_its_length_and_writes_its_tokens_in_memory_that_stays(sampler):
    attention, _ = use_kernels(sampler)
    cache = sampler.make_cache("static", sampler.spec.settings, batch=len(LABELS))
    places = []
    for _ in range(2):
        attention.calls.clear()
        draw(sampler, cache=cache)
        places.append([tuple(t.data_ptr() for t in operands[2:]) for operands in attention.calls])
    assert places[0] == places[1]
    layers = sampler.spec.transformer.blocks
    filled = [int(operands[-1]) for operands in attention.calls[::layers]]
    fed = [len(p.feeds) for p in sampler.plan.passes]
    assert filled == [sum(fed[:number]) for number in range(len(fed))]


def test_a_pass_that_hides_tokens_attends_as_before(sampler):
    tokens = draw(sampler).tokens
    plain = sampler.teacher_forced(tokens, LABELS)
    attention, product = use_kernels(sampler)
    assert torch.equal(sampler.teacher_forced(tokens, LABELS), plain)
    assert (len(attention.calls), len(product.calls)) == (0, sampler.spec.transformer.blocks)


def test_training_takes_no_kernel(sampler):
    tokens = draw(sampler).tokens
    attention, product = use_kernels(sampler)
    sampler.loss(tokens, torch.tensor(LABELS)).backward()
    assert not attention.calls and not product.calls


INTERPRETED = """
import torch
from sampling_calls import draw, same_tokens
from tiny_models import TOKEN_GRID_FAMILIES, tiny_token_grid
from arvbench.adapters.loading import build_sampler
for family in TOKEN_GRID_FAMILIES:
    sampler = build_sampler(tiny_token_grid(family, side=2), weights="random:1", backend="optimized")
    plain = draw(sampler, [1])
    sampler.use_kernels("interpreter")
    samples = draw(sampler, [1])
    assert same_tokens(samples, plain), family
    torch.testing.assert_close(samples.decoded, plain.decoded, rtol=1e-4, atol=1e-4)
    assert sampler.kernels["wavefront_attention"] == sampler.kernels["swiglu"] == "triton", sampler.kernels
"""


def test_interpreted_kernels_draw_the_tokens_of_the_plain_way(programs):
    """Small maps here; tests/harness/verify/test_interpreted.py has the official ones."""
    run_interpreted(programs, INTERPRETED)
