"""What a kernel promises, and the one check of that promise that tests and benchmarks share.

Shapes   a case gives its sizes by letter; the letters are explained in the kernel's spec.py
Units    _bytes bytes; flops floating-point operations, a multiply-add counts two
Judge    the reference on the same inputs widened to fp64; every reference computes in fp64 when it is given fp64
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
    """Largest difference from the judge: atol + rtol * |judge|, element by element."""

    atol: float
    rtol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One set of sizes that the kernel is tested and timed on."""

    shape: Shape
    interpret: bool = False
    """Small enough for Triton's interpreter, which takes about a millisecond per program."""
    compile: bool = False
    """Compiled ahead of time for every GPU generation, where registers and shared memory are checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What compiled code may use. Spilled registers are never allowed."""

    registers: int
    """Per thread."""
    shared_bytes: int
    """Per block."""


class MakeInputs(Protocol):
    """Builds the keyword arguments of one call; draws from `generator`, which is on the CPU, and nothing else."""

    def __call__(
        self, shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """Everything that tests, benchmarks and reports know about one operation.

    `reference` and `fast` are "module:attribute", imported on first use: the reference needs no Triton.
    """

    name: str
    reference: str
    fast: str
    make_inputs: MakeInputs
    cases: Mapping[str, Workload]
    tolerance: Mapping[torch.dtype, Tol]
    """The dtypes that the kernel accepts, and how far it may be from the judge in each."""
    flops: Callable[[Shape], int]
    bytes_moved: Callable[[Shape, int], int]
    """Compulsory traffic of (shape, bytes per element): every operand once."""
    limits: Limits

    @property
    def implementations(self) -> Registry[Operation]:
        """Name of an implementation -> the function."""
        return Registry(f"implementation of {self.name}", {"torch": self.reference, "triton": self.fast})

    def case(self, name: str) -> Workload:
        """Return the case `name`, or raise UserError."""
        if name not in self.cases:
            raise UserError(f"kernel {self.name} has no case {name!r}; known: {', '.join(self.cases)}")
        return self.cases[name]

    def inputs(self, case: str, *, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
        """Keyword arguments of `case`; the same numbers on every device and in every call."""
        generator = torch.Generator().manual_seed(0)
        return self.make_inputs(self.case(case).shape, dtype=dtype, device=torch.device(device), generator=generator)


class Agreement(NamedTuple):
    """Outcome of one comparison with the judge."""

    ok: bool
    max_abs_err: float


@torch.no_grad()
def max_abs_err(
    spec: KernelSpec,
    case: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    implementation: Implementation = "triton",
) -> Agreement:
    """Compare `implementation` with the judge on `case`; NaN never agrees.

    Raises UserError for a dtype without a tolerance, ContractError when the result has another shape, dtype or device
    than the reference's.
    """
    if dtype not in spec.tolerance:
        raise UserError(f"kernel {spec.name} does not state a tolerance for {dtype}")
    inputs = spec.inputs(case, dtype=dtype, device=device)
    reference = spec.implementations["torch"]
    got = spec.implementations[implementation](**inputs)
    like = reference(**inputs)
    for what in ("shape", "dtype", "device"):
        if getattr(got, what) != getattr(like, what):
            raise ContractError(
                f"{spec.name} ({implementation}) returned {what} {getattr(got, what)}, the reference "
                f"{getattr(like, what)}, on case {case!r}"
            )
    judge = reference(**{name: v.double() if _is_float(v) else v for name, v in inputs.items()})
    error = (got.double() - judge).abs()
    tol = spec.tolerance[dtype]
    return Agreement(bool((error <= tol.atol + tol.rtol * judge.abs()).all()), float(error.max()))


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def verified_call(
    spec: KernelSpec, case: str, *, dtype: torch.dtype, device: torch.device | str, implementation: Implementation
) -> Callable[[], Tensor]:
    """Return a call that is ready to be timed, or raise ContractError: a wrong kernel never gets a time."""
    ok, err = max_abs_err(spec, case, dtype=dtype, device=device, implementation=implementation)
    if not ok:
        raise ContractError(
            f"{spec.name} ({implementation}) is wrong on case {case!r} in {dtype}: max |err| {err:.2e}, allowed "
            f"{spec.tolerance[dtype]}; it is not timed"
        )
    operation = spec.implementations[implementation]
    inputs = spec.inputs(case, dtype=dtype, device=device)

    @torch.no_grad()
    def call() -> Tensor:
        return operation(**inputs)

    return call
