"""Every kernel of the table compiles for every GPU generation that it is meant for, within the limits of its spec."""

from __future__ import annotations

import importlib

import pytest
import torch

from arvbench.errors import ContractError
from arvbench.kernels import KERNELS
from arvbench.kernels.contract import KernelSpec

aot = pytest.importorskip("arvbench.kernels.aot", reason="needs triton")
pytestmark = pytest.mark.skipif(not aot.CAN_COMPILE, reason="needs triton >= 3.3")

CAPABILITIES = (80, 90, 100)


def is_slow(spec: KernelSpec, workload: str, dtype: torch.dtype, capability: int) -> bool:
    """Leave to `-m slow` what differs little from the others: each takes seconds to compile where nothing is cached.

    By default the first workload of every kernel is compiled in bfloat16 for sm_90; that of one attention also in
    float32, which takes most registers and memory, for the generation with the least shared memory, and for the newest.
    """
    first = next(name for name, made in spec.workloads.items() if made.compile)
    default = [(torch.bfloat16, 90)]
    if spec.name == "scale_attention":
        default += [(torch.float32, 80), (torch.bfloat16, 100)]
    return workload != first or (dtype, capability) not in default


COMPILED = [
    pytest.param(
        spec,
        workload,
        dtype,
        capability,
        marks=[pytest.mark.slow] if is_slow(spec, workload, dtype, capability) else [],
        id=f"{name}-{workload}-{dtype}-sm_{capability}",
    )
    for name, spec in KERNELS.items()
    for workload in spec.workloads
    if spec.workloads[workload].compile
    for dtype in spec.tolerance
    for capability in CAPABILITIES
]


@pytest.mark.parametrize(("spec", "workload", "dtype", "capability"), COMPILED)
def test_compiled_kernel_stays_within_its_limits(
    spec: KernelSpec, workload: str, dtype: torch.dtype, capability: int
) -> None:
    if reason := spec.unsupported(spec.inputs(workload, dtype=dtype, device="cpu")):
        pytest.skip(f"{spec.fallback} takes it: {reason}")
    launches = aot.compile_workload(spec, workload, dtype=dtype, capability=capability)
    for launch in launches:
        assert f".target sm_{capability}" in launch.ptx
        assert (launch.stack_bytes, launch.local_bytes) == (0, 0), "registers are spilled"
        assert 0 < launch.registers <= spec.limits.registers
        assert launch.shared_bytes <= spec.limits.shared_bytes
    if spec.limits.tensor_cores and dtype.itemsize == 2:
        assert sum(launch.tensor_core_instructions for launch in launches) > 0


def test_official_width_is_read_in_16_byte_loads_and_rounded_to_nearest() -> None:
    spec = KERNELS["adaln_modulate"]
    (launch,) = aot.compile_workload(spec, "d36-512px-first", dtype=torch.bfloat16, capability=90)
    assert "ld.global.v4.b32" in launch.ptx
    assert "cvt.rn.bf16" in launch.ptx


def test_a_matrix_product_of_16_bit_numbers_runs_on_tensor_cores_of_every_generation(module_of) -> None:
    """The count of the limits test is a reading: 0 without a product."""
    kernel = module_of("product", PRODUCT)
    for capability in CAPABILITIES:
        launch = aot.compile_launch((kernel, {"x": torch.zeros(1, dtype=torch.float16)}), capability=capability)
        assert launch.tensor_core_instructions > 0
    spec = KERNELS["adaln_residual"]
    (launch,) = aot.compile_workload(spec, "ragged", dtype=torch.float16, capability=90)
    assert launch.tensor_core_instructions == 0


def test_compiling_leaves_the_kernels_launchable() -> None:
    from arvbench.kernels.adaln import triton as module

    before = module._adaln_residual_kernel.run
    aot.compile_workload(KERNELS["adaln_residual"], "ragged", dtype=torch.float32, capability=90)
    assert module._adaln_residual_kernel.run == before


@pytest.fixture
def module_of(tmp_path, monkeypatch):
    """Function from a module's name and text to the kernel in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def kernel(name: str, text: str):
        (tmp_path / f"{name}.py").write_text(text)
        return importlib.import_module(name).kernel

    return kernel


@pytest.fixture
def spilling(module_of):
    """A kernel that needs more registers than a thread has."""
    return module_of("spilling", SPILLING)


def test_a_register_array_that_spills_is_seen(spilling) -> None:
    """The zero of the limits test is a reading, not a missing line of the tool."""
    arguments = {"x": torch.zeros(1), "BLOCK": 8192, "num_warps": 1}
    assert aot.compile_launch((spilling, arguments), capability=90).stack_bytes > 0


def test_an_argument_of_unknown_type_is_refused(spilling) -> None:
    arguments = {"x": torch.zeros(1, dtype=torch.complex64), "BLOCK": 8}
    with pytest.raises(ContractError, match="complex64"):
        aot.compile_launch((spilling, arguments), capability=90)


SPILLING = """
import triton
import triton.language as tl


@triton.jit
def kernel(x, BLOCK: tl.constexpr):
    col = tl.arange(0, BLOCK)
    a = tl.load(x + col)
    tl.store(x + col, a / tl.sum(a))
"""

PRODUCT = """
import triton
import triton.language as tl


@triton.jit
def kernel(x):
    at = tl.arange(0, 64)[:, None] * 64 + tl.arange(0, 64)[None, :]
    a = tl.load(x + at)
    tl.store(x + at, tl.dot(a, a).to(tl.float16))
"""
