"""The generation of GPU that a launch is configured for: the device's own, or the one that code is compiled for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DEFAULT = 90
_compiling_for: list[int] = []


def capability(device: torch.device) -> int:
    """Return the compute capability (90: sm_90) of `device`, of a CPU (where kernels are interpreted) sm_90."""
    if _compiling_for:
        return _compiling_for[-1]
    if device.type != "cuda":
        return DEFAULT
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@contextmanager
def compiling_for(capability: int) -> Iterator[None]:
    """Make every device one of `capability`, inside a `with` block."""
    _compiling_for.append(capability)
    try:
        yield
    finally:
        _compiling_for.pop()
