"""The way of a launch to its first images, and the state of the caches that decide it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_models import tiny_var

from arvbench.adapters.loading import build_sampler
from arvbench.harness.jobs import COMPILER_CACHES, Job
from arvbench.harness.machine.page_cache import page_cache
from arvbench.harness.measure.case import measure_case
from arvbench.harness.measure.start import StartClock, compiler_cache
from arvbench.harness.run.worker import run_job
from arvbench.results.schema import CaseConfig, Measured

CASE = CaseConfig(model="demo/var", weights="random:0", repeats=1, max_warmup=1, threads=1)


def test_the_parts_of_a_start_are_times_that_follow_each_other(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("arvbench.harness.measure.start.time.perf_counter_ns", lambda: next(now))
    clock = StartClock(CASE, import_ns=7)
    clock.weights_read()
    clock.loaded()
    entered = []

    class Watch:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *_):
            entered.append(False)

    with clock.first_call(Watch()):
        assert entered == [True]
    start = clock.times()
    assert entered == [True, False]
    assert (start.import_ns, start.load_weights_ns, start.to_device_ns, start.first_call_ns) == (7, 10, 10, 10)
    assert start.compile_ns is None and start.capture_ns is None


def test_weights_are_read_before_modules_are_built():
    order = []
    sampler = build_sampler(tiny_var(), weights="random:0", weights_read=lambda: order.append("read"))
    assert order == ["read"] and sampler.spec.name == "tiny"


def test_a_record_has_the_start_of_its_launch(tmp_path):
    outcome = measure_case(Job(record_id="r", case=CASE, folder=tmp_path), lambda event: None).outcome
    assert isinstance(outcome, Measured) and outcome.start is not None
    assert min(outcome.start.load_weights_ns, outcome.start.to_device_ns, outcome.start.first_call_ns) > 0
    assert outcome.start.page_cache == "unknown"  # random weights have no files
    older = outcome.model_dump(mode="json")
    del older["start"]
    assert Measured.model_validate(older).start is None


@pytest.fixture
def no_caches(monkeypatch):
    for name in COMPILER_CACHES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def test_a_launch_has_compiler_caches_of_its_own_and_they_are_cold(tmp_path, no_caches):
    job = Job(record_id="r", case=CASE, folder=tmp_path, compiler_cache=tmp_path / "compiler")
    outcome = run_job(job, lambda event: None).outcome
    assert isinstance(outcome, Measured) and outcome.start is not None
    assert outcome.start.cache == "cold"
    folders = {os.environ[name] for name in COMPILER_CACHES}
    assert len(folders) == 2 and all(Path(folder).parent == tmp_path / "compiler" for folder in folders)
    assert outcome.start.import_ns is None  # this process had imported torch


def test_caches_that_the_user_named_stay_and_may_be_warm(tmp_path, monkeypatch, no_caches):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert compiler_cache() == "cold"
    (tmp_path / "kernel").mkdir()
    assert compiler_cache() == "warm"
    run_job(Job(record_id="r", case=CASE, folder=tmp_path, compiler_cache=tmp_path / "own"), lambda event: None)
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path)


def test_a_file_that_was_just_written_is_in_memory_and_one_that_was_dropped_is_not(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(2**20))
    assert page_cache([file]) == "warm"
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    state = page_cache([file])
    if state == "warm":
        pytest.skip("this file system keeps its pages whatever it is advised (such as one in memory)")
    assert state == "cold"


@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_and_an_empty_file_have_no_state(tmp_path, content):
    file = tmp_path / "weights.bin"
    if content is not None:
        file.write_bytes(content)
    assert page_cache([file]) == "unknown" and page_cache([]) == "unknown"
