"""Files that the kernel offers in /proc and /sys; other systems lack them, and a container may hide them.

Units    _bytes bytes
"""

from __future__ import annotations

from pathlib import Path


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file; none where it is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def status_bytes(process: Path = Path("/proc/self")) -> dict[str, int]:
    """Return the sizes in a process's `status`, by field ("VmRSS", "VmHWM"); empty where it cannot be read."""
    return kilobytes(process / "status")


def kilobytes(path: Path) -> dict[str, int]:
    """Return the sizes in a file whose lines read "Name:  123 kB", in bytes by name; empty where it cannot be read."""
    entries = (line.split() for line in lines_of(path))
    return {entry[0].rstrip(":"): int(entry[1]) * 1024 for entry in entries if entry[2:] == ["kB"]}
