"""torch.compile of an operation's reference: a further implementation of every operation, by the same contract.

Nothing is imported, nor compiled, before a case asks for it. torch compiles at the first call, for its sizes; from a
second set of sizes on for all sizes. What cannot be compiled is an error that says so: there is no silent return to the
reference.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

from arvbench.errors import HostError

COMPILED = "compiled"
"""Name of the implementation, in cases and in records."""
BACKEND = "inductor"
"""Compiler behind torch.compile."""
_MOST = 4096
"""Compilations of one operation in one process; torch stops at eight and then runs what it was given as it is."""
_FROM_THE_COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx")


def compiled(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Return `reference`, compiled when it is called. Raises HostError where torch cannot compile at all."""
    try:
        function = _compiled(reference, BACKEND)
    except RuntimeError as error:
        raise HostError(f"torch.compile cannot be used: {_one_line(error)}") from error

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not type(error).__module__.startswith(_FROM_THE_COMPILER):
                raise
            raise HostError(f"torch.compile cannot compile {name}: {_one_line(error)}") from error

    return call


def require_compiler(device_type: str) -> None:
    """Raise HostError unless what torch.compile needs for devices of `device_type` is there: on a CPU, C++."""
    if device_type == "cuda" or BACKEND != "inductor":
        return  # CUDA: Triton, which the caller has asked for
    command = os.environ.get("CXX") or "g++"
    if shutil.which(command) is None:
        raise HostError(
            f"torch.compile needs a C++ compiler on the CPU, and there is no {command}: install g++, name yours in "
            "CXX, or choose another implementation"
        )


@cache
def _compiled(reference: Callable[..., Any], backend: str) -> Callable[..., Any]:
    import torch
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, _MOST)
    function: Callable[..., Any] = torch.compile(reference, backend=backend)
    return function


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
