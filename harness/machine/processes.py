"""Child processes that receive one message, find this package, and end with their parent.

Parent   `running` starts `python -m MODULE` and writes the message to its stdin, which stays open as long as it lives.
Child    `receive` reads the message; the end of stdin then means that the parent is gone, and the child ends too.

A child has a session and a process group of its own: a Ctrl-C in the terminal reaches only the parent, which then ends
the whole group. Nothing goes through a shell.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

import arvbench
from arvbench.exits import leave_at_once

_PR_SET_PDEATHSIG = 1
"""prctl(2) option: the signal to get when the parent dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """An interpreter, and the folder from which it imports the package arvbench."""

    executable: str
    package_root: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of the child beside ours, such as the devices that it may see."""

    def environment(self) -> dict[str, str]:
        """Return our environment and `variables`, with that folder first on the child's path."""
        paths = [str(self.package_root), os.environ.get("PYTHONPATH", "")]
        return os.environ | dict(self.variables) | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def this_python() -> Python:
    """Return the interpreter and the very package that run here."""
    return Python(executable=sys.executable, package_root=Path(arvbench.__file__).parent.parent)


@contextlib.contextmanager
def running(
    module: str,
    message: BaseModel,
    *,
    output: IO[Any],
    arguments: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    python: Python | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a child that runs `module`; when the block ends, its whole group is gone, whatever happened.

    `message` is one line of JSON on the child's stdin. `output` gets its stdout and stderr. The child keeps the file
    descriptors `pass_fds`. `python` runs it in place of our own interpreter and package.
    """
    python = python or this_python()
    # -P: the working directory must not be importable: a checkout has a folder `kernels`, which other packages seek.
    process = subprocess.Popen(
        [python.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=pass_fds,
        start_new_session=True,
        env=python.environment(),
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it died at once; its exit code says more
            process.stdin.write(message.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        # The group may outlive its leader, so it is killed even when the leader has ended.
        end_group(process.pid)
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def receive() -> bytes:
    """Return the parent's message, in the child; from now on this process group ends when the parent is gone."""
    message = sys.stdin.buffer.readline()
    leave_at_once()
    _die_with_parent(sys.stdin.fileno())
    return message


def _die_with_parent(stdin_fd: int) -> None:
    """End this process group when the parent is gone, whatever this process is doing then."""
    signal_at_parent_death(signal.SIGKILL)  # works even inside a long call that holds the interpreter's lock

    def watch() -> None:
        # Not through sys.stdin: its lock, held here for ever, would stop the interpreter from ending.
        while os.read(stdin_fd, 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent watcher", daemon=True).start()


def signal_at_parent_death(number: int) -> None:
    """Have the kernel send a signal when the thread that started this process ends; 0 for none. Only on Linux."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def end_group(leader: int) -> None:
    """Kill the process group of a child; nothing happens when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
