"""The GELU of a feed-forward is computed within the product where passes have many rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sampling_calls import draw, same_tokens
from tiny_models import tiny_flexvar, tiny_himar, tiny_hmar, tiny_mar, tiny_mvar, tiny_var

from arvbench.adapters.common import linear
from arvbench.adapters.common.linear import GeluLinear
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import ModelSpec, Sampler
from arvbench.harness.measure.correctness import check_correctness
from arvbench.kernels import onednn

pytestmark = pytest.mark.skipif(not onednn.usable(), reason="this torch has no such products")
SPECS = (tiny_var, tiny_mvar, tiny_hmar, tiny_flexvar, tiny_mar, tiny_himar)
LEAST_ROWS = {"tanh": 32, "none": 48}
MANY = [1] * 8
"""Labels of a call whose last pass has many rows."""


def build(spec: Callable[[], ModelSpec] = tiny_var, backend: str = "optimized", **options: object) -> Sampler:
    return build_sampler(spec(), weights="random:1", backend=backend, **options)


@pytest.fixture(autouse=True)
def avx512(monkeypatch):
    """A processor that gains, and a number of rows that tiny models have."""
    monkeypatch.setattr(linear, "processor", lambda: "AVX512")
    monkeypatch.setattr(linear, "LEAST_ROWS_AT_ONCE", LEAST_ROWS)


@pytest.fixture
def rows(monkeypatch):
    """Rows of every product that was computed with its GELU."""
    found: list[int] = []
    product = onednn.linear_gelu

    def counted(x, *arguments):
        found.append(x.numel() // x.shape[-1])
        return product(x, *arguments)

    monkeypatch.setattr(onednn, "linear_gelu", counted)
    return found


@pytest.mark.parametrize("spec", SPECS)
def test_passes_of_many_rows_have_it_within_and_draw_what_the_reference_does(spec, rows):
    optimized, reference = build(spec), build(spec, "reference")
    drawn = draw(optimized, MANY)
    form = optimized.gelu_at_once()[0].form
    assert rows and min(rows) >= LEAST_ROWS[form]
    count = len(rows)
    expected = draw(reference, MANY)
    assert len(rows) == count
    torch.testing.assert_close(drawn.decoded, expected.decoded, rtol=0, atol=1e-5)


def test_two_operations_stay_where_a_pass_has_few_rows(rows):
    sampler = build()
    schedule = sampler.schedule(sampler.spec.settings, batch=len(MANY))
    draw(sampler, MANY)
    blocks = len(sampler.gelu_at_once())
    passes = [step.rows * step.new_tokens for step in schedule]
    assert min(passes) < LEAST_ROWS["tanh"]
    assert sorted(rows) == sorted(count for count in passes if count >= LEAST_ROWS["tanh"] for _ in range(blocks))


def test_two_operations_stay_on_a_processor_that_gains_nothing(rows, monkeypatch):
    monkeypatch.setattr(linear, "processor", lambda: "AVX2")
    sampler = build()
    draw(sampler, MANY)
    assert not rows and not sampler.products(sampler.schedule(sampler.spec.settings, batch=8))


@pytest.mark.parametrize("options", [{"backend": "reference"}, {"dtype": torch.bfloat16}], ids=str)
def test_neither_the_reference_nor_half_precision_has_it(options, rows):
    sampler = build(**options)
    draw(sampler, MANY)
    assert not rows and not sampler.products(sampler.schedule(sampler.spec.settings, batch=8))


def test_a_torch_without_the_operator_computes_two(rows, monkeypatch):
    monkeypatch.setattr(onednn, "usable", lambda: False)
    assert same_tokens(draw(build(), MANY), draw(build(backend="reference"), MANY))
    assert not rows


def test_a_gradient_passes_after_a_call(rows):
    sampler = build()
    tokens = draw(sampler, MANY).tokens
    count = len(rows)
    sampler.loss([ids.clone() for ids in tokens], torch.tensor(MANY)).backward()
    layers = sampler.gelu_at_once()
    assert count and len(rows) == count
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)


def test_teacher_forcing_and_a_converted_model_compute_two(rows):
    sampler = build()
    tokens = draw(sampler, MANY).tokens
    count, expected = len(rows), sampler.teacher_forced(tokens, MANY)
    sampler.modules()["transformer"].double()
    torch.testing.assert_close(sampler.teacher_forced(tokens, MANY).float(), expected, rtol=0, atol=1e-4)
    assert len(rows) == count


def test_a_wrong_product_fails_the_check(monkeypatch):
    product = onednn.linear_gelu
    monkeypatch.setattr(onednn, "linear_gelu", lambda *arguments: 1.1 * product(*arguments))
    sampler = build()
    assert not check_correctness(sampler, sampler.spec.settings, cache_policy=None, batch=8).passed


@pytest.mark.parametrize("form", onednn.FORMS)
def test_a_layer_of_its_own_is_the_operation_with_the_name(form):
    torch.manual_seed(0)
    layer, x = GeluLinear(24, 40, form), torch.randn(3, 50, 24)
    with torch.no_grad():
        plain = layer(x)
        layer.at_once = True
        at_once = layer(x)
    hidden = torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(plain, torch.nn.functional.gelu(hidden, approximate=form), rtol=0, atol=0)
    torch.testing.assert_close(at_once, plain, rtol=1e-5, atol=1e-6)
    other = torch.nn.functional.gelu(hidden, approximate="none" if form == "tanh" else "tanh")
    assert (at_once - plain).abs().max() < 0.1 * (other - plain).abs().max()
