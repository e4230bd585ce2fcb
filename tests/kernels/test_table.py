"""The table of kernels: light to read, complete, and with costs that can be counted by hand."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest
import torch

from arvbench.kernels import KERNELS
from arvbench.kernels.contract import KernelSpec

every_kernel = pytest.mark.parametrize("spec", [pytest.param(spec, id=name) for name, spec in KERNELS.items()])


def imported_after(code: str) -> set[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code += "\nimport json, sys; print(json.dumps([m for m in ('torch', 'triton') if m in sys.modules]))"
    return set(json.loads(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)))


def test_reading_the_table_imports_neither_torch_nor_triton():
    assert imported_after("from arvbench.kernels import KERNELS\nassert 'adaln_modulate' in list(KERNELS)") == set()


def test_the_package_cannot_be_taken_for_the_library_of_the_same_name():
    import arvbench.kernels

    assert not hasattr(arvbench.kernels, "__version__")


@every_kernel
def test_a_spec_is_listed_under_its_own_name(spec: KernelSpec):
    assert KERNELS[spec.name] is spec


@every_kernel
def test_both_implementations_have_the_same_name_and_signature(spec: KernelSpec):
    pytest.importorskip("triton", reason="needs triton")
    torch_, triton_ = spec.implementations["torch"], spec.implementations["triton"]
    assert torch_.__name__ == triton_.__name__ == spec.name
    assert inspect.signature(torch_) == inspect.signature(triton_)
    assert torch_ is not triton_


def test_specs_and_references_need_no_triton(programs):
    imports = "\n".join(f"import {spec.reference.partition(':')[0]}" for spec in KERNELS.values())
    done = programs.run("-c", f"import sys; sys.modules['triton'] = None\n{imports}\nprint(*sorted(sys.modules))")
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert {spec.reference.partition(":")[0] for spec in KERNELS.values()} <= set(imported)
    assert [name for name in imported if name.partition(".")[0] == "triton"] == ["triton"], "only what keeps it out"


@every_kernel
def test_the_dtypes_that_models_run_in_have_a_tolerance(spec: KernelSpec):
    assert {torch.float32, torch.bfloat16, torch.float16} <= set(spec.tolerance)


@every_kernel
def test_inputs_are_the_same_in_every_call(spec: KernelSpec):
    workload = next(iter(spec.workloads))
    first, again = (spec.inputs(workload, dtype=torch.float32, device="cpu") for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(value, again[name], rtol=0, atol=0, equal_nan=True)


@every_kernel
def test_costs_are_positive_and_bytes_grow_with_the_element(spec: KernelSpec):
    for workload in spec.workloads.values():
        assert spec.flops(workload.shape) > 0
        assert spec.bytes_moved(workload.shape, 4) == 2 * spec.bytes_moved(workload.shape, 2) > 0
