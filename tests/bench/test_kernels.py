"""Times of every kernel of the table: `pytest tests/bench --benchmark-enable`.

The CPU runs the PyTorch implementation, CUDA both. Nothing is timed before it has agreed with its judge. On CUDA a time
is that of one call from launch to finish, so small workloads show the cost of launching.
"""

from __future__ import annotations

import pytest
import torch

from arvbench.kernels import KERNELS
from arvbench.kernels.contract import Implementation, KernelSpec, Shape, verified_call

CPU_LIMIT_BYTES, CPU_LIMIT_FLOPS = 8 * 2**20, 2 * 10**8
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def small(spec: KernelSpec, shape: Shape, dtype: torch.dtype) -> bool:
    return spec.bytes_moved(shape, dtype.itemsize) <= CPU_LIMIT_BYTES and spec.flops(shape) <= CPU_LIMIT_FLOPS


def timed() -> list[object]:
    """Every workload on every device; on the CPU those that stay in the range of milliseconds, in fp32."""
    return [
        pytest.param(spec, load, dtype, device, implementation, id=f"{name}-{load}-{dtype}-{device}-{implementation}")
        for name, spec in KERNELS.items()
        for load in spec.workloads
        for device in DEVICES
        for dtype in (spec.tolerance if device == "cuda" else [torch.float32])
        for implementation in (("torch", "triton") if device == "cuda" else ("torch",))
        if device == "cuda" or small(spec, spec.workloads[load].shape, dtype)
    ]


@pytest.mark.parametrize(("spec", "workload", "dtype", "device", "implementation"), timed())
def test_kernel_time(
    benchmark, spec: KernelSpec, workload: str, dtype: torch.dtype, device: str, implementation: Implementation
) -> None:
    call = verified_call(spec, workload, dtype=dtype, device=device, implementation=implementation)

    def call_and_wait() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    shape = spec.workloads[workload].shape
    benchmark.group = f"{spec.name} {workload} {dtype}"
    benchmark.extra_info |= {
        "implementation": implementation,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "flops": spec.flops(shape),
        "bytes_moved": spec.bytes_moved(shape, dtype.itemsize),
    }
    benchmark(call_and_wait)
