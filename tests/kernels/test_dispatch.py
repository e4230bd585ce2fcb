"""Backend and device choose the kernels; nothing else does."""

from __future__ import annotations

import copy
import importlib
import sys
import types
from dataclasses import replace

import pytest
import torch
from interpreted import ASK, run_interpreted

from arvbench.errors import HostError, UnknownName, UserError
from arvbench.kernels import KERNELS
from arvbench.kernels.adaln import reference
from arvbench.kernels.adaln import spec as adaln
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
        operation = getattr(kernels, name)
        assert getattr(operation, "fast", operation) is spec.implementations[chosen]


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
    with pytest.raises(AttributeError, match=r"no kernel 'adaln'; known: adaln_modulate, adaln_residual.*"):
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


@pytest.mark.parametrize("version", ["2.3.1", "1.0"])
def test_a_triton_that_is_too_old_is_named(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(__version__=version))
    with pytest.raises(HostError, match=rf"needs Triton \d\.\d or newer, this is {version}; .*backend 'reference'"):
        select("optimized", "cuda")


def no_wide_rows(x_RlC, **operands):
    return f"{x_RlC.shape[-1]} channels, at most 8" if x_RlC.shape[-1] > 8 else None


def doubled(x_RlC, gate_R1C, branch_RlC):
    return 2 * reference.adaln_residual(x_RlC, gate_R1C, branch_RlC)


NARROW = replace(
    adaln.RESIDUAL, name="narrow", fast=f"{__name__}:doubled", supports=no_wide_rows, make_inputs=adaln._residual_inputs
)


def test_operands_that_a_kernel_cannot_take_go_to_the_named_implementation_and_are_noted():
    pytest.importorskip("triton", reason="needs triton")
    with KERNELS.scoped("narrow", f"{__name__}:NARROW"):
        kernels = select("optimized", "cuda")
    x, gate = torch.randn(2, 3, 8), torch.randn(2, 1, 8)
    assert torch.equal(kernels.narrow(x, gate, x), 2 * reference.adaln_residual(x, gate, x))
    assert kernels.fallbacks == {}
    x, gate = torch.randn(2, 3, 9), torch.randn(2, 1, 9)
    assert torch.equal(kernels.narrow(x, gate, branch_RlC=x), reference.adaln_residual(x, gate, x))
    assert kernels.fallbacks == {"narrow": "torch: 9 channels, at most 8 (torch.float32)"}
    assert kernels.described()["narrow"] == "triton; torch: 9 channels, at most 8 (torch.float32)"
    assert kernels.described()["adaln_modulate"] == "triton"


def added_up(x_RlC, total_RlC):
    """Add x to the total; of rows wider than 8 only the first launch of two fits the GPU."""
    total_RlC += x_RlC
    if x_RlC.shape[-1] > 8:
        raise importlib.import_module("triton.runtime.errors").OutOfResources(73_728, 65_536, "shared memory")
    return 2 * total_RlC


def added_up_in_torch(x_RlC, total_RlC):
    return total_RlC.add_(x_RlC)


SUMMING = replace(
    adaln.RESIDUAL,
    name="summing",
    reference=f"{__name__}:added_up_in_torch",
    fast=f"{__name__}:added_up",
    mutates=("total_RlC",),
    supports=None,
)


@pytest.fixture
def summing():
    """Kernels of a GPU whose shared memory is too small for one of them."""
    pytest.importorskip("triton", reason="needs triton")
    with KERNELS.scoped("summing", f"{__name__}:SUMMING"):
        return select("optimized", "cuda")


def test_a_launch_that_needs_more_shared_memory_than_there_is_goes_elsewhere_as_if_it_had_not_been_tried(summing):
    narrow, wide = torch.ones(1, 1, 8), torch.ones(1, 1, 9)
    for calls in (1, 2, 3):
        assert torch.equal(summing.summing(narrow, torch.ones_like(narrow)), 4 * narrow)
        total = calls * torch.ones_like(wide)
        assert torch.equal(summing.summing(wide, total_RlC=total), (calls + 1) * wide)
        assert torch.equal(total, (calls + 1) * wide)
    reason = "torch: needs 73728 of shared memory, this GPU has 65536 (torch.float32)"
    assert summing.described()["summing"] == f"triton; {reason}"


def test_what_a_size_needs_is_tried_once(summing):
    tried = []
    summing.summing.fast = lambda *operands: tried.append(operands) or added_up(*operands)
    for _ in range(3):
        summing.summing(torch.ones(1, 1, 9), torch.ones(1, 1, 9))
    assert len(tried) == 1


def test_any_other_error_of_a_kernel_is_raised(summing):
    with pytest.raises(RuntimeError, match="size of tensor"):
        summing.summing(torch.ones(1, 1, 8), torch.ones(1, 1, 7))
    assert summing.fallbacks == {}


@pytest.mark.parametrize("operation", sorted(KERNELS))
def test_every_operation_has_a_reason_not_to_take_float64(operation):
    spec = KERNELS[operation]
    inputs = spec.inputs(next(iter(spec.workloads)), dtype=torch.float64, device="cpu")
    assert "float64" in (spec.unsupported(inputs) or "")


def test_the_interpreter_runs_the_kernels_of_the_cpu(programs):
    run_interpreted(programs, INTERPRETED)


@pytest.mark.parametrize(
    ("backend", "device", "error", "message"),
    [
        ("optimized", "cuda", UserError, "interpreter runs kernels on the CPU, not on cuda"),
        ("reference", "cpu", UserError, "the reference backend has no Triton kernels"),
        ("optimized", "cpu", HostError, "must be asked for before Triton is imported: set TRITON_INTERPRET=1"),
    ],
)
def test_an_interpreter_that_cannot_be_had_is_refused(backend, device, error, message):
    pytest.importorskip("triton", reason="needs triton")
    with pytest.raises(error, match=message):
        select(backend, device, kernels="interpreter")


def test_after_an_import_of_triton_kernels_cannot_be_interpreted(programs):
    pytest.importorskip("triton", reason="needs triton")
    done = programs.run("-c", "import triton\n" + ASK)
    assert "HostError" in done.stderr
    assert "Triton is imported already: ask in a fresh process" in done.stderr


INTERPRETED = """
import torch
from arvbench.kernels.dispatch import select
kernels = select("optimized", "cpu", kernels="interpreter")
assert set(kernels.names.values()) == {"triton"}
x, gate = torch.randn(2, 3, 8), torch.randn(2, 1, 8)
torch.testing.assert_close(kernels.adaln_residual(x, gate, x), x + gate * x)
"""
