"""Promises of every exact KV-cache policy; a new policy is tested by its line in the table."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import CacheShape
from arvbench.adapters.cache.static import StaticCache
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import ContractError, UnknownName, UserError

SHAPE = CacheShape(
    layers=2, rows=3, heads=2, head_dim=4, capacity_tokens=9, dtype=torch.float32, device=torch.device("cpu")
)


def kv(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, 3, 2, tokens, 4, generator=generator)
    return k, v


KV_POLICIES = [
    name
    for name in sorted(CACHE_POLICIES)
    if CACHE_POLICIES[name].memory == "keys and values" and not CACHE_POLICIES[name].lossy
]


@pytest.fixture(params=KV_POLICIES)
def cache(request):
    return CACHE_POLICIES[request.param](SHAPE)


def test_without_a_cache_a_step_sees_its_own_tokens_only():
    cache = CACHE_POLICIES["none"](SHAPE)
    cache.extend(0, *kv(4, seed=0))
    k, v = kv(2, seed=1)
    keys, values = cache.extend(0, k, v)
    assert keys is k
    assert values is v
    assert cache.live_bytes() == cache.allocated_bytes() == 0


def test_returns_all_tokens_of_the_layer_in_order(cache):
    parts = [kv(tokens, seed) for seed, tokens in enumerate((1, 3, 5))]
    for layer in range(2):
        for k, v in parts:
            keys, values = cache.extend(layer, k, v)
        assert torch.equal(keys, torch.cat([k for k, _ in parts], dim=2))
        assert torch.equal(values, torch.cat([v for _, v in parts], dim=2))


def test_live_bytes_are_those_of_the_tokens_it_holds(cache):
    assert cache.live_bytes() == 0
    for layer in range(2):
        cache.extend(layer, *kv(4, seed=layer))
    assert cache.live_bytes() == SHAPE.bytes_of(4) == 2 * 2 * 3 * 2 * 4 * 4 * 4
    assert cache.allocated_bytes() >= cache.live_bytes()


def test_reset_leaves_nothing(cache):
    cache.extend(0, *kv(4, seed=0))
    cache.reset()
    assert cache.live_bytes() == 0
    k, v = kv(2, seed=1)
    keys, values = cache.extend(0, k, v)
    assert torch.equal(keys, k)
    assert torch.equal(values, v)


def test_does_not_keep_the_callers_memory_alive(cache):
    fused = torch.randn(3, 2, 1, 12)
    cache.extend(0, fused[..., :4], fused[..., 4:8])
    assert cache.allocated_bytes() in (2 * 3 * 2 * 1 * 4 * 4, SHAPE.bytes_of(SHAPE.capacity_tokens))


def test_static_cache_refuses_more_than_its_capacity():
    cache = CACHE_POLICIES["static"](SHAPE)
    cache.extend(0, *kv(9, seed=0))
    with pytest.raises(ContractError, match="10 tokens do not fit"):
        cache.extend(0, *kv(1, seed=1))


class TwinCache(StaticCache):
    policy = "twin"


def test_a_line_in_the_table_makes_a_policy_known_to_every_family_of_its_memory():
    var, mvar = (load_sampler(name, weights="random:0") for name in ("demo/var", "demo/mvar"))
    with CACHE_POLICIES.scoped("twin", f"{__name__}:TwinCache"):
        cache = var.make_cache("twin", var.spec.settings, batch=1)
        samples = var.sample([1], var.spec.settings, noise=PerImageNoise(0, [0]), cache=cache)
        with pytest.raises(UserError, match="demo/mvar has no cache policy 'twin'; it has: history, state"):
            mvar.make_cache("twin", mvar.spec.settings, batch=1)
    alone = var.sample([1], var.spec.settings, noise=PerImageNoise(0, [0]))
    assert torch.equal(samples.images, alone.images)


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(UnknownName, match="grow"):
        CACHE_POLICIES["grw"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_static_cache_refuses_another_dtype(dtype):
    k, v = kv(2, seed=0)
    with pytest.raises(ContractError, match="for a cache of"):
        CACHE_POLICIES["static"](SHAPE).extend(0, k.to(dtype), v.to(dtype))
