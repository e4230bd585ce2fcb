"""Every family reproduces its official code with all Triton kernels in Triton's interpreter, in fp32."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
RECIPES = TESTS / "golden" / "recipe"
TINY = sorted(path.stem for path in RECIPES.glob("*_tiny_*.json"))
QUICK = {"nar_tiny_a"}
TOKEN_GRID = {"wavefront_attention", "swiglu"}
CALLED = {"llamagen": TOKEN_GRID, "nar": TOKEN_GRID, "par": TOKEN_GRID}
"""Family -> operations that its samplers hand to Triton kernels, and none of whose calls goes elsewhere."""


def interpreted(case: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `arvbench verify` in a process of its own, because Triton decides at its import what it interprets.

    The last line of stderr counts the calls of every kernel.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("TRITON_INTERPRET", None)
    command = [
        str(TESTS / "support" / "counted_kernels.py"),
        "verify",
        str(RECIPES / f"{case}.json"),
        "--kernels",
        "interpreter",
        "--json",
        *options,
    ]
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in TINY])
def test_a_fixture_is_reproduced_by_interpreted_kernels(case):
    pytest.importorskip("triton", reason="needs triton")
    done = interpreted(case, "--backend", "optimized")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(done.stdout)
    assert len(checks) > 20
    assert {check["passed"] for check in checks} <= {True, None}
    assert any(check["passed"] and check["tolerance"] == 0 for check in checks), "no token ids were compared"
    calls = json.loads(done.stderr.splitlines()[-1])
    for operation in CALLED.get(case.partition("_")[0], ()):
        assert calls[operation].keys() == {"triton"}, f"{operation} went elsewhere: {calls[operation]}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "optimized", "--device", "cuda"], "interpreter runs kernels on the CPU, not on cuda"),
        (["--backend", "reference"], "the reference backend has no Triton kernels"),
    ],
)
def test_an_interpreter_that_cannot_be_had_is_bad_input(options, message):
    done = interpreted("var_tiny_a", *options)
    assert done.returncode == 2
    assert message in done.stderr
