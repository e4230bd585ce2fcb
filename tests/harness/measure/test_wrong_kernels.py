"""A whole case whose kernels are wrong, or cannot take the model: no time in the first case, a note in the second."""

from __future__ import annotations

import pytest
from stand_ins import BACKEND, stand_in

from arvbench.adapters import MODELS
from arvbench.harness.jobs import Event, Job
from arvbench.harness.measure.case import measure_case
from arvbench.results.schema import CaseConfig, Incorrect, Measured, Status

pytest.importorskip("triton", reason="needs triton")


def measured(folder, model="demo/nar"):
    case = CaseConfig(model=model, weights="random:0", backend=BACKEND, batch=1, repeats=1, max_warmup=1)
    events: list[Event] = []
    outcome = measure_case(Job(record_id="r1", case=case, folder=folder), events.append).outcome
    return outcome, [event.phase for event in events]


@pytest.mark.parametrize("wrong", [{"swiglu": "ungated"}, {"wavefront_attention": "unrotated"}], ids=str)
def test_a_kernel_that_disagrees_with_its_reference_has_no_time(tmp_path, monkeypatch, wrong):
    stand_in(monkeypatch, **wrong)
    outcome, phases = measured(tmp_path)
    assert isinstance(outcome, Incorrect) and outcome.status is Status.INCORRECT
    assert outcome.correctness.max_abs_diff > outcome.correctness.tolerance
    assert phases == ["load", "correctness"]
    assert "timings" not in outcome.model_dump()


def test_right_kernels_have_a_time_and_the_record_names_them(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    outcome, _ = measured(tmp_path)
    assert isinstance(outcome, Measured) and outcome.timings
    assert outcome.correctness.max_abs_diff == 0
    assert set(outcome.setup.kernels.values()) == {"triton"}


def test_a_launch_that_does_not_fit_the_gpu_goes_elsewhere_and_the_record_says_why(tmp_path, monkeypatch):
    stand_in(monkeypatch, wavefront_attention="too_large")
    outcome, _ = measured(tmp_path)
    assert isinstance(outcome, Measured) and outcome.correctness.max_abs_diff == 0
    reason = "torch: needs 73728 of shared memory, this GPU has 65536 (torch.float32)"
    assert outcome.setup.kernels["wavefront_attention"] == f"triton; {reason}"
    assert outcome.setup.kernels["swiglu"] == "triton"


def test_heads_that_are_too_wide_go_elsewhere_and_the_record_says_why(tmp_path, monkeypatch):
    stand_in(monkeypatch, wavefront_attention="too_large")  # which is not tried
    with MODELS.scoped("wide-heads", "stand_ins:WIDE_HEADS"):
        outcome, _ = measured(tmp_path, "wide-heads")
    assert isinstance(outcome, Measured) and outcome.correctness.passed
    reason = "torch: heads of 144 channels, at most 128 (torch.float32)"
    assert outcome.setup.kernels["wavefront_attention"] == f"triton; {reason}"
