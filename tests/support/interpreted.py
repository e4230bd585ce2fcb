"""Code run with Triton's kernels interpreted: in a process of its own, since Triton decides so when it is imported."""

from __future__ import annotations

import subprocess

import pytest
from warm_program import Programs

ASK = """
import torch
torch.set_num_threads(1)
from arvbench.kernels.dispatch import interpret_kernels
interpret_kernels("optimized")
"""


def run_interpreted(programs: Programs, code: str, *arguments: object) -> str:
    """Run Python `code` on sys.argv[1:] `arguments` in a fork that interprets; return what it printed."""
    pytest.importorskip("triton", reason="needs triton")
    done: subprocess.CompletedProcess[str] = programs.run("-c", ASK + code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
