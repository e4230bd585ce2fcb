"""Backend and device choose the kernels; nothing else does."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from arvbench.errors import HostError, UnknownName
from arvbench.kernels import KERNELS
from arvbench.kernels.adaln import reference
from arvbench.kernels.dispatch import select

pytestmark = pytest.mark.usefixtures("compiled_triton")


@pytest.fixture
def compiled_triton(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize(
    ("backend", "device", "chosen"),
    [
        ("reference", "cpu", "torch"),
        ("reference", "cuda", "torch"),
        ("optimized", "cpu", "torch"),
        ("optimized", "cuda", "triton"),
        ("optimized", "cuda:1", "triton"),
        ("optimized", "mps", "torch"),
    ],
)
def test_backend_and_device_choose_the_implementation(backend, device, chosen):
    if chosen == "triton":
        pytest.importorskip("triton", reason="needs triton")
    kernels = select(backend, torch.device(device))
    assert kernels.names == dict.fromkeys(KERNELS, chosen)
    for name, spec in KERNELS.items():
        assert getattr(kernels, name) is spec.implementations[chosen]


def test_kernels_are_called_as_attributes():
    x, gate = torch.randn(2, 3, 8), torch.randn(2, 1, 8)
    kernels = select("optimized", "cpu")
    torch.testing.assert_close(kernels.adaln_residual(x, gate, x), x + gate * x, rtol=0, atol=0)
    assert kernels.adaln_modulate is reference.adaln_modulate


def test_a_kernel_set_can_be_copied_and_compiled_into_one_graph():
    kernels = copy.deepcopy(select("optimized", "cpu"))
    x, scale = torch.randn(2, 3, 8), torch.randn(2, 1, 8)
    graph = torch.compile(lambda x: kernels.adaln_modulate(x, scale, scale, 1e-6), fullgraph=True, backend="eager")
    torch.testing.assert_close(graph(x), reference.adaln_modulate(x, scale, scale, 1e-6), rtol=0, atol=0)


def test_an_unknown_kernel_is_an_attribute_error_that_names_the_known_ones():
    with pytest.raises(AttributeError, match=r"no kernel 'adaln'; known: adaln_modulate, adaln_residual"):
        _ = select("reference", "cpu").adaln


def test_an_unknown_backend_is_refused():
    with pytest.raises(UnknownName, match="no backend 'fast'; known: optimized, reference"):
        select("fast", "cpu")


def test_a_missing_triton_is_an_error_without_a_fallback(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(HostError, match="install triton or choose backend 'reference'"):
        select("optimized", "cuda")
    assert set(select("reference", "cuda").names.values()) == {"torch"}


def test_an_environment_that_would_interpret_the_kernels_is_refused(monkeypatch):
    pytest.importorskip("triton", reason="needs triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(HostError, match="TRITON_INTERPRET is set"):
        select("optimized", "cuda")
    assert set(select("optimized", "cpu").names.values()) == {"torch"}
