"""Number of CPU cores that this process may use.

A container may have the time of two cores on a machine with 64: most of 64 threads would then only wait.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

from arvbench.harness.machine.system_files import lines_of


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of physical cores, or fewer where affinity or a container's CPU quota allow fewer."""
    limits = [psutil.cpu_count(logical=False) or psutil.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    quota = _cpu_quota(cgroups)
    if quota is not None:
        limits.append(max(1, math.floor(quota)))
    return min(limits)


def _cpu_quota(cgroups: Path) -> float | None:
    """Return the container's CPU quota in cores (cgroup version 2, then 1); None without a limit."""
    version_2, version_1 = _words(cgroups / "cpu.max"), _words(cgroups / "cpu" / "cpu.cfs_quota_us")
    if len(version_2) == 2:
        quota, period = version_2
    elif len(version_1) == 1:
        quota, period = version_1[0], " ".join(_words(cgroups / "cpu" / "cpu.cfs_period_us"))
    else:
        return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:  # "max" and -1 stand for no limit
        return None
    return int(quota) / int(period)


def _words(path: Path) -> list[str]:
    return " ".join(lines_of(path)).split()
