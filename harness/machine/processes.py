"""Child processes that end with their parent, and an environment in which they find this package."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import arvbench

_PR_SET_PDEATHSIG = 1
"""prctl(2) option: the signal to get when the parent dies."""


def die_with_parent(stdin_fd: int) -> None:
    """End this process group when the parent is gone, whatever this process is doing then."""
    if sys.platform.startswith("linux"):
        import ctypes

        # Works even inside a long call that holds the interpreter's lock.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        # Not through sys.stdin: its lock, held here for ever, would stop the interpreter from ending.
        while os.read(stdin_fd, 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent watcher", daemon=True).start()


def worker_environment() -> dict[str, str]:
    """Our environment, with this very package first on the worker's path."""
    paths = [str(Path(arvbench.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker's group and reap the worker. The group may outlive its leader, so it is killed in any case."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
