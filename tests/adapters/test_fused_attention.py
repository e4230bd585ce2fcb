"""Next-scale models hand attention to a kernel that stores keys and values itself, where the cache lets it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arvbench.adapters.loading import load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import ContractError
from arvbench.kernels.scale_attention.reference import scale_attention


@pytest.mark.parametrize(
    ("family", "cache", "fused"),
    [("var", "static", True), ("var", "grow", False), ("hmar", "none", True), ("mvar", "state", True)],
)
def test_the_operation_gives_the_tokens_of_the_plain_way(family, cache, fused):
    sampler = load_sampler(f"demo/{family}", weights="demo", backend="optimized")
    settings, calls = sampler.spec.settings, []

    def counted(*operands):
        calls.append(operands)
        return scale_attention(*operands)

    def draw():
        memory = sampler.make_cache(cache, settings, batch=1)
        live = memory.live_bytes
        samples = sampler.sample([3], settings, noise=PerImageNoise(0, [0]), cache=memory)
        return samples, live()

    plain, plain_bytes = draw()
    names = {**sampler._kernels.names, "scale_attention": "other"}
    operations = {**sampler._kernels.operations, "scale_attention": counted}
    sampler._kernels = replace(sampler._kernels, names=names, operations=operations)
    samples, live_bytes = draw()
    assert bool(calls) == fused
    assert torch.equal(samples.images, plain.images)
    assert live_bytes == plain_bytes


def test_a_static_cache_that_is_full_has_no_slots():
    sampler = load_sampler("demo/var", weights="random:0")
    cache = sampler.make_cache("static", sampler.spec.settings, batch=1)
    cache.slots(0, cache.shape.capacity_tokens)
    with pytest.raises(ContractError, match=r"layer 0: .* tokens do not fit"):
        cache.slots(0, 1)
