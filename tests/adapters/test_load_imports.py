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


def test_building_the_skeleton_of_every_kind_of_model_imports_no_compiler(programs):
    """One of each kind, and the demo models: sizes change no import."""
    code = (
        "from arvbench.adapters.loading import known_specs, meta_modules\n"
        "kinds = {(s.sampler, type(s.transformer), type(s.tokenizer), s.demo): s for _, s in known_specs()}\n"
        "assert len(kinds) > 20\n"
        "for spec in kinds.values():\n"
        "    assert all(t.is_meta for module in meta_modules(spec).values() for t in module.state_dict().values())"
    )
    assert compiler_after(programs, code) == "[]"
