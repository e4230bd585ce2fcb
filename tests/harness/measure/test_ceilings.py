"""Ceilings measured on the spot: raw times of fixed work, bounded, and nothing when there is no room."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from arvbench.harness.jobs import Job
from arvbench.harness.measure.case import measure_case
from arvbench.harness.measure.ceilings import BUDGET_NS, CHAIN, LEAST_RUNS, MOST_RUNS, Sizes, measure_ceilings
from arvbench.results.schema import CaseConfig, Measured

CPU = torch.device("cpu")
TINY = Sizes(sides=(8, 16), buffers_bytes=(64, 256))


class TickingClock:
    """Clock of which every mark is `tick_ns` later."""

    kind = "wall"

    def __init__(self, tick_ns: int) -> None:
        self.tick_ns, self.now = tick_ns, 0

    def mark(self) -> int:
        self.now += self.tick_ns
        return self.now

    def settle(self) -> None:
        return None

    def between_ns(self, begin: int, end: int) -> int:
        return end - begin

    @property
    def wall(self) -> TickingClock:
        return self


class Recorder:
    """Capture that counts replays."""

    replays, aborted, fails = 0, False, False

    def aside(self):
        return nullcontext()

    def begin(self) -> None:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    def end(self):
        return self.replay

    def replay(self) -> None:
        self.replays += 1

    def abort(self) -> None:
        self.aborted = True

    def pool_bytes(self) -> int:
        return 0


def test_raw_times_of_every_size_and_data_type_are_kept():
    found = measure_ceilings(CPU, (torch.bfloat16, torch.float32), sizes=TINY, clock=TickingClock(1000))
    assert found is not None and found.kernels is None and found.launch_ns is None
    assert [series.work for series in found.copies] == [128, 512]
    # Products of 1 us are short, so that the larger side is tried, and is faster.
    assert {name: series.work for name, series in found.matmul.items()} == {"bfloat16": 2 * 16**3, "float32": 2 * 16**3}
    assert found.copies[0].samples_ns == (1000,) * MOST_RUNS and found.copies[0].per_second == 128e6
    assert "side 8, 16" in found.method and "threads" in found.method


def test_slow_work_is_run_a_few_times_and_no_larger_one_is_tried():
    found = measure_ceilings(CPU, (torch.float32,), sizes=TINY, clock=TickingClock(BUDGET_NS))
    assert found is not None
    assert found.matmul["float32"].work == 2 * 8**3 and len(found.matmul["float32"].samples_ns) == LEAST_RUNS


def test_tiny_kernels_are_timed_by_the_replay_of_a_recording():
    recorder = Recorder()
    found = measure_ceilings(CPU, (torch.float32,), sizes=TINY, clock=TickingClock(2560), capture=lambda: recorder)
    assert found is not None and found.kernels is not None and found.kernels.work == CHAIN
    assert found.launch_ns == pytest.approx(10) and recorder.replays == 2 + len(found.kernels.samples_ns)


def test_a_chain_that_cannot_be_recorded_leaves_the_other_ceilings():
    recorder = Recorder()
    recorder.fails = True
    found = measure_ceilings(CPU, (torch.float32,), sizes=TINY, capture=lambda: recorder)
    assert found is not None and found.kernels is None and recorder.aborted


@pytest.mark.parametrize(
    ("message", "kept"), [("DefaultCPUAllocator: can't allocate memory", True), ("illegal", False)]
)
def test_without_room_there_are_no_ceilings_and_another_error_is_raised(message, kept, monkeypatch):
    def full(*_args, **_kwargs):
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "ones", full)
    if kept:
        assert measure_ceilings(CPU, (torch.float32,), sizes=TINY) is None
    else:
        with pytest.raises(RuntimeError, match=message):
            measure_ceilings(CPU, (torch.float32,), sizes=TINY)


def test_a_case_has_the_ceilings_of_its_machine_and_the_traffic_of_its_decode(tmp_path):
    case = CaseConfig(model="demo/var", weights="random:0", repeats=1, max_warmup=1)
    outcome = measure_case(Job(record_id="r", case=case, folder=tmp_path), lambda event: None).outcome
    assert isinstance(outcome, Measured) and outcome.ceilings is not None
    assert set(outcome.ceilings.matmul) == {"float32"} and len(outcome.ceilings.copies) > 1
    assert outcome.setup.decode_bytes and outcome.setup.decode_dtype == "float32"
    assert Measured.model_validate_json(outcome.model_dump_json()) == outcome
