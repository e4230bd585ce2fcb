"""The kernels of one sampler, chosen by backend and device (`arvbench.kernels.backends`), call by call where needed.

A missing Triton is an error rather than a silent fallback, and so is an environment that would run the kernels in
Triton's interpreter unasked. Operands that a kernel cannot take, or that need more shared memory than the GPU has, go
to the implementation that its spec names, and `KernelSet.fallbacks` says so.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import BoundArguments, signature
from typing import Any

import torch
from torch import Tensor

from arvbench.errors import HostError, UserError
from arvbench.kernels import KERNELS
from arvbench.kernels.backends import BACKENDS, Kernels, backend_named
from arvbench.kernels.compiled import COMPILED, require_compiler
from arvbench.kernels.contract import KernelSpec, Operation
from arvbench.kernels.interpreter import enlarge_blocks, quicken_interpreter

Sizes = tuple[tuple[str, torch.Size, torch.dtype], ...]
"""Name, shape and dtype of every tensor among the operands of a call."""


@dataclass(frozen=True, slots=True)
class KernelSet:
    """The kernels that one sampler calls, as attributes: `kernels.adaln_residual(x, gate, branch)`."""

    names: Mapping[str, str]
    """Operation -> implementation, for the record."""
    operations: Mapping[str, Operation]
    fallbacks: dict[str, str] = field(default_factory=dict)
    """Operation -> implementation that took operands which the one in `names` cannot, and why; calls add to it."""

    def described(self) -> dict[str, str]:
        """Return operation -> implementation, with the one that took other operands and the reason: for the record."""
        return {name: "; ".join(filter(None, (used, self.fallbacks.get(name)))) for name, used in self.names.items()}

    def replacing(self, operation: str, by: Operation, *, name: str) -> KernelSet:
        """Return these kernels with another implementation, `name`, of one operation."""
        names, operations = {**self.names, operation: name}, {**self.operations, operation: by}
        return KernelSet(names=names, operations=operations, fallbacks=dict(self.fallbacks))

    def trainable(self) -> KernelSet:
        """Return these kernels where they pass gradients, and references for all other operations."""
        others = {name: spec for name, spec in KERNELS.items() if self.names.get(name) != "torch"}
        lacking = [name for name, spec in others.items() if not spec.gradient or self.names.get(name) == COMPILED]
        references = {name: KERNELS[name].implementations["torch"] for name in lacking}
        return KernelSet(
            names={**self.names, **dict.fromkeys(lacking, "torch")},
            operations={**self.operations, **references},
            fallbacks=self.fallbacks,
        )

    def __getattr__(self, operation: str) -> Operation:
        # Python calls this only for names that are not fields. copy and pickle ask an instance without fields for
        # underscored names.
        if not operation.startswith("_") and operation in self.operations:
            return self.operations[operation]
        raise AttributeError(f"no kernel {operation!r}; known: {', '.join(KERNELS)}")


def select(
    backend: str,
    device: torch.device | str,
    kernels: Kernels = "backend",
    *,
    choices: Mapping[str, str] | None = None,
) -> KernelSet:
    """Return the kernels of `backend` on `device`; "interpreter" needs `interpret_kernels` before.

    `choices`: operation -> another implementation. Raises UnknownName for an unknown backend, operation or
    implementation, HostError when Triton or a compiler is needed and cannot be used, UserError when the interpreter is
    asked for on another device than the CPU or of a backend without Triton kernels, or a choice of such a backend.
    """
    choices = choices or {}
    device_type = torch.device(device).type
    default = _default(backend, device_type, kernels)
    check_choices(backend, choices)
    fallbacks: dict[str, str] = {}
    names, operations = {}, {}
    for name, spec in KERNELS.items():
        # An operation without the backend's implementation has the reference.
        lacking = default not in spec.implementations and default != COMPILED
        names[name] = choices.get(name) or ("torch" if lacking else default)
    _check_usable(names, default, backend, device_type)
    for name, spec in KERNELS.items():
        guarded = names[name] == "triton"
        operations[name] = _Guarded(spec, fallbacks) if guarded else spec.implementation(names[name])
    return KernelSet(names=names, operations=operations, fallbacks=fallbacks)


def _default(backend: str, device_type: str, kernels: Kernels) -> str:
    """Return the implementation of operations for which none is chosen; errors as `select`."""
    if kernels == "interpreter":
        _check_interpretable(backend, device_type)
        _require_triton(backend)
        if not _interpreted():
            raise HostError(f"Triton's interpreter must be asked for before Triton is imported: set {INTERPRET}=1")
        quicken_interpreter()
        return "triton"
    if kernels == COMPILED:
        if backend_named(backend).official:
            raise UserError(f"the {backend} backend runs the references: they are compiled with another backend")
        return COMPILED
    default = backend_named(backend).implementation(device_type)
    if default == "triton":
        _require_triton(backend)
        _refuse_interpreter()
    return default


def check_choices(backend: str, choices: Mapping[str, str]) -> None:
    """Raise UnknownName or UserError for choices that no machine could run."""
    if choices and backend_named(backend).official:
        raise UserError(f"the {backend} backend runs the reference of every operation: choose kernels with another one")
    for operation, name in choices.items():
        KERNELS[operation].check_implementation(name)


def _check_usable(names: Mapping[str, str], default: str, backend: str, device_type: str) -> None:
    """Raise HostError for an implementation that cannot run on devices of `device_type`."""
    if COMPILED in names.values():
        require_compiler(device_type)
        if device_type == "cuda":
            _require_triton(backend)
    chosen = [name for name, used in names.items() if used == "triton"]
    if chosen and default != "triton":
        if device_type != "cuda":
            raise HostError(
                f"the Triton kernel of {chosen[0]} needs CUDA, not {device_type}: choose torch or {COMPILED}"
            )
        _require_triton(backend)
        _refuse_interpreter()


class _Guarded:
    """A Triton kernel that hands operands which it cannot take to another implementation, and notes it.

    It cannot take what its spec says, nor what asks for more of the GPU than it has: a launch tells that, and starts
    nothing. The other implementation then begins anew, so at the first call of each size the operands that the
    operation writes are kept.
    """

    def __init__(self, spec: KernelSpec, fallbacks: dict[str, str]) -> None:
        self.spec, self.fallbacks = spec, fallbacks
        self.fast, self.other = spec.implementations["triton"], spec.implementations[spec.fallback]
        self.signature = signature(self.fast)
        self.fits: dict[Sizes, str | None] = {}
        """Sizes that were launched -> the reason why the GPU could not, None if it could."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        operands = self.signature.bind(*args, **kwargs)
        operands.apply_defaults()
        reason = self.spec.unsupported(operands.arguments)
        if reason is None:
            sizes = _sizes(operands.arguments)
            if sizes not in self.fits:
                return self._first(sizes, operands)
            reason = self.fits[sizes]
        if reason is None:
            return self.fast(*args, **kwargs)
        return self._elsewhere(reason, operands)

    def _first(self, sizes: Sizes, operands: BoundArguments) -> Any:
        written = [operands.arguments[name] for name in self.spec.mutates]
        kept = [(place, place.clone()) for place in written if isinstance(place, Tensor)]
        try:
            result = self.fast(*operands.args, **operands.kwargs)
        except Exception as error:
            reason = _out_of_resources(error)
            if reason is None:
                raise
            for place, before in kept:
                place.copy_(before)
        else:
            self.fits[sizes] = None
            return result
        self.fits[sizes] = reason
        return self._elsewhere(reason, operands)

    def _elsewhere(self, reason: str, operands: BoundArguments) -> Any:
        dtype = next((str(o.dtype) for o in operands.arguments.values() if isinstance(o, Tensor)), "")
        self.fallbacks.setdefault(self.spec.name, f"{self.spec.fallback}: {reason} ({dtype})")
        return self.other(*operands.args, **operands.kwargs)


