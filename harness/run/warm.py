"""The process that workers of CPU cases are forked from: `python -m arvbench.harness.run.warm` (machine/forks.py).

In a check it is itself forked from a process that has imported the libraries (check/libraries.py).
"""

from __future__ import annotations

import gc
import importlib

from arvbench.harness.machine.forks import serve
from arvbench.harness.run import worker

_MODULES = (
    "arvbench.harness.machine.failures",
    "arvbench.harness.machine.limits",
    "arvbench.harness.measure.case",
    "arvbench.harness.measure.case_quality",
)
"""Imports of every case. Models are not among them: a plug-in may do anything when it is imported."""


def import_harness() -> None:
    """Import the harness, and take the digest of the source that was imported."""
    for name in _MODULES:
        importlib.import_module(name)
    from arvbench.harness.machine.source import source_sha256

    source_sha256()
    # What was imported outlives every fork: a collection there need not look at it, nor copy its pages.
    gc.collect()
    gc.freeze()


def work(arguments: list[str], fds: list[int]) -> int:
    """Be the worker of one case; its events go to the one passed file descriptor."""
    return worker.main([*arguments, "--events-fd", str(fds[0])])


def main() -> None:
    """Import the harness and fork workers, until the parent is gone."""
    serve(import_harness, work)


if __name__ == "__main__":
    main()
