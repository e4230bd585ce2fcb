"""The control probe: fixed work, timed by the clock of the case."""

from __future__ import annotations

import pytest
import torch

from arvbench.harness.jobs import Job
from arvbench.harness.measure.case import measure_case
from arvbench.harness.measure.control import ControlProbe
from arvbench.results.schema import CaseConfig, Measured

CPU = torch.device("cpu")


class CountingClock:
    """A clock that counts its marks: every interval is one."""

    kind = "wall"

    def __init__(self) -> None:
        self.marks = 0
        self.settled = 0

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def settle(self) -> None:
        self.settled += 1

    def between_ns(self, begin: int, end: int) -> int:
        return end - begin

    @property
    def wall(self) -> CountingClock:
        return self


def test_a_probe_keeps_the_raw_times_of_three_kinds_of_work():
    clock = CountingClock()
    probe = ControlProbe(CPU, clock)
    probe.begin()
    times = probe.end()
    assert times is not None
    for side in (times.before, times.after):
        assert side.gemm_ns == side.copy_ns == side.host_ns == (1,) * 9
    assert clock.settled == 6  # once per series, not once per sample: a device is not stopped between samples


def test_equal_work_has_an_equal_name_and_threads_belong_to_it():
    one = ControlProbe(CPU).work
    assert ControlProbe(CPU).work == one
    torch.set_num_threads(2)
    try:
        assert ControlProbe(CPU).work != one
    finally:
        torch.set_num_threads(1)


def test_a_probe_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    ControlProbe(CPU).begin()
    assert torch.equal(torch.rand(4), expected)


def test_a_probe_without_room_for_its_buffers_costs_no_case(monkeypatch):
    def full(*_args, **_kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    probe = ControlProbe(CPU)
    monkeypatch.setattr(torch, "arange", full)
    probe.begin()
    assert probe.end() is None


def test_an_error_of_another_kind_is_raised(monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(torch, "arange", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        ControlProbe(CPU).begin()


@pytest.mark.parametrize("asked", [True, False])
def test_a_case_has_control_times_when_they_are_asked_for(tmp_path, asked):
    case = CaseConfig(model="demo/var", weights="random:0", repeats=1, max_warmup=1)
    outcome = measure_case(Job(record_id="r", case=case, folder=tmp_path, control=asked), lambda event: None).outcome
    assert isinstance(outcome, Measured)
    assert (outcome.control is not None) is asked
    if outcome.control is not None:
        assert all(ns > 0 for ns in outcome.control.before.gemm_ns + outcome.control.after.copy_ns)
        assert Measured.model_validate_json(outcome.model_dump_json()) == outcome


def test_records_from_before_this_field_stay_readable(tmp_path):
    case = CaseConfig(model="demo/var", weights="random:0", repeats=1, max_warmup=1)
    outcome = measure_case(Job(record_id="r", case=case, folder=tmp_path), lambda event: None).outcome
    older = outcome.model_dump(mode="json")
    assert older.pop("control") is None
    assert Measured.model_validate(older) == outcome
