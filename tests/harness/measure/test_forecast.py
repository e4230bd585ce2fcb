"""Forecasts of cases: a lower bound of the time by ceilings, and its multiple by records."""

from __future__ import annotations

import pytest
import records as make

from arvbench.errors import HostError
from arvbench.harness.cli import main
from arvbench.harness.commands.plans import forecast_line, forecast_row
from arvbench.harness.measure.footprint import planned_call
from arvbench.harness.measure.forecast import forecast, measured_multiple
from arvbench.results.roofline import Machine, scope_works
from arvbench.results.schema import CaseConfig, Status
from arvbench.results.statistics import find_timing, nanoseconds

CASE = CaseConfig(model="demo/var", weights="demo", repeats=3)
SLOW_COPIES = Machine(name="made up", flops_per_s={"float32": 1e30}, copies=((0.0, 1e9),))


def test_the_lower_bound_is_the_traffic_of_the_plan_where_copies_bind():
    found = forecast(CASE, [], lambda case: SLOW_COPIES)
    _, _, schedule = planned_call(CASE)
    moved = sum(step.bytes_moved for step in schedule) + schedule.decode_bytes
    assert found.least_ns == pytest.approx(moved)  # 10^9 bytes per second
    assert found.predicted_ns is None
    assert "a call: at least" in forecast_line(found)
    assert "prediction unknown: no record here tells its multiple" in forecast_line(found)
    row = forecast_row(CASE, found)
    assert row["predicted_bytes"] == found.footprint.total_bytes
    assert row["predicted_call_ns"] is row["predicted_timed_s"] is None


def multiple_of(record):
    return (
        nanoseconds(find_timing(record.outcome, "images")).value
        / scope_works(record, record.outcome)["images"].floor.ns
    )


def test_the_median_of_the_models_own_records_is_its_multiple():
    own = [make.record("demo/var", number=n, speed=speed, threads=1) for n, speed in enumerate((1, 2, 40))]
    others = [make.record("demo/par", number=7, speed=9, threads=1), make.failed(Status.OOM, "no room", number=8)]
    case = CASE.model_copy(update={"threads": 1})
    found = forecast(case, [*own, *others], lambda case: SLOW_COPIES)
    assert found.multiple.times == pytest.approx(multiple_of(own[1]))
    assert (found.multiple.records, found.multiple.model) == (3, "demo/var")
    assert found.predicted_ns == pytest.approx(found.least_ns * multiple_of(own[1]))
    assert "times that, the median of 3 record(s) of demo/var at batch 1 here" in forecast_line(found)
    assert forecast_row(case, found)["predicted_timed_s"] == pytest.approx(3 * found.predicted_ns / 1e9)


def test_records_of_other_models_serve_where_there_are_none_and_of_other_threads_never():
    other = make.record("demo/par", number=7, threads=1)
    found = measured_multiple(CASE.model_copy(update={"threads": 1}), [other])
    assert (found.times, found.model) == (pytest.approx(multiple_of(other)), "")
    assert measured_multiple(CASE.model_copy(update={"threads": 2}), [other]) is None
    assert measured_multiple(CASE.model_copy(update={"dtype": "bfloat16", "threads": 1}), [other]) is None
    without = make.record("demo/var", number=7, threads=1, ceilings=None)
    assert measured_multiple(CASE.model_copy(update={"threads": 1}), [without]) is None


@pytest.mark.parametrize(("batch", "nearest"), [(1, 1), (2, 1), (5, 8), (64, 8)])
def test_only_records_of_the_nearest_batch_and_of_the_backend_count(batch, nearest):
    def record(number, batch, speed, backend="optimized"):
        return make.record("demo/var", number=number, batch=batch, speed=speed, threads=1, backend=backend)

    measured = {1: record(1, 1, speed=1), 8: record(2, 8, speed=4)}
    case = CASE.model_copy(update={"threads": 1, "batch": batch})
    found = measured_multiple(case, [*measured.values(), record(3, batch, speed=9, backend="reference")])
    assert (found.batch, found.records) == (nearest, 1)
    assert found.times == pytest.approx(multiple_of(measured[nearest]))


def test_what_is_unknown_is_said_with_its_reason(monkeypatch):
    monkeypatch.setattr("arvbench.adapters.var.VarSampler.place", lambda self, drawn, *rest: drawn.tokens_Bl.tolist())

    def no_device(case):
        raise HostError("no usable GPU here")

    found = forecast(CASE, [], no_device)
    line = forecast_line(found)
    assert "tensors unknown: demo/var: its sampler looks at values" in line
    assert "a call's time unknown: no usable GPU here" in line
    assert len(forecast_row(CASE, found)["notes"]) == 2


def test_a_machine_without_a_ceiling_for_the_dtype_is_said_so():
    half = CASE.model_copy(update={"dtype": "bfloat16"})
    found = forecast(half, [], lambda case: SLOW_COPIES)
    assert found.least_ns is None
    assert found.time_note == "this machine has no ceiling for bfloat16"


def test_a_dry_run_prints_memory_and_time_of_nar_too_and_needs_no_weights(tmp_path, capsys):
    nowhere = ["--models", "demo/nar", "--set", "weights=/nowhere"]
    plan = ["run", "demo", *nowhere, "--dry-run", "--predict", "--out", str(tmp_path / "runs")]
    assert main(plan) == 0
    out = capsys.readouterr().out
    assert "tensors, predicted: " in out
    assert "a call: at least " in out
    assert "lower bound" in out
    assert not (tmp_path / "runs" / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [("settings.cgf=2", "unknown key 'cgf'"), ("settings.cfg=.inf", "finite"), ("cache=linear:0.5", "linear")],
)
def test_a_forecast_refuses_what_the_run_would_refuse(tmp_path, capsys, given, words):
    plan = ["run", "demo", "--models", "demo/var", "--set", given, "--dry-run", "--out", str(tmp_path / "runs")]
    assert main([*plan, "--predict"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and words in said.err and said.err.count("\n") == 1
    assert main(plan) == 0
    assert "settings were not shown to the models" in capsys.readouterr().out
