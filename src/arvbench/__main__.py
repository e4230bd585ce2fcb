"""Program `arvbench`, also as `python -m arvbench`: Ctrl-C is heard before anything slow is imported."""

from __future__ import annotations

import sys

from arvbench.interrupts import EXIT_INTERRUPTED, interrupted, listen


def main() -> int:
    """Run the command line; return its exit code."""
    listen()
    try:
        for stream in (sys.stdout, sys.stderr):
            # Names of files are bytes, and a terminal may have another encoding: neither ends a run.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from arvbench.harness.cli import main as run

        # A library that swallowed Ctrl-C while it was imported does not make the work go on.
        if not interrupted():
            code = run()
            if code != 0 or not interrupted():
                return code
    except BaseException as error:
        if not (isinstance(error, KeyboardInterrupt) or interrupted()):
            raise
    sys.stderr.write("interrupted\n")
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
