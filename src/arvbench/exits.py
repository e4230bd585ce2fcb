"""The end of a process: its memory is left to the system."""

from __future__ import annotations

import atexit
import gc


def leave_at_once() -> None:
    """Have this process end without looking through its objects.

    The interpreter would do so several times, for a second where torch is imported, and a parent or a user waits.
    """
    atexit.register(gc.freeze)
