"""State of files in the kernel's page cache: a cold one makes a load slower, whatever the code."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

PageCache = Literal["warm", "cold", "unknown"]
_WARM_SHARE = 0.99


def page_cache(files: Iterable[Path]) -> PageCache:
    """Return "warm" when all pages of the files are in memory, "cold" when some are not.

    "unknown" without files, where the system does not tell, and for files that this process may not write: of those
    Linux says that they are in memory, whether they are or not.
    """
    present = pages = 0
    for file in files:
        counted = _resident(file)
        if counted is None:
            return "unknown"
        present, pages = present + counted[0], pages + counted[1]
    if pages == 0:
        return "unknown"
    return "warm" if present >= _WARM_SHARE * pages else "cold"


def _resident(file: Path) -> tuple[int, int] | None:
    """Return the pages of a file that are in memory, and all its pages; None where that cannot be known."""
    if not os.access(file, os.W_OK):
        return None
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            pages = -(-len(mapped) // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * pages)()
            view = (ctypes.c_char * len(mapped)).from_buffer(mapped)
            refused = mincore(ctypes.byref(view), ctypes.c_size_t(len(mapped)), states)
            del view  # else the map cannot be closed
    except (OSError, ValueError, AttributeError):  # no file, an empty one, another system
        return None
    return None if refused else (sum(state & 1 for state in bytes(states)), pages)
