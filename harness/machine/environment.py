"""Where and with what a case ran. A record without it is not written.

Units    _bytes bytes
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil
import torch

import arvbench
from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.machine.nvml import GpuProbe, probe_gpu
from arvbench.results.schema import Environment

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

_MEASURING_FOLDERS = ("adapters", "harness", "kernels", "results")
"""Parts whose source can change a measurement. Reports only read records: editing one must not measure again."""
_MEASURING_SUFFIXES = (".py", ".safetensors")


def read_environment(device: torch.device, probe: GpuProbe | None = None) -> Environment:
    """Describe this machine, these libraries and this source as they are now. `probe` overrides the device's own.

    The GPU is read first: called after work, it is then still as it was under that work.
    """
    probe = probe or probe_gpu(device)
    gpu = probe.read() if probe else None
    commit, dirty = _git_state()
    return Environment(
        arvbench_version=arvbench.__version__,
        source_sha256=source_sha256(),
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
    """Whether fp32 matrix products or convolutions on `device` may run in TF32 under this process's settings."""
    if device.type != "cuda":
        return False
    return torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32


@cache
def source_sha256() -> str:
    """Digest of this package, as `digest_of_source` makes it; once per process, like the import of the source."""
    return digest_of_source(Path(arvbench.__file__).parent)


def digest_of_source(package: Path) -> str:
    """Digest of every file of a package folder that can change a measurement, names included."""
    files = [(path.name, path) for path in package.glob("*.py")]
    for folder in _MEASURING_FOLDERS:
        # Path.rglob does not follow the links of a checkout's src/arvbench, so start behind them.
        start = (package / folder).resolve()
        found = [path for path in start.rglob("*") if path.suffix in _MEASURING_SUFFIXES]
        files += [(f"{folder}/{path.relative_to(start)}", path) for path in found]
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


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
    """Model name of the processor; Linux keeps it in /proc/cpuinfo, other systems in platform."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _git_state() -> tuple[str | None, bool | None]:
    """(commit, dirty) of the checkout that this package runs from; None outside one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None, None
    commit = _git(checkout, "rev-parse", "HEAD")
    changes = _git(checkout, "status", "--porcelain")
    return commit, None if changes is None else bool(changes)


def _git(checkout: Path, *arguments: str) -> str | None:
    """Output of a git command; None where git is missing or refuses (no commit yet, another owner)."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(checkout), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
