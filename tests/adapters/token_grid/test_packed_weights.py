"""Weights that lie packed while a call has few rows, and plain for everyone else."""

from __future__ import annotations

import copy

import pytest
import torch
from sampling_calls import draw, same_tokens
from tiny_models import TOKEN_GRID_FAMILIES, tiny_token_grid

from arvbench.adapters.common import linear
from arvbench.adapters.common.linear import PackableLinear
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import Sampler
from arvbench.harness.measure.correctness import check_correctness, reference_twin
from arvbench.harness.measure.memory import weight_bytes
from arvbench.kernels import onednn

pytestmark = pytest.mark.skipif(not onednn.usable(), reason="this torch does not pack weights")
WIDE = {"dim": 512, "n_head": 8}
"""Weights beyond 1 MiB: the projections of attention, and of the feed-forward."""
WIDER = tiny_token_grid("llamagen", dim=704, n_head=11)
"""Has a projection with 2,112 outputs, and others with fewer."""


@pytest.fixture(autouse=True)
def avx2(monkeypatch):
    """A processor on which two rows gain by packing; tests of another one replace it."""
    monkeypatch.setattr(linear, "processor", lambda: "AVX2")


def build(family: str = "llamagen", backend: str = "optimized", **options: object) -> Sampler:
    return build_sampler(tiny_token_grid(family, **WIDE), weights="random:1", backend=backend, **options)


def layers(sampler: Sampler) -> dict[str, PackableLinear]:
    modules = sampler.modules()["transformer"].named_modules()
    return {name: module for name, module in modules if isinstance(module, PackableLinear)}


def packed_layers(sampler: Sampler) -> set[str]:
    return {name for name, layer in layers(sampler).items() if layer.packed}


@pytest.fixture
def packed():
    """A sampler after a call that packed its weights."""
    sampler = build()
    draw(sampler, [1])
    assert packed_layers(sampler)
    return sampler


@pytest.mark.parametrize("family", sorted(TOKEN_GRID_FAMILIES))
def test_a_call_of_few_rows_packs_all_large_weights_and_draws_the_tokens_of_the_reference(family):
    optimized, reference = build(family), build(family, "reference")
    assert same_tokens(draw(optimized, [1]), draw(reference, [1]))
    large = {name for name, layer in layers(optimized).items() if layer.weight.numel() >= 2**18}
    assert packed_layers(optimized) == large
    assert {"layers.0.attention.wqkv", "layers.0.feed_forward.w2"} <= large
    assert "output" not in large
    assert not packed_layers(reference)


