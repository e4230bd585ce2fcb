"""Every kernel of the table equals its reference; a new entry of the table needs no new test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreter_modes import interpreter_mode

from arvbench.kernels import KERNELS

Key = tuple[str, str, str, str]


@cache
def outcomes(mode: str) -> tuple[dict[Key, dict[str, Any]], str]:
    """Results of all workloads from one process, and its exit status and stderr for the case that it ended early."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("table_run.py")), mode],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    results = {(line["kernel"], line["workload"], line["dtype"], line["implementation"]): line for line in lines}
    return results, f"exit status {done.returncode} {done.stderr[-2000:]}"


def every_workload() -> Iterator[tuple[Key, str | None]]:
    """Yield keys, each with the mode in which the interpreter runs it."""
    for name, spec in KERNELS.items():
        for workload in spec.workloads:
            for dtype in spec.tolerance:
                for implementation in spec.implementations:
                    if implementation != "torch":
                        mode = interpreter_mode(spec, workload, dtype)
                        yield (name, workload, str(dtype), implementation), mode


def check(mode: str, key: Key) -> None:
    results, ending = outcomes(mode)
    assert key in results, f"the process ended before this workload: {ending}"
    result = results[key]
    assert "error" not in result, result["error"]
    if "unsupported" in result:
        pytest.skip(f"{KERNELS[result['kernel']].fallback} takes it: {result['unsupported']}")
    assert result["ok"], f"max |err| {result['err']:.2e}, allowed {tolerance(result)}"
    in_place = KERNELS[result["kernel"]].mutates
    assert result["allocations"] or in_place, "the wrapper took its result from memory that the test does not poison"
    assert result["guards_kept"], "wrote outside its result"


def tolerance(result: dict[str, Any]) -> object:
    return {str(dtype): tol for dtype, tol in KERNELS[result["kernel"]].tolerance.items()}[result["dtype"]]


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        pytest.param(key, mode, marks=[pytest.mark.slow] * (mode == "interpreter-rest"), id="-".join(key))
        for key, mode in every_workload()
        if mode is not None
    ],
)
def test_interpreted_kernel_matches_its_reference(key: Key, mode: str) -> None:
    check(mode, key)


NO_GPU = pytest.param(None, id="every-workload", marks=pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.mark.parametrize(
    "key",
    [key for key, _ in every_workload()] if torch.cuda.is_available() else [NO_GPU],
    ids=lambda key: "-".join(key),
)
def test_kernel_on_the_gpu_matches_its_reference(key: Key) -> None:
    check("cuda", key)


def kernels_with(property_of: Callable[[Any], bool]) -> set[str]:
    return {name for name, spec in KERNELS.items() if any(map(property_of, spec.workloads.values()))}


def test_every_kernel_has_workloads_for_the_interpreter_and_the_compiler() -> None:
    assert kernels_with(lambda workload: workload.interpret) == set(KERNELS)
    assert kernels_with(lambda workload: workload.compile) == set(KERNELS)
