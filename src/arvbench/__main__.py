"""Program `arvbench`, also as `python -m arvbench`: Ctrl-C is heard before anything slow is imported."""

from __future__ import annotations

import sys

from arvbench.exits import leave_at_once
from arvbench.interrupts import EXIT_INTERRUPTED, interrupted, listen, stop_listening


def main() -> int:
    """Run the command line; return its exit code."""
    listen()
    leave_at_once()
    code = None
    try:
        for stream in (sys.stdout, sys.stderr):
            # Names of files are bytes, and a terminal may have another encoding: neither ends a run.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from arvbench.harness.cli import main as run

        # A library that swallowed Ctrl-C while it was imported does not make the work go on.
        if not interrupted():
            code = run()
        stop_listening()
    except BaseException as error:
        stop_listening()
        if not (isinstance(error, KeyboardInterrupt) or interrupted()):
            raise
    if code is None or (code == 0 and interrupted()):
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
