"""A warm process without heavy imports, for tests: a child prints what it gets and then does what its argument says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from arvbench.harness.machine.forks import serve
from arvbench.harness.machine.processes import receive


def work(arguments: list[str], fds: list[int]) -> int:
    """Become a warm process, or be a parrot."""
    if arguments != ["serve"]:
        return repeat(arguments, fds)
    os.dup2(fds[0], 0)
    os.close(fds[0])
    serve(lambda: None, repeat)
    return 0


def repeat(arguments: list[str], fds: list[int]) -> int:
    """Print the message, the process, group and session ids and the threads; then end, or wait for the end."""
    message = receive().decode().strip()
    print(message, os.getpid(), os.getpgrp(), os.getsid(0), threading.active_count())
    for fd in fds:
        os.write(fd, b"told\n")
        os.close(fd)
    match arguments:
        case ["exit", code]:
            return int(code)
        case ["raise"]:
            raise RuntimeError("broken on purpose")
        case ["die"]:
            os.kill(os.getpid(), signal.SIGABRT)
        case ["wait"]:
            sys.stdout.flush()
            helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print(helper.pid, flush=True)
            time.sleep(600)
    return 0


if __name__ == "__main__":
    serve(lambda: None, work)
