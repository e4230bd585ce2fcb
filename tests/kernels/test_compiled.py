"""torch.compile as an implementation: chosen per operation, checked as any other, refused where it cannot run."""

from __future__ import annotations

import shutil

import pytest
import torch

from arvbench.errors import HostError, UnknownName, UserError
from arvbench.harness.jobs import Job
from arvbench.harness.measure.case import measure_case
from arvbench.harness.suites.suite import check_cases, load_suite
from arvbench.kernels import KERNELS, compiled
from arvbench.kernels.contract import max_abs_err
from arvbench.kernels.dispatch import select
from arvbench.results.schema import CaseConfig, Incorrect, Measured


@pytest.fixture
def without_code(monkeypatch):
    """Let torch.compile run what it traced by torch's own operators: nothing is generated, and no compiler needed."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


def first_workload(name: str) -> str:
    return next(load for load, workload in KERNELS[name].workloads.items() if workload.interpret)


@pytest.mark.usefixtures("without_code")
@pytest.mark.parametrize("name", ["swiglu", "adaln_residual", "scale_attention", "guided_sample"])
def test_what_was_traced_equals_its_judge(name):
    found = max_abs_err(
        KERNELS[name], first_workload(name), dtype=torch.float32, device="cpu", implementation="compiled"
    )
    assert found.ok, found


@pytest.mark.slow  # a minute: g++ takes seconds for each
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ here")
@pytest.mark.parametrize("name", KERNELS)
def test_the_code_that_torch_generates_equals_its_judge(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = max_abs_err(
        KERNELS[name], first_workload(name), dtype=torch.float32, device="cpu", implementation="compiled"
    )
    assert found.ok, found


def request(folder, **changes) -> Job:
    fields = {"model": "demo/var", "weights": "random:0", "batch": 1, "repeats": 1, "max_warmup": 1}
    return Job(record_id="r1", case=CaseConfig(**(fields | changes)), folder=folder)


@pytest.mark.usefixtures("without_code")
def test_a_case_chooses_by_operation_and_its_record_says_what_ran(tmp_path):
    job = request(tmp_path, kernels={"adaln_residual": "compiled"})
    outcome = measure_case(job, lambda event: None).outcome
    assert isinstance(outcome, Measured)
    assert outcome.correctness.passed and outcome.correctness.judge == "reference backend"
    used = {name: outcome.setup.kernels[name] for name in KERNELS}
    assert used == dict.fromkeys(KERNELS, "torch") | {"adaln_residual": "compiled"}


def test_compiled_code_that_computes_something_else_has_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda reference, backend: lambda *args: 2 * reference(*args))
    outcome = measure_case(request(tmp_path, kernels={"adaln_residual": "compiled"}), lambda event: None).outcome
    assert isinstance(outcome, Incorrect) and outcome.setup.kernels["adaln_residual"] == "compiled"


@pytest.mark.usefixtures("without_code")
def test_all_operations_can_be_compiled_at_once():
    assert select("optimized", "cpu", "compiled").names == dict.fromkeys(KERNELS, "compiled")
    with pytest.raises(UserError, match="the reference backend runs the references"):
        select("reference", "cpu", "compiled")


def test_without_a_compiler_it_is_refused_and_the_missing_one_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(HostError, match=r"a C\+\+ compiler on the CPU, and there is no g\+\+: install g\+\+"):
        select("optimized", "cpu", choices={"swiglu": "compiled"})
    monkeypatch.setenv("CXX", "/nowhere/clang")
    with pytest.raises(HostError, match="there is no /nowhere/clang"):
        select("optimized", "cpu", "compiled")
    assert set(select("optimized", "cpu").names.values()) == {"torch"}


def test_what_torch_cannot_compile_is_refused_with_its_reason(monkeypatch):
    def refuse(graph, example_inputs):
        raise RuntimeError("made up:\n  no such instruction")

    monkeypatch.setattr(compiled, "BACKEND", refuse)
    spec = KERNELS["swiglu"]
    with pytest.raises(HostError, match=r"torch\.compile cannot compile swiglu: .*made up"):
        spec.implementation("compiled")(**spec.inputs(first_workload("swiglu"), dtype=torch.float32, device="cpu"))


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"swigly": "compiled"}, UnknownName, "no kernel 'swigly'; did you mean 'swiglu'"),
        ({"swiglu": "compile"}, UnknownName, "no implementation of swiglu 'compile'; did you mean 'compiled'"),
        ({"swiglu": "triton"}, HostError, "the Triton kernel of swiglu needs CUDA, not cpu: choose torch or compiled"),
    ],
)
def test_a_choice_that_cannot_be_had_names_those_that_can(choices, error, message):
    with pytest.raises(error, match=message):
        select("optimized", "cpu", choices=choices)


def test_a_suite_chooses_kernels_and_refuses_wrong_ones_before_any_case_runs(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ndescription: d\ncases: [{model: demo/var, weights: demo}]\n")
    (case,) = load_suite(str(file), overrides={"kernels.swiglu": "compiled"}).cases
    assert case.config.kernels == {"swiglu": "compiled"} and "kernels.swiglu=compiled" in case.case_id
    for key, backend, message in (
        ("kernels.swigly", "optimized", "no kernel 'swigly'"),
        ("kernels.swiglu", "reference", "choose kernels with another one"),
    ):
        suite = load_suite(str(file), overrides={key: "compiled", "backend": backend})
        with pytest.raises(UserError, match=message):
            check_cases(suite.cases)


def test_cases_without_a_choice_are_written_as_before():
    assert "kernels" not in CaseConfig(model="demo/var", weights="demo").model_dump()
