"""Memory by component, and the probe behind it."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch
from torch import nn

from arvbench.adapters import PerImageNoise
from arvbench.harness.machine.memory import ProcessMemoryProbe, allocator_settings
from arvbench.harness.measure.memory import measure_memory, weight_bytes

MIB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")


class ScriptedProbe:
    """Answers in a fixed order."""

    source = "cuda-allocator"

    def __init__(self, in_use: int | None, *peaks: int | None) -> None:
        self._in_use, self._peaks = in_use, list(peaks)
        self.log: list[str] = []

    def release_unused(self) -> None:
        self.log.append("release")

    def in_use_bytes(self) -> int | None:
        self.log.append("in use")
        return self._in_use

    def begin_phase(self) -> None:
        self.log.append("begin")

    def peak_bytes(self) -> int | None:
        self.log.append("peak")
        return self._peaks.pop(0)

    def reserved_bytes(self) -> int:
        return 900

    def device_used_bytes(self) -> int:
        return 1000

    def machine_used_bytes(self) -> None:
        return None

    def allocation_retries(self) -> int:
        return 3


def measure(sampler, probe, policy="grow", batch=2):
    settings = sampler.spec.settings
    schedule = sampler.schedule(settings, batch=batch)

    def call(cache, observer) -> None:
        noise = PerImageNoise(0, range(batch))
        sampler.sample([0] * batch, settings, noise=noise, cache=cache, observer=observer)

    def make_cache():
        probe.log.append("cache")
        return sampler.make_cache(policy, settings, batch=batch)

    memory, steps = measure_memory(sampler, schedule, make_cache=make_cache, call=call, probe=probe)
    return memory, steps, schedule


def test_peaks_are_reported_above_the_memory_in_use_before(reference):
    memory, _, _ = measure(reference, ScriptedProbe(100, 350, 220))
    assert (memory.tokens_peak_bytes, memory.decode_peak_bytes) == (250, 120)
    assert (memory.peak_bytes, memory.reserved_bytes, memory.device_used_bytes) == (350, 900, 1000)


def test_the_cache_is_made_after_the_baseline_and_counts_in_the_peak(reference):
    probe = ScriptedProbe(100, 350, 220)
    measure(reference, probe)
    assert probe.log == ["release", "in use", "begin", "cache", "peak", "begin", "peak"]


def test_memory_that_a_machine_does_not_count_is_none(reference):
    memory, _, _ = measure(reference, ScriptedProbe(None, None, None))
    assert (memory.tokens_peak_bytes, memory.decode_peak_bytes, memory.peak_bytes) == (None, None, None)


@pytest.mark.parametrize("policy", ["grow", "static"])
def test_live_cache_bytes_equal_the_plan_at_every_step(reference, policy):
    memory, steps, schedule = measure(reference, ScriptedProbe(0, 1, 1), policy, batch=3)
    assert [s.live_bytes for s in steps] == [s.planned_bytes for s in steps] == [s.cache_bytes for s in schedule]
    assert all(step.allocated_bytes >= step.live_bytes for step in steps)
    assert memory.cache_live_bytes == memory.cache_planned_bytes == schedule.peak_cache_bytes
    if policy == "static":
        assert {step.allocated_bytes for step in steps} == {schedule.peak_cache_bytes}


def test_every_number_of_a_record_says_what_it_counts_or_why_it_is_absent(reference):
    for probe in (ScriptedProbe(100, 350, 220), ProcessMemoryProbe()):
        probe.log = []
        memory, _, _ = measure(reference, probe, batch=3)
        numbers = {name for name in type(memory).model_fields if name.endswith("_bytes")}
        assert memory.counts.keys() | memory.absent.keys() == numbers
        assert not memory.counts.keys() & memory.absent.keys()
        assert all(getattr(memory, name) is None for name in memory.absent)
    assert memory.counts["cache_live_bytes"].endswith("here after step 5 of 6, 6 forward rows of 3 images.")


def test_retries_and_settings_of_allocators_are_recorded(reference, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    memory, _, _ = measure(reference, ScriptedProbe(100, 350, 220))
    assert memory.allocation_retries == 3
    assert memory.allocator_settings["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


def test_settings_name_no_folder_and_have_a_bound():
    set_to = {"LD_PRELOAD": "/home/me/libjemalloc.so.2 /x/y.so", "MALLOC_ARENA_MAX": "1" * 999, "HOME": "/home/me"}
    found = allocator_settings(set_to)
    assert found == {"LD_PRELOAD": "libjemalloc.so.2:y.so", "MALLOC_ARENA_MAX": "1" * 200}


def test_weights_are_parameters_and_buffers_and_shared_ones_count_once():
    shared = nn.Linear(4, 8, bias=False)
    module = nn.ModuleList([shared, nn.Linear(4, 8)])
    module[1].weight = shared.weight
    module.register_buffer("constant", torch.zeros(10, dtype=torch.float64))
    assert weight_bytes(module) == 4 * 8 * 4 + 8 * 4 + 80


@linux
def test_the_process_probe_sees_a_peak_that_is_over():
    probe = ProcessMemoryProbe()
    probe.begin_phase()
    if probe.peak_bytes() is None:
        pytest.skip("this kernel does not let a process reset its peak")
    probe.release_unused()
    before = probe.in_use_bytes()
    probe.begin_phase()
    block = torch.ones(64 * MIB, dtype=torch.uint8)
    del block
    probe.release_unused()
    assert probe.peak_bytes() - before >= 60 * MIB
    probe.begin_phase()
    assert probe.peak_bytes() - before < 32 * MIB


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_freed_blocks_that_the_c_library_keeps_do_not_hide_the_next_need():
    probe = ProcessMemoryProbe()
    probe.release_unused()
    before = probe.in_use_bytes()
    blocks = [bytearray(b"x" * 64 * 1024) for _ in range(1024)]
    pin = blocks[-1]
    assert probe.in_use_bytes() - before > 48 * MIB
    blocks.clear()
    probe.release_unused()
    assert probe.in_use_bytes() - before < 16 * MIB
    assert len(pin) == 64 * 1024


def test_a_kernel_that_refuses_gives_none_and_not_an_old_peak(tmp_path):
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  800 kB\nVmRSS:\t  500 kB\n")
    (tmp_path / "clear_refs").mkdir()
    probe = ProcessMemoryProbe(tmp_path)
    probe.begin_phase()
    assert probe.in_use_bytes() == 500 * 1024
    assert probe.peak_bytes() is None
    (tmp_path / "clear_refs").rmdir()
    probe.begin_phase()
    assert probe.peak_bytes() == 800 * 1024
    assert (tmp_path / "clear_refs").read_text() == "5"
