"""Ctrl-C, heard once and remembered.

A library that is being imported may turn KeyboardInterrupt into an error of its own; the program then still ends as
interrupted.
"""

from __future__ import annotations

import signal
from types import FrameType

EXIT_INTERRUPTED = 130

_heard: list[int] = []


def listen() -> None:
    """Remember Ctrl-C from now on, and raise KeyboardInterrupt as before; not where it is ignored or handled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)


def stop_listening() -> None:
    """Leave Ctrl-C to the system: the work is done, and there is nothing to say about its end."""
    if signal.getsignal(signal.SIGINT) is _hear:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted() -> bool:
    """Return whether Ctrl-C was heard in this process."""
    return bool(_heard)


def _hear(number: int, frame: FrameType | None) -> None:
    _heard.append(number)
    signal.default_int_handler(number, frame)
