"""Imports of a load and of a first sampling call: torch, and not its compiler, which would take longer than both."""

from __future__ import annotations

from warm_program import Programs

from arvbench.adapters.loading import demo_models

COMPILER = ("torch._dynamo", "torch._inductor", "sympy", "triton")


def compiler_after(programs: Programs, code: str) -> str:
    """Return the modules of the compiler that are imported after `code` ran in a process that has the harness."""
    code += f"\nimport sys; print([name for name in {COMPILER} if name in sys.modules])"
    done = programs.run("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_loading_a_demo_model_of_every_family_and_sampling_imports_no_compiler(programs):
    code = (
        "from arvbench.adapters import load_sampler, PerImageNoise\n"
        f"for name in {demo_models()}:\n"
        "    load_sampler(name, weights='random:0')\n"
        "    sampler = load_sampler(name, weights='demo')\n"
        "    sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0]))"
    )
    assert compiler_after(programs, code) == "[]"


def test_building_the_skeleton_of_every_model_imports_no_compiler(programs):
    code = (
        "from arvbench.adapters.loading import known_specs, meta_modules\n"
        "for _, spec in known_specs():\n"
        "    assert all(t.is_meta for module in meta_modules(spec).values() for t in module.state_dict().values())"
    )
    assert compiler_after(programs, code) == "[]"
