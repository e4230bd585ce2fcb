"""Programs that build the sides of a check: git, venv, pip, compileall."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from arvbench.harness.machine.processes import end_group
from arvbench.paths import printable

_LONGEST_COMPLAINT = 500


class ProgramError(Exception):
    """A program that failed, with the last line that it said."""


def output_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return what a program prints. Raises ProgramError, and FileNotFoundError where there is no such program.

    Ctrl-C in a terminal does not reach it, so that it ends only here, with all its children.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate()
    except BaseException:
        end_group(process.pid)
        process.wait()
        raise
    if process.returncode != 0:
        said = [line.strip() for line in printable(errors.strip() or out).splitlines() if line.strip()]
        raise ProgramError(said[-1][:_LONGEST_COMPLAINT] if said else f"exit code {process.returncode}")
    return os.fsdecode(out)
