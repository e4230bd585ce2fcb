"""Names and versions that identify a machine, read without torch: a plan of a run costs less than that import."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.machine.source import source_sha256
from arvbench.harness.machine.system_files import lines_of
from arvbench.results.machine import machine_identity

LIBRARIES = (
    "torch",
    "torchvision",
    "triton",
    "torch-fidelity",
    "numpy",
    "scikit-learn",
    "pillow",
    "safetensors",
    "pydantic",
)
"""Distributions that can change a number."""


def library_versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return distribution -> version of those that are installed."""
    versions = {}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """Return the model name of the processor, from /proc/cpuinfo on Linux, else from `platform`."""
    lines = lines_of(Path("/proc/cpuinfo"))
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_identity() -> dict[str, Any]:
    """Return the identity of this machine for cases on the CPU (`Environment.identity`)."""
    return machine_identity(source_sha256(), library_versions(), cpu_name(), usable_cores(), None)
