"""Crash points, as SQLite tests them: every step that a writer asks of the system is numbered, and one ends badly.

A step is a call of the system that changes files or locks. `crash` forks a process that runs a writer, counts its steps
and, at one of them, dies before it, after it or in its middle (`os._exit`: nothing is cleaned up), or lets it fail with
an OSError.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from arvbench import files
from arvbench.errors import HostError, UserError

STEPS = ("open", "write", "fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "truncate", "ftruncate")
ENDINGS = ("before", "after", "ENOSPC", "EIO")
TORN = "torn"
"""Ending of a write in its middle; other steps have no middle, and end before."""
DIED, PASSED, REFUSED, WRONG, TOO_FEW = 9, 0, 3, 1, 4


def crash(writer: Callable[[], object], step: int, ending: str) -> int:
    """Run `writer` in a process in which step `step` (from 0) ends as `ending` says; return how it ended.

    DIED: at that step. PASSED: it went on after the failed step. REFUSED: it raised an error for the user. TOO_FEW: it
    has fewer steps.
    """
    child = os.fork()
    if child == 0:
        code = WRONG
        try:
            reached = _number_steps(step, ending)
            writer()
            code = PASSED if reached else TOO_FEW
        except (UserError, HostError):
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def crashes(prepare: Callable[[], object], writer: Callable[[], object], ending: str) -> Iterator[tuple[int, int]]:
    """Yield (step, how it ended) for each step of a writer, which runs after `prepare` each time."""
    for step in range(1000):
        prepare()
        found = crash(writer, step, ending)
        if found == TOO_FEW:
            assert step > 5, "the steps of the writer are not seen"
            return
        yield step, found
    raise AssertionError("a writer with a thousand steps")


def _number_steps(target: int, ending: str) -> list[int]:
    """Replace the system's calls in this process by ones that count; return a list that gets the target's number."""
    number, reached, opens, write = iter(range(1_000_000)), list[int](), (os.open, io.open), os.write

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            if call in opens and _for_reading(*arguments):
                return call(*arguments, **more)
            here = next(number) == target
            if here:
                reached.append(target)
            if here and ending == TORN and call is write:
                write(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if here and ending in ("before", TORN):
                os._exit(DIED)
            if here and ending != "after":
                code = getattr(errno, ending)
                raise OSError(code, os.strerror(code))
            result = call(*arguments, **more)
            if here:
                os._exit(DIED)
            return result

        return step

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    fcntl.flock = counted(fcntl.flock)
    io.open = builtins.open = counted(io.open)
    files._exchange = counted(files._exchange)
    return reached


def _for_reading(_path: object, mode: str | int = "r", *_rest: object) -> bool:
    """Return whether a file is opened for reading alone."""
    if isinstance(mode, int):
        return not mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return not set(mode) & set("wax+")
