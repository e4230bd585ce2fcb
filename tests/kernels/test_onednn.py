"""Packed products agree with F.linear, or are not used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from arvbench.kernels import onednn


@pytest.fixture
def fresh(monkeypatch):
    """`usable` without its memory."""
    monkeypatch.setattr(onednn, "usable", onednn.usable.__wrapped__)


def torch_packs() -> bool:
    return bool(torch.backends.mkldnn.is_available()) and onednn.usable()


@pytest.mark.skipif(not torch_packs(), reason="this torch does not pack weights")
@pytest.mark.parametrize("rows", [1, 2, 17, 64, 200])
@pytest.mark.parametrize("size", [(1, 1), (10, 7), (768, 2048), (2304, 768)], ids=str)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
def test_a_packed_product_differs_from_the_exact_one_by_no_more_than_a_plain_product_may(rows, size, biased):
    torch.manual_seed(rows)
    x, weight = torch.randn(2, rows, size[1]), torch.randn(size) / size[1] ** 0.5
    bias = torch.randn(size[0]) if biased else None
    packed = onednn.packed(weight)
    assert torch.equal(packed.to_dense(), weight)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    # Rounding of sums of up to 2,048 products of order 1 / sqrt(width).
    torch.testing.assert_close(onednn.packed_linear(x, packed, bias).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch_packs(), reason="this torch has no such products")
@pytest.mark.parametrize("rows", [1, 32, 200])
@pytest.mark.parametrize("size", [(10, 7), (768, 192), (2304, 768)], ids=str)
@pytest.mark.parametrize("form", onednn.FORMS)
def test_a_product_with_a_gelu_differs_from_the_exact_one_by_no_more_than_two_operations_may(rows, size, form):
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(2, rows, size[1]), torch.randn(size) / size[1] ** 0.5, torch.randn(size[0])
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate=form)
    torch.testing.assert_close(onednn.linear_gelu(x, weight, bias, form).double(), exact, rtol=1e-5, atol=1e-5)


def absent(*arguments):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


def other_arguments(*arguments):
    raise RuntimeError("mkldnn::_linear_pointwise() expected at most 4 argument(s)")


@pytest.mark.parametrize("change", [absent, other_arguments, lambda x, *rest: x.new_zeros(*x.shape[:-1], 1)])
@pytest.mark.parametrize("operator", ["packed", "packed_linear", "linear_gelu"])
def test_operators_that_are_absent_or_changed_are_not_used(fresh, monkeypatch, operator, change):
    monkeypatch.setattr(onednn, operator, change)
    assert not onednn.usable()


def test_a_product_that_is_wrong_beyond_rounding_is_not_used(fresh, monkeypatch):
    monkeypatch.setattr(onednn, "packed_linear", lambda x, packed, bias: 1.0001 * F.linear(x, packed.to_dense(), bias))
    assert not onednn.usable()
