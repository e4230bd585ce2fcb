"""Every family reproduces its official code with all Triton kernels in Triton's interpreter, in fp32."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from arvbench.errors import HostError
from arvbench.harness.cli import main

TESTS = Path(__file__).parents[2]
RECIPES = TESTS / "golden" / "recipe"
TINY = sorted(path.stem for path in RECIPES.glob("*_tiny_*.json"))
FULL = sorted(path.stem for path in RECIPES.glob("*_full_*.json"))
TOKEN_GRID = {"wavefront_attention", "swiglu"}
ATTENTION = {"scale_attention", "block_sparse_attention"}
MIXER = {"ssd_scan", "rms_norm_gated"}
CALLED = {
    **dict.fromkeys(("llamagen", "nar", "par"), TOKEN_GRID),
    "flexvar": ATTENTION,
    "var": ATTENTION | {"next_scale_input"},
    "hmar": ATTENTION | {"next_scale_input"},
    "mvar": ATTENTION | MIXER | {"next_scale_input"},
}
"""Family -> operations that its samplers hand to Triton kernels, and none of whose calls goes elsewhere."""
EIGHT_CHANNELS = {"var_tiny_a", "mvar_tiny_a", "hmar_tiny_a"}
"""Fixtures whose codes have 8 channels, which the kernel `next_scale_input` does not take."""
ONLY_SAMPLED = {"hmar_full_d16"}
"""Fixtures without teacher forcing, whose attention is block-sparse."""


ARVBENCH = ["-m", "arvbench"]
COUNTED = [str(TESTS / "support" / "counted_kernels.py")]
"""The same program, whose last line of stderr counts the calls of every kernel."""


@pytest.fixture
def interpreted(programs):
    """Function that runs `arvbench verify` in a process of its own: Triton decides at its import what it interprets."""

    def run(program: list[str], case: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*program, "verify", RECIPES / f"{case}.json", "--kernels", "interpreter", "--json", *options]
        return programs.run(*command, timeout=7200)

    return run


asked_for = pytest.mark.skipif(
    not os.environ.get("ARVBENCH_FULL"), reason="official size takes 14 to 27 CPU minutes: set ARVBENCH_FULL=1"
)


@pytest.mark.slow  # about a minute each: the interpreter takes 20 ms per program of attention
@pytest.mark.parametrize("case", [*TINY, *(pytest.param(case, marks=asked_for) for case in FULL)])
def test_a_fixture_is_reproduced_by_interpreted_kernels(interpreted, case):
    pytest.importorskip("triton", reason="needs triton")
    done = interpreted(COUNTED, case, "--backend", "optimized")
    assert done.returncode == 0, done.stdout + done.stderr
    checks, recorded = json.loads(done.stdout), json.loads((RECIPES / f"{case}.json").read_text())
    assert len(checks) >= len(recorded["expected"]) + len(recorded["tensors"])
    assert {check["passed"] for check in checks} <= {True, None}
    assert any(check["passed"] and check["tolerance"] == 0 for check in checks), "no token ids were compared"
    calls = json.loads(done.stderr.splitlines()[-1])
    for operation in CALLED.get(case.partition("_")[0], ()):
        if operation == "block_sparse_attention" and case in ONLY_SAMPLED:
            assert operation not in calls
            continue
        if operation == "next_scale_input" and case in EIGHT_CHANNELS:
            assert calls[operation]["elsewhere"] == calls[operation]["torch"]
            continue
        # The judge of the draws runs the reference of the mixer.
        others = {"torch"} if operation in MIXER else set()
        assert calls[operation]["triton"]
        assert calls[operation].keys() <= {"triton"} | others, f"{operation} went elsewhere: {calls[operation]}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "optimized", "--device", "cuda"], "interpreter runs kernels on the CPU, not on cuda"),
        (["--backend", "reference"], "the reference backend has no Triton kernels"),
    ],
)
def test_an_interpreter_that_cannot_be_had_is_bad_input(interpreted, options, message):
    done = interpreted(ARVBENCH, "var_tiny_a", *options)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("triton", "message"),
    [
        (None, "needs Triton on CUDA (import of triton halted"),
        (types.SimpleNamespace(__version__="2.1.0"), "needs Triton 3.0 or newer, this is 2.1.0; upgrade triton"),
    ],
    ids=["missing", "old"],
)
def test_a_triton_that_cannot_be_used_is_named_and_the_reference_does_without(monkeypatch, capsys, triton, message):
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    fixture = str(RECIPES / "nar_tiny_a.json")
    assert main(["verify", fixture, "--backend", "optimized", "--kernels", "interpreter"]) == HostError.exit_code
    assert message in (error := capsys.readouterr().err)
    assert "choose backend 'reference'" in error
    assert main(["verify", fixture, "--backend", "reference"]) == 0