def _sizes(operands: Mapping[str, Any]) -> Sizes:
    return tuple((name, o.shape, o.dtype) for name, o in operands.items() if isinstance(o, Tensor))


def _out_of_resources(error: Exception) -> str | None:
    """Return what a launch asked for beyond the GPU's; None for another error."""
    # Triton is imported where this error comes from.
    errors = sys.modules.get("triton.runtime.errors")
    if errors is None or not isinstance(error, errors.OutOfResources):
        return None
    return f"needs {error.required} of {error.name}, this GPU has {error.limit}"


INTERPRET = "TRITON_INTERPRET"


def interpret_kernels(backend: str, device: torch.device | str = "cpu", *, large_blocks: bool = False) -> None:
    """Make this process run its Triton kernels in Triton's interpreter, from now to its end.

    With `large_blocks` attention to a long context is computed in larger blocks than on a GPU, so that a whole model of
    official size takes minutes.

    Raises UserError unless `backend` has Triton kernels and `device` is the CPU, HostError when Triton has been
    imported before (it decides then whether its functions are interpreted) or cannot be used.
    """
    _check_interpretable(backend, torch.device(device).type)
    if not _interpreted() and "triton" in sys.modules:
        raise HostError("kernels cannot be interpreted any more, Triton is imported already: ask in a fresh process")
    os.environ[INTERPRET] = "1"
    _require_triton(backend)
    quicken_interpreter()
    if large_blocks:
        enlarge_blocks()


def _interpreted() -> bool:
    # Triton reads this variable when a kernel is imported, and knows more words for "on" than for "off".
    return os.environ.get(INTERPRET, "").lower() not in ("", "0", "false", "off", "no", "n")


def _check_interpretable(backend: str, device_type: str) -> None:
    if "triton" not in (backend_named(backend).cuda, backend_named(backend).elsewhere):
        raise UserError(f"the {backend} backend has no Triton kernels for the interpreter to run")
    if device_type != "cpu":
        raise UserError(f"Triton's interpreter runs kernels on the CPU, not on {device_type}: choose device cpu")


def _refuse_interpreter() -> None:
    if _interpreted():
        raise HostError(f"{INTERPRET} is set, so kernels would run in Triton's interpreter; unset it")


OLDEST_TRITON = (3, 0)


def _require_triton(backend: str) -> None:
    without = " or ".join(repr(name) for name, other in BACKENDS.items() if other.cuda != "triton")
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        raise HostError(
            f"the {backend} backend needs Triton on CUDA ({error}); install triton or choose backend {without}"
        ) from error
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        raise HostError(
            f"the {backend} backend needs Triton {oldest} or newer, this is {triton.__version__}; upgrade triton or "
            f"choose backend {without}"
        )
