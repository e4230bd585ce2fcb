"""Outcome of a case that ended with an exception."""

from __future__ import annotations

import errno
import traceback

import torch

from arvbench.errors import HostError, UserError
from arvbench.results.schema import CaseConfig, Failed, Status

_OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a memory object",
)
"""Texts of allocation errors in torch and the libraries below it that have no exception type of their own."""


def failed(error: Exception, case: CaseConfig) -> Failed:
    """Return the outcome of a case that ended with `error`."""
    detail = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        return Failed(status=Status.OOM, reason=_out_of_memory_reason(error, case), detail=detail)
    if isinstance(error, HostError):
        return Failed(status=Status.UNSUPPORTED, reason=one_line(str(error)), detail=detail)
    if isinstance(error, UserError):
        return Failed(status=Status.ERROR, reason=one_line(str(error)), detail=detail)
    return Failed(status=Status.ERROR, reason=one_line(f"{type(error).__name__}: {error}"), detail=detail)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return True when `error`, its cause or its context is a failed allocation."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if _is_allocation_failure(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _is_allocation_failure(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


def _out_of_memory_reason(error: Exception, case: CaseConfig) -> str:
    limit = f" within memory_limit_bytes {case.memory_limit_bytes}" if case.memory_limit_bytes else ""
    return one_line(f"out of memory on {case.device} at batch {case.batch}{limit}: {error}")


def one_line(text: str, limit: int = 400) -> str:
    """Return `text` without line breaks, cut at `limit` characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else f"{joined[: limit - 1]}…"
