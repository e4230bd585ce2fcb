"""Pages of libraries in the resident set of a forked process.

A fork copies no page tables of files: its resident set would not count the libraries, and peaks and memory limits would
mean something else than in a process that imported them itself.

Units    addresses and lengths in bytes
"""

from __future__ import annotations

import array
import ctypes
import itertools
import mmap
from pathlib import Path

_POPULATE_READ = 22
"""madvise(2): MADV_POPULATE_READ, Linux 5.14 and later; others refuse it."""
_PRESENT = 1 << 63
"""Bit of an entry of /proc/PID/pagemap (kernel documentation, admin-guide/mm/pagemap)."""

Ranges = list[tuple[int, int]]
"""Address and length."""


def resident_file_ranges(proc: Path = Path("/proc/self")) -> Ranges:
    """Return the parts of mapped files that are in memory for this process; none where the kernel does not tell."""
    ranges: Ranges = []
    try:
        with (proc / "maps").open() as maps, (proc / "pagemap").open("rb") as pagemap:
            for line in maps:
                addresses, permissions, _, _, inode, *_ = line.split()
                if inode != "0" and permissions.startswith("r"):
                    start, end = (int(address, 16) for address in addresses.split("-"))
                    pagemap.seek(start // mmap.PAGESIZE * 8)
                    entries = array.array("Q", pagemap.read((end - start) // mmap.PAGESIZE * 8))
                    ranges += _present(start, entries)
    except OSError:
        return []
    return ranges


def _present(start: int, entries: array.array[int]) -> Ranges:
    """Return the ranges of pages that are present, of a mapping at `start`."""
    ranges, page = [], 0
    for present, run in itertools.groupby(entries, lambda entry: bool(entry & _PRESENT)):
        length = sum(1 for _ in run)
        if present:
            ranges.append((start + page * mmap.PAGESIZE, length * mmap.PAGESIZE))
        page += length
    return ranges


def make_resident(ranges: Ranges) -> None:
    """Map pages that are in memory anyway into this process too."""
    madvise = ctypes.CDLL(None).madvise
    for address, length in ranges:
        madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), _POPULATE_READ)
