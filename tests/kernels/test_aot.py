"""Every kernel of the table compiles for every GPU generation that it is meant for, within the limits of its spec."""

from __future__ import annotations

import pytest
import torch

from arvbench.errors import ContractError
from arvbench.kernels import KERNELS
from arvbench.kernels.operation import KernelSpec

aot = pytest.importorskip("arvbench.kernels.aot", reason="needs triton")
pytestmark = pytest.mark.skipif(not aot.CAN_COMPILE, reason="needs triton >= 3.3")

CAPABILITIES = (80, 90, 100)
COMPILED = [
    pytest.param(spec, case, dtype, capability, id=f"{name}-{case}-{dtype}-sm_{capability}")
    for name, spec in KERNELS.items()
    for case in spec.cases
    if spec.cases[case].compile
    for dtype in spec.tolerance
    for capability in CAPABILITIES
]


@pytest.mark.parametrize(("spec", "case", "dtype", "capability"), COMPILED)
def test_compiled_kernel_stays_within_its_limits(
    spec: KernelSpec, case: str, dtype: torch.dtype, capability: int
) -> None:
    for launch in aot.compile_case(spec, case, dtype=dtype, capability=capability):
        assert f".target sm_{capability}" in launch.ptx
        assert (launch.stack_bytes, launch.local_bytes) == (0, 0), "registers are spilled"
        assert 0 < launch.registers <= spec.limits.registers
        assert launch.shared_bytes <= spec.limits.shared_bytes


def test_official_width_is_read_in_16_byte_loads_and_rounded_to_nearest() -> None:
    spec = KERNELS["adaln_modulate"]
    (launch,) = aot.compile_case(spec, "d36-512px-first", dtype=torch.bfloat16, capability=90)
    assert "ld.global.v4.b32" in launch.ptx
    assert "cvt.rn.bf16" in launch.ptx


def test_compiling_leaves_the_kernels_launchable() -> None:
    from arvbench.kernels.adaln import triton as module

    before = module._adaln_residual_kernel.run
    aot.compile_case(KERNELS["adaln_residual"], "ragged", dtype=torch.float32, capability=90)
    assert module._adaln_residual_kernel.run == before


def test_a_register_array_that_spills_is_seen(tmp_path, monkeypatch) -> None:
    """The zero of the limits test is a reading, not a missing line of the tool."""
    (tmp_path / "spilling.py").write_text(SPILLING)
    monkeypatch.syspath_prepend(tmp_path)
    import spilling

    launch = aot._compile(spilling.kernel, {"x": torch.zeros(1), "BLOCK": 8192, "num_warps": 1}, 90)
    assert launch.stack_bytes > 0


def test_an_argument_of_unknown_type_is_refused() -> None:
    with pytest.raises(ContractError, match="complex64"):
        aot._type_name(torch.zeros(1, dtype=torch.complex64))


SPILLING = """
import triton
import triton.language as tl


@triton.jit
def kernel(x, BLOCK: tl.constexpr):
    col = tl.arange(0, BLOCK)
    a = tl.load(x + col)
    tl.store(x + col, a / tl.sum(a))
"""
