"""The contract of a kernel, and its check against the reference, shared by tests and benchmarks.

Shapes   a workload gives its sizes by letter; the kernel's spec.py explains the letters
Units    _bytes bytes; flops floating-point operations, a multiply-add counts as two
Judge    the reference on the same inputs widened to fp64; every reference computes in fp64 on fp64 inputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.kernels.backends import Implementation
from arvbench.registry import Registry

Operation = Callable[..., Tensor]
Shape = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tol:
    """Largest difference from the judge, element by element: atol + rtol * |judge|."""

    atol: float
    rtol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One set of sizes that the kernel is tested and timed on."""

    shape: Shape
    interpret: bool = False
    """Small enough for Triton's interpreter, which takes about a millisecond per program."""
    compile: bool = False
    """Compiled ahead of time for every GPU generation, to check registers and shared memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper limits on the resources of compiled code; spilled registers are never allowed."""

    registers: int
    """Per thread."""
    shared_bytes: int
    """Per block."""


class MakeInputs(Protocol):
    """Function that builds the keyword arguments of one call, random numbers from the CPU `generator` alone."""

    def __call__(
        self, shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """One operation, as a table entry for tests, benchmarks and reports.

    `reference` and `fast` are "module:attribute", imported on first use: the reference needs no Triton.
    """

    name: str
    reference: str
    fast: str
    make_inputs: MakeInputs
    workloads: Mapping[str, Workload]
    tolerance: Mapping[torch.dtype, Tol]
    """Accepted dtype -> largest difference from the judge."""
    flops: Callable[[Shape], int]
    bytes_moved: Callable[[Shape, int], int]
    """Compulsory traffic of (shape, bytes per element): every operand once."""
    limits: Limits

    @property
    def implementations(self) -> Registry[Operation]:
        """Name of an implementation -> its function."""
        return Registry(f"implementation of {self.name}", {"torch": self.reference, "triton": self.fast})

    def inputs(self, workload: str, *, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
        """Return the keyword arguments of `workload`, equal numbers on every device and in every call.

        Raises UserError for an unknown workload.
        """
        if workload not in self.workloads:
            raise UserError(f"kernel {self.name} has no workload {workload!r}; known: {', '.join(self.workloads)}")
        shape = self.workloads[workload].shape
        generator = torch.Generator().manual_seed(0)
        return self.make_inputs(shape, dtype=dtype, device=torch.device(device), generator=generator)


class Agreement(NamedTuple):
    """Outcome of one comparison with the judge."""

    ok: bool
    max_abs_err: float


@torch.no_grad()
def max_abs_err(
    spec: KernelSpec,
    workload: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    implementation: Implementation = "triton",
) -> Agreement:
    """Compare `implementation` with the judge on `workload`; NaN never agrees.

    Raises UserError for a dtype without a tolerance, ContractError when the result differs from the reference's in
    shape, dtype or device.
    """
    if dtype not in spec.tolerance:
        raise UserError(f"kernel {spec.name} does not state a tolerance for {dtype}")
    inputs = spec.inputs(workload, dtype=dtype, device=device)
    reference = spec.implementations["torch"]
    result, expected = spec.implementations[implementation](**inputs), reference(**inputs)
    for attribute in ("shape", "dtype", "device"):
        if getattr(result, attribute) != getattr(expected, attribute):
            raise ContractError(
                f"{spec.name} ({implementation}) returned {attribute} {getattr(result, attribute)}, the reference "
                f"{getattr(expected, attribute)}, on workload {workload!r}"
            )
    widened = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    judge = reference(**widened)
    error = (result.double() - judge).abs()
    tol = spec.tolerance[dtype]
    return Agreement(bool((error <= tol.atol + tol.rtol * judge.abs()).all()), float(error.max()))


def verified_call(
    spec: KernelSpec, workload: str, *, dtype: torch.dtype, device: torch.device | str, implementation: Implementation
) -> Callable[[], Tensor]:
    """Return a call that is ready to be timed, or raise ContractError: a wrong kernel never gets a time."""
    ok, err = max_abs_err(spec, workload, dtype=dtype, device=device, implementation=implementation)
    if not ok:
        raise ContractError(
            f"{spec.name} ({implementation}) is wrong on workload {workload!r} in {dtype}: max |err| {err:.2e}, "
            f"allowed {spec.tolerance[dtype]}; it is not timed"
        )
    operation = spec.implementations[implementation]
    inputs = spec.inputs(workload, dtype=dtype, device=device)

    @torch.no_grad()
    def call() -> Tensor:
        return operation(**inputs)

    return call
