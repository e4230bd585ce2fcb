"""The contract of a kernel, and its check against the reference, shared by tests and benchmarks.

Shapes   a workload gives its sizes by letter; the kernel's spec.py explains the letters
Units    _bytes bytes; flops floating-point operations, a multiply-add counts as two
Outputs  what an operation returns, one tensor or a tuple, and the operands that it writes in place
Judge    of floats the reference on the same inputs widened to fp64 (every reference computes in fp64 on fp64 inputs);
         of integers, such as token ids, the reference on the same inputs, and they are equal
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from arvbench.errors import ContractError, UnknownName, UserError
from arvbench.kernels.backends import Implementation
from arvbench.kernels.compiled import COMPILED, compiled
from arvbench.registry import Registry

Result = Tensor | tuple[Tensor, ...]
Operation = Callable[..., Any]
"""Function of named operands that returns a `Result`, writes some operands in place, or both."""
Outputs = dict[str, Tensor]
"""Place in the returned tuple ("0", "1") or name of a written operand -> its values after the call."""
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
    tensor_cores: bool = False
    """True when at least one launch on 16-bit operands multiplies matrices on tensor cores."""


class MakeInputs(Protocol):
    """Function that builds the keyword arguments of one call, random numbers from the CPU `generator` alone."""

    def __call__(
        self, shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """One operation, as a table entry for tests, benchmarks and reports.

    `reference`, `fast` and `others` are "module:attribute", imported on first use: the reference needs no Triton.
    """

    name: str
    reference: str
    fast: str
    make_inputs: MakeInputs
    workloads: Mapping[str, Workload]
    tolerance: Mapping[torch.dtype, Tol]
    """Accepted dtype -> largest difference from the judge, for every output of floats."""
    flops: Callable[[Shape], int]
    bytes_moved: Callable[[Shape, int], int]
    """Compulsory traffic of (shape, bytes per element): every operand once."""
    limits: Limits
    others: Mapping[str, str] = field(default_factory=dict)
    """Further implementations by name, under the same contract."""
    mutates: tuple[str, ...] = ()
    """Operands that every implementation writes in place, and no others."""
    output_tolerance: Mapping[str, Mapping[torch.dtype, Tol]] = field(default_factory=dict)
    """Output (see `Outputs`) -> its own tolerances."""
    supports: Callable[..., str | None] | None = None
    """Function of the operands of a call, by name: the reason why `fast` cannot take them, None if it can. Without one
    `fast` takes every dtype of `tolerance`.
    """
    gradient: bool = False
    """True when `fast` passes gradients to its operands; other operations train with their reference."""
    fallback: str = "torch"
    """Implementation that takes the operands that `fast` cannot."""

    @property
    def implementations(self) -> Registry[Operation]:
        """Name of an implementation -> its function."""
        table = {"torch": self.reference, "triton": self.fast, **self.others}
        return Registry(f"implementation of {self.name}", table)

    def implementation(self, name: str) -> Operation:
        """Return the implementation `name`, "compiled" (arvbench.kernels.compiled) among them.

        Raises UnknownName, which lists the known ones, or HostError where it cannot be used.
        """
        self.check_implementation(name)
        return compiled(self.name, self.implementations["torch"]) if name == COMPILED else self.implementations[name]

    def check_implementation(self, name: str) -> None:
        """Raise UnknownName unless there is an implementation `name`."""
        known = [*self.implementations, COMPILED]
        if name not in known:
            raise UnknownName(self.implementations.kind, name, known)

    def unsupported(self, operands: Mapping[str, Any]) -> str | None:
        """Return why the Triton kernel cannot take `operands`, None if it can."""
        if self.supports:
            return self.supports(**operands)
        floats = (o.dtype for o in operands.values() if isinstance(o, Tensor) and o.is_floating_point())
        return next((str(dtype) for dtype in floats if dtype not in self.tolerance), None)

    def inputs(self, workload: str, *, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
        """Return the keyword arguments of `workload`, equal numbers on every device and in every call.

        Raises UserError for an unknown workload.
        """
        if workload not in self.workloads:
            raise UserError(f"kernel {self.name} has no workload {workload!r}; known: {', '.join(self.workloads)}")
        shape = self.workloads[workload].shape
        generator = torch.Generator().manual_seed(0)
        return self.make_inputs(shape, dtype=dtype, device=torch.device(device), generator=generator)


_PIECE = 2**20
"""Values that are compared at once."""


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
    """Compare every output of `implementation` with the judge on `workload`.

    NaN agrees only where the operation leaves an operand as it was. Raises UserError for a dtype without a tolerance,
    ContractError when an output differs from the reference's in number, shape, dtype or device, or when an operand is
    written that `mutates` does not name.
    """
    if dtype not in spec.tolerance:
        raise UserError(f"kernel {spec.name} does not state a tolerance for {dtype}")
    # Fresh operands for each: some are written.
    inputs, expected_inputs, judge_inputs = (spec.inputs(workload, dtype=dtype, device=device) for _ in range(3))
    widened = {name: _widened(value) for name, value in judge_inputs.items()}
    where = f"{spec.name} ({implementation})", f"on workload {workload!r}"
    results = _outputs(spec, spec.implementation(implementation)(**inputs), inputs)
    expected = _outputs(spec, spec.implementations["torch"](**expected_inputs), expected_inputs)
    judges = _outputs(spec, spec.implementations["torch"](**widened), widened)
    _check_form(results, expected, where)
    _check_operands(spec, inputs, judge_inputs, where)
    agreements = [
        _agreement(
            result,
            judges[name] if result.is_floating_point() else expected[name],
            spec.output_tolerance.get(name, spec.tolerance)[dtype],
            may_be_nan=name in spec.mutates,
        )
        for name, result in results.items()
    ]
    errors = [agreement.max_abs_err for agreement in agreements]
    return Agreement(all(agreement.ok for agreement in agreements), max(errors, key=lambda e: (e != e, e)))


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _outputs(spec: KernelSpec, result: Result | None, inputs: Mapping[str, Any]) -> Outputs:
    returned = () if result is None else (result,) if isinstance(result, Tensor) else result
    written = {name: inputs[name] for name in spec.mutates if inputs[name] is not None}
    return {str(place): value for place, value in enumerate(returned)} | written


def _check_form(results: Outputs, expected: Outputs, where: tuple[str, str]) -> None:
    if len(results) != len(expected):
        raise ContractError(f"{where[0]} has {len(results)} outputs, the reference {len(expected)}, {where[1]}")
    for name, result in results.items():
        for attribute in ("shape", "dtype", "device"):
            ours, theirs = getattr(result, attribute), getattr(expected[name], attribute)
            if ours != theirs:
                output = f" as output {name}" if len(results) > 1 else ""
                raise ContractError(
                    f"{where[0]} returned {attribute} {ours}{output}, the reference {theirs}, {where[1]}"
                )


def _check_operands(
    spec: KernelSpec, after: Mapping[str, Any], before: Mapping[str, Any], where: tuple[str, str]
) -> None:
    for name, value in after.items():
        if not isinstance(value, Tensor) or name in spec.mutates:
            continue
        if not torch.allclose(value, before[name], rtol=0, atol=0, equal_nan=True):
            raise ContractError(f"{where[0]} wrote operand {name}, which `mutates` does not name, {where[1]}")


def _agreement(result: Tensor, judge: Tensor, tol: Tol, *, may_be_nan: bool) -> Agreement:
    if result.numel() == 0:
        return Agreement(True, 0.0)
    if not result.is_floating_point():
        differs = result != judge
        largest = (result.double() - judge.double()).abs().max()
        return Agreement(not bool(differs.any()), float(largest))
    # In pieces that stay in a processor's cache: a whole cache of keys in float64, four times over, takes gigabytes.
    pieces = zip(result.reshape(-1).split(_PIECE), judge.reshape(-1).split(_PIECE), strict=True)
    wrong, errors = zip(*(_differences(*piece, tol, may_be_nan=may_be_nan) for piece in pieces), strict=True)
    return Agreement(not bool(torch.stack(wrong).any()), float(torch.stack(errors).max()))


def _differences(result: Tensor, judge: Tensor, tol: Tol, *, may_be_nan: bool) -> tuple[Tensor, Tensor]:
    """Return whether any value is out of tolerance, and the largest difference."""
    result = result.double()
    same = result == judge
    if may_be_nan:
        same |= result.isnan() & judge.isnan()
    # Equal infinities have no difference.
    error = torch.where(same, 0.0, (result - judge).abs())
    return ~(same | (error <= tol.atol + tol.rtol * judge.abs())).all(), error.max()


def verified_call(
    spec: KernelSpec, workload: str, *, dtype: torch.dtype, device: torch.device | str, implementation: Implementation
) -> Callable[[], Result | None]:
    """Return a call that is ready to be timed, or raise ContractError: a wrong kernel never gets a time.

    Operands that the operation writes are those of the call before, so their values may drift.
    """
    ok, err = max_abs_err(spec, workload, dtype=dtype, device=device, implementation=implementation)
    if not ok:
        raise ContractError(
            f"{spec.name} ({implementation}) is wrong on workload {workload!r} in {dtype}: max |err| {err:.2e}, "
            f"allowed {spec.tolerance[dtype]}; it is not timed"
        )
    operation = spec.implementation(implementation)
    inputs = spec.inputs(workload, dtype=dtype, device=device)

    @torch.no_grad()
    def call() -> Result | None:
        result: Result | None = operation(**inputs)
        return result

    return call
