"""Environment of a case: machine, libraries and source. No record is written without it.

Units    _bytes bytes
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import psutil
import torch

import arvbench
from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.machine.installed import cpu_name, library_versions
from arvbench.harness.machine.nvml import GpuProbe, probe_gpu
from arvbench.harness.machine.source import method_sha256, source_sha256
from arvbench.results.schema import Environment


def read_environment(device: torch.device, probe: GpuProbe | None = None) -> Environment:
    """Describe this machine, its libraries and this package's source. `probe` replaces the device's own GPU probe.

    The GPU is read first: right after work, its clocks are still those under load.
    """
    probe = probe or probe_gpu(device)
    gpu = probe.read() if probe else None
    commit, dirty = _git_state()
    return Environment(
        arvbench_version=arvbench.__version__,
        source_sha256=source_sha256(),
        method_sha256=method_sha256(),
        git_commit=commit,
        git_dirty=dirty,
        python=platform.python_version(),
        libraries=library_versions(),
        os=f"{platform.system()} {platform.release()}",
        cpu=cpu_name(),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=gpu,
        cuda=torch.version.cuda,
        tf32=tf32_allowed(device),
    )


def tf32_allowed(device: torch.device) -> bool:
    """Return True when fp32 matrix products or convolutions on `device` may run in TF32, by torch's switches."""
    if device.type != "cuda":
        return False
    return torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32


def _git_state() -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout that this package runs from; (None, None) outside one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None, None
    commit = _git(checkout, "rev-parse", "HEAD")
    changes = _git(checkout, "status", "--porcelain")
    return commit, None if changes is None else bool(changes)


def _git(checkout: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None when git is missing or refuses (no commit yet, another owner)."""
    try:
        completed = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(checkout), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()
