"""What a load imports: torch, and not its compiler, which takes longer than the load itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import arvbench
from arvbench.adapters.loading import demo_models

COMPILER = ("torch._dynamo", "torch._inductor", "sympy", "triton")
PATH = str(Path(arvbench.__file__).parents[1])


def compiler_after(code: str) -> str:
    """Return the modules of the compiler that are imported after `code` ran in a process of its own."""
    code += f"\nimport sys; print([name for name in {COMPILER} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": PATH}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("weights", ["demo", "random:0"])
def test_loading_a_demo_model_of_every_family_imports_no_compiler(weights):
    load = "from arvbench.adapters import load_sampler\n"
    assert compiler_after(load + f"for name in {demo_models()}: load_sampler(name, weights={weights!r})") == "[]"


def test_building_the_skeleton_of_every_model_imports_no_compiler():
    code = (
        "from arvbench.adapters.loading import known_specs, meta_modules\n"
        "for _, spec in known_specs():\n"
        "    assert all(t.is_meta for module in meta_modules(spec).values() for t in module.state_dict().values())"
    )
    assert compiler_after(code) == "[]"
