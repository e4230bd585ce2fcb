"""Processes end without looking through their objects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import arvbench

LOOKED_AT = """
import sys

class Cycle:
    def __init__(self):
        self.own = self

    def __del__(self):
        print("looked at")

kept = Cycle()
"""
COMMAND = "from arvbench.__main__ import main; sys.argv = ['arvbench', '--version']; main()"
CHILD = "from arvbench.harness.machine.processes import receive; print(receive())"


@pytest.mark.parametrize(
    ("program", "printed"),
    [("", "looked at"), (COMMAND, f"arvbench {arvbench.__version__}"), (CHILD, "b'{}\\n'")],
    ids=["plain", "command", "child"],
)
def test_a_command_and_a_child_leave_their_memory_to_the_system(program, printed):
    environment = os.environ | {"PYTHONPATH": str(Path(arvbench.__file__).parent.parent)}
    code = [sys.executable, "-c", LOOKED_AT + program]
    with subprocess.Popen(
        code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("{}\n")
        process.stdin.flush()  # and stays open: a child whose parent is gone is killed
        said = process.stdout.read()
        process.wait(60)
    assert (process.returncode, said.strip()) == (0, printed)
