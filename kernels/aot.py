"""Compile a kernel for a GPU that this machine may lack, and read the resources that its code uses.

The wrapper itself is called, with its launches recorded instead of started. The compiled code is therefore the code
that would run, specialised for equal arguments.

Units    registers per thread; _bytes bytes, stack and local memory per thread, shared memory per block
"""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from arvbench.errors import ContractError, HostError
from arvbench.files import scratch_folder
from arvbench.kernels.contract import KernelSpec
from arvbench.kernels.target import compiling_for

_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
_TENSOR_CORE = re.compile(r"^\s*(?:@%p\d+\s+)?(?:mma\.sync|wgmma\.mma_async\.|tcgen05\.mma)", re.MULTILINE)
_ALIGNED = [["tt.divisibility", 16]]
CAN_COMPILE = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)
"""False before Triton 3.3, which launches kernels but describes the specialisation of arguments in another way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledLaunch:
    """One compiled kernel and the resources that it uses on the GPU."""

    kernel: str
    registers: int
    stack_bytes: int
    """Spilled registers and local arrays; 0 when everything stays in registers."""
    local_bytes: int
    shared_bytes: int
    tensor_core_instructions: int
    """Matrix multiplications on tensor cores in the text of the program, loops counted once."""
    ptx: str


Launch = tuple[JITFunction, Mapping[str, Any]]
"""A kernel, and the arguments and launch options by name."""


def compile_workload(
    spec: KernelSpec, workload: str, *, dtype: torch.dtype, capability: int
) -> tuple[CompiledLaunch, ...]:
    """Compile every launch that the wrapper makes on `workload`, for compute capability `capability` (90: sm_90).

    Raises HostError when Triton is older than 3.3, interprets kernels or has no cuobjdump, ContractError when the
    wrapper launches nothing or hands its kernel an argument of unknown type.
    """
    if not CAN_COMPILE:
        raise HostError(f"compiling ahead of time needs triton >= 3.3, this is {triton.__version__}: upgrade torch")
    module = importlib.import_module(spec.fast.partition(":")[0])
    kernels = [value for value in vars(module).values() if isinstance(value, JITFunction)]
    if not kernels:
        raise HostError(f"{module.__name__} was imported with TRITON_INTERPRET set: unset it to compile its kernels")
    with _recorded(kernels) as launches, compiling_for(capability), torch.no_grad():
        inputs = spec.inputs(workload, dtype=dtype, device="cpu")
        if reason := spec.unsupported(inputs):
            raise ContractError(f"{spec.name} cannot take workload {workload!r} in {dtype}: {reason}")
        spec.implementations["triton"](**inputs)
    if not launches:
        raise ContractError(f"the wrapper of {spec.name} launches no kernel of {module.__name__}")
    return tuple(compile_launch(launch, capability=capability) for launch in launches)


@contextmanager
def _recorded(kernels: list[JITFunction]) -> Iterator[list[Launch]]:
    """Make `kernel[grid](...)` record its arguments and return at once, inside a `with` block."""
    launches: list[Launch] = []

    def recorder(kernel: JITFunction) -> Any:
        def run(*args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
            launches.append((kernel, dict(zip(kernel.arg_names, args, strict=False)) | kwargs))

        return run

    for kernel in kernels:
        kernel.run = recorder(kernel)
    try:
        yield launches
    finally:
        for kernel in kernels:
            del kernel.run


def compile_launch(launch: Launch, *, capability: int) -> CompiledLaunch:
    """Compile one launch as Triton would specialise it: constants for 1 and None, alignment for multiples of 16.

    Raises ContractError for an argument of unknown type.
    """
    kernel, arguments = launch
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for index, parameter in enumerate(kernel.params):
        value = arguments.get(parameter.name, parameter.default)
        number = value.data_ptr() if isinstance(value, Tensor) else value
        specialised = isinstance(number, int) and not isinstance(number, bool) and not parameter.do_not_specialize
        is_one = specialised and not isinstance(value, Tensor) and value == 1
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        else:
            signature[parameter.name] = _type_name(value)
            if specialised and number % 16 == 0:
                attributes[(index,)] = _ALIGNED
    options = {name: value for name, value in arguments.items() if name not in kernel.arg_names}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    usage = _resource_usage(compiled.asm["cubin"])
    return CompiledLaunch(
        kernel=kernel.__name__,
        registers=usage["REG"],
        stack_bytes=usage["STACK"],
        local_bytes=usage["LOCAL"],
        # From the metadata: the binary does not show shared memory that a launch requests.
        shared_bytes=compiled.metadata.shared,
        tensor_core_instructions=len(_TENSOR_CORE.findall(compiled.asm["ptx"])),
        ptx=compiled.asm["ptx"],
    )


def _type_name(value: Any) -> str:
    if isinstance(value, Tensor) and value.dtype in _POINTERS:
        return _POINTERS[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    if isinstance(value, float):
        return "fp32"
    raise ContractError(f"a kernel argument has unknown type {getattr(value, 'dtype', type(value).__name__)}")


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """Return the numbers that cuobjdump prints for the one function in `cubin`: REG, STACK, LOCAL and others."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.is_file():
        raise HostError(f"this Triton has no cuobjdump ({tool}); install the triton wheel from the package index")
    with scratch_folder() as folder:
        file = folder / "kernel.cubin"
        file.write_bytes(cubin)
        listing = subprocess.run(
            [tool, "-res-usage", file], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", listing)}
