"""The process that the warm processes of both sides are forked from: `python -m arvbench.harness.check.libraries`.

It imports the libraries and nothing of ours that a side brings along; each of its children is the warm process of one
side, which imports the package of that side (run/warm.py). So both sides have one memory layout of the libraries: what
a layout does to speed, it does to both.
"""

from __future__ import annotations

import importlib
import os
import sys

from arvbench.harness.machine.forks import serve

LIBRARIES = (
    "PIL.Image",
    "psutil",
    "pynvml",
    "pydantic.dataclasses",
    "pydantic.functional_serializers",
    "safetensors.torch",
    "torch",
    "yaml",
)
"""Imports of a case on a CPU; the others come with them."""


def import_libraries() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)


def become_side(arguments: list[str], fds: list[int]) -> int:
    """Be the warm process of the side whose package lies in the folder of the one argument."""
    (root,) = arguments
    os.dup2(fds[0], sys.stdin.fileno())
    os.close(fds[0])
    for name in [name for name in sys.modules if name.partition(".")[0] == "arvbench"]:
        del sys.modules[name]
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    importlib.import_module("arvbench.harness.run.warm").main()
    return 0


if __name__ == "__main__":
    serve(import_libraries, become_side)