@pytest.fixture
def threads():
    """A function that sets torch's threads; they are as before after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("processor", "count", "fewest", "narrow", "wide"),
    [("AVX2", 1, 1, 18, 24), ("AVX2", 2, 1, 36, 64), ("AVX512", 1, 2, 32, 64), ("AVX512", 2, 2, 64, 128)],
)
def test_processor_threads_and_rows_of_a_call_decide(monkeypatch, threads, processor, count, fewest, narrow, wide):
    monkeypatch.setattr(linear, "processor", lambda: processor)
    threads(count)
    sampler = build_sampler(WIDER, weights="random:1", backend="optimized")
    settings = sampler.spec.settings

    def chosen(batch: int) -> set[str]:
        """Names of the projections packed for two rows per image and one token per pass."""
        layers_ = sampler.packed(sampler.schedule(settings, batch=batch))
        return {name.rsplit(".")[-1] for name, layer in layers(sampler).items() if layer in set(layers_)}

    if fewest > 1:
        assert chosen(fewest - 1) == set()
    assert chosen(fewest) == chosen(narrow) == {"wqkv", "wo", "w1", "w2", "w3"}
    assert chosen(narrow + 1) == {"wqkv"}  # 2,112 outputs
    assert chosen(wide) == {"wqkv"}
    assert chosen(wide + 1) == set()


def test_a_later_call_may_decide_otherwise(threads):
    threads(1)
    sampler = build_sampler(WIDER, weights="random:1", backend="optimized")
    for images, packs in ((1, True), (25, False), (1, True)):
        draw(sampler, [1] * images)
        assert bool(packed_layers(sampler)) == packs


@pytest.mark.parametrize("processor", ["AVX2", "AVX512"])
def test_one_row_gains_nothing(monkeypatch, processor):
    monkeypatch.setattr(linear, "processor", lambda: processor)
    assert not any(PackableLinear(512, 16384, bias=False, device="meta").gains(1, threads) for threads in (1, 2))


def test_two_rows_stay_plain_where_plain_products_are_faster(monkeypatch):
    monkeypatch.setattr(linear, "processor", lambda: "AVX512")
    sampler = build()
    draw(sampler, [1])
    assert not packed_layers(sampler)
    assert same_tokens(draw(sampler, [1, 2]), draw(build(backend="reference"), [1, 2]))
    assert packed_layers(sampler)


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_small_weights_are_never_packed_and_wide_ones_for_more_rows_than_narrow_ones(threads):
    def most(inputs: int, outputs: int) -> int:
        layer = PackableLinear(inputs, outputs, bias=False, device="meta")
        gains = [layer.gains(rows, threads) for rows in range(2, 300)]
        assert gains == sorted(gains, reverse=True)
        return sum(gains)

    assert most(511, 512) == 0
    assert 0 < most(512, 512) == most(4096, 2047) < most(512, 2048) == most(4096, 8191) < most(64, 8192)


@pytest.mark.parametrize("options", [{"backend": "reference"}, {"dtype": torch.bfloat16}], ids=str)
def test_neither_the_reference_nor_half_precision_packs(options):
    sampler = build(**options)
    draw(sampler, [1])
    assert not packed_layers(sampler)


def test_a_torch_without_the_operators_samples_from_plain_weights(monkeypatch):
    monkeypatch.setattr(onednn, "usable", lambda: False)
    sampler = build()
    assert same_tokens(draw(sampler, [1]), draw(build(backend="reference"), [1]))
    assert not packed_layers(sampler)


def test_the_judge_computes_with_plain_weights_and_the_judged_with_packed_ones(packed, monkeypatch):
    products = {"packed": 0}

    def counted(*arguments):
        products["packed"] += 1
        return product(*arguments)

    product = onednn.packed_linear
    monkeypatch.setattr(onednn, "packed_linear", counted)
    twin = reference_twin(packed)
    draw(twin, [1])
    assert products == {"packed": 0}
    result = check_correctness(packed, packed.spec.settings, cache_policy=None, batch=1)
    assert result.passed
    assert 0 < result.max_abs_diff < 1e-4  # another order of summation
    assert products["packed"] == 16 * len(packed_layers(packed))


def test_a_wrong_product_fails_the_check(packed, monkeypatch):
    product = onednn.packed_linear
    monkeypatch.setattr(onednn, "packed_linear", lambda *arguments: 1.01 * product(*arguments))
    assert not check_correctness(packed, packed.spec.settings, cache_policy=None, batch=1).passed


def test_state_dicts_copies_and_conversions_see_the_plain_values(packed):
    plain = build(backend="reference").modules()["transformer"]
    transformer = packed.modules()["transformer"]
    twin = copy.deepcopy(transformer)
    assert_equal_states(twin.state_dict(), plain.state_dict())
    draw(packed, [1])
    assert_equal_states(transformer.state_dict(), plain.state_dict())
    draw(packed, [1])
    assert_equal_states(transformer.double().state_dict(), plain.double().state_dict())


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def test_new_values_load_into_packed_layers(packed):
    transformer = packed.modules()["transformer"]
    other = build_sampler(tiny_token_grid("llamagen", **WIDE), weights="random:2", backend="optimized")
    transformer.load_state_dict(other.modules()["transformer"].state_dict())
    assert same_tokens(draw(packed, [1]), draw(other, [1]))


@pytest.mark.parametrize("inference_mode", [False, True])
def test_training_goes_on_after_a_call(inference_mode):
    sampler = build()
    transformer = sampler.modules()["transformer"]
    optimizer = torch.optim.SGD(transformer.parameters(), lr=0.1)
    with torch.inference_mode(inference_mode):
        tokens = draw(sampler, [1]).tokens
    before = sampler.teacher_forced(tokens, [1])
    assert packed_layers(sampler)
    assert sum(p.numel() for p in transformer.parameters()) == sum(
        p.numel() for p in build().modules()["transformer"].parameters()
    )
    sampler.loss([t.clone() for t in tokens], torch.tensor([1])).backward()
    optimizer.step()
    assert not torch.allclose(before, sampler.teacher_forced(tokens, [1]))
    assert not packed_layers(sampler)


def test_weights_lie_in_memory_once_and_count_with_the_zeros_that_fill_blocks(packed):
    plain = build(backend="reference")
    transformer = packed.modules()["transformer"]
    filled = sum(onednn.stored_bytes(layer.weight) - 4 * layer.weight.numel() for layer in layers(packed).values())
    assert weight_bytes(transformer) == weight_bytes(plain.modules()["transformer"]) + filled
    assert filled < 0.1 * weight_bytes(transformer)
    assert onednn.stored_bytes(onednn.packed(torch.ones(10, 7))) > 4 * 70
