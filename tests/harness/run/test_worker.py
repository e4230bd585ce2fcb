"""Ends of a case: exceptions, limits, deaths, and the process around them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from run_helpers import workers_of
from safetensors.torch import save_file

from arvbench.adapters import load_sampler
from arvbench.errors import CheckpointError, HostError, UserError
from arvbench.harness.jobs import Event, Job
from arvbench.harness.machine.failures import failed, is_out_of_memory, one_line
from arvbench.harness.machine.limits import set_memory_limit
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.engines.post_mortem import explain_death, oom_kills
from arvbench.harness.run.worker import run_job
from arvbench.results.schema import CaseConfig, Measured, Status

GIB = 2**30


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    """The engine of `arvbench run`, with one warm process for all tests."""
    with closing(LocalEngine()) as local:
        yield local


def job(folder: Path, **changes) -> Job:
    fields = {"model": "demo/var", "weights": "random:0", "repeats": 1, "max_warmup": 1, "threads": 1, "timeout_s": 120}
    return Job(record_id="r1", case=CaseConfig(**(fields | changes)), folder=folder)


def ignore(event: Event) -> None: ...


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), Status.OOM),
        (torch.OutOfMemoryError("CUDA out of memory."), Status.OOM),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Status.OOM),
        (OSError(12, "Cannot allocate memory"), Status.OOM),
        (HostError("no GPU here"), Status.UNSUPPORTED),
        (UserError("label 11 is out of range"), Status.ERROR),
        (CheckpointError("NaN in head.weight"), Status.ERROR),
        (RuntimeError("shapes do not match"), Status.ERROR),
        (OSError(2, "no such file"), Status.ERROR),
    ],
)
def test_every_error_has_its_status(error, status):
    outcome = failed(error, CaseConfig(model="demo/var", weights="demo"))
    assert outcome.status is status
    assert "\n" not in outcome.reason


def test_an_allocation_that_failed_behind_another_error_is_still_out_of_memory():
    try:
        try:
            raise MemoryError
        except MemoryError as cause:
            raise CheckpointError("var_d16.pth is damaged or truncated") from cause
    except CheckpointError as error:
        assert is_out_of_memory(error)


def test_a_bug_names_its_type_and_keeps_the_traceback():
    try:
        [].pop()
    except IndexError as error:
        outcome = failed(error, CaseConfig(model="demo/var", weights="demo"))
    assert outcome.reason == "IndexError: pop from empty list"
    assert "test_worker.py" in outcome.detail


def test_reasons_are_one_line_and_not_endless():
    assert one_line("a\n  b") == "a b"
    assert len(one_line("x" * 1000, 50)) == 50


def test_sigkill_is_out_of_memory_only_with_evidence():
    with_evidence = explain_death(-signal.SIGKILL, "", 3, 4)
    without = explain_death(-signal.SIGKILL, "", 3, 3)
    assert with_evidence.status is Status.OOM
    assert without.status is Status.ERROR and "SIGKILL" in without.reason


def test_other_deaths_are_named():
    assert "SIGSEGV" in explain_death(-signal.SIGSEGV, "", 0, 1).reason
    assert explain_death(-signal.SIGSEGV, "", 0, 1).status is Status.ERROR
    assert explain_death(-signal.SIGABRT, "what(): std::bad_alloc", 0, 0).status is Status.OOM
    assert explain_death(-signal.SIGABRT, "free(): invalid pointer", 0, 0).status is Status.ERROR
    gone = explain_death(1, "Traceback\nImportError: no torch\n\n", 0, 0)
    assert gone.reason == "the worker ended with exit code 1 and no result: ImportError: no torch"


def test_oom_kills_are_read_from_either_cgroup_version_and_the_machine(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    files = {
        proc / "self" / "cgroup": "7:cpu:/\n4:memory:/a/b\n0::/c\n",
        proc / "vmstat": "pgfault 9\noom_kill 1\n",
        groups / "memory" / "a" / "b" / "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 20\n",
        groups / "c" / "memory.events": "low 0\noom 5\noom_kill 300\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert oom_kills(proc, groups) == 321
    assert oom_kills(tmp_path / "nothing", groups) == 0


def test_nan_in_weights_is_an_error_that_names_the_tensor(tmp_path):
    good = load_sampler("demo/var", weights="random:0")
    tensors = {
        f"{part}.{key}": value.clone() for part, m in good.modules().items() for key, value in m.state_dict().items()
    }
    tensors["transformer.blocks.1.ffn.fc1.weight"][3, 5] = torch.nan
    save_file(tensors, tmp_path / "bad.safetensors")
    result = run_job(job(tmp_path, weights=str(tmp_path / "bad.safetensors")), ignore)
    assert result.outcome.status is Status.ERROR
    assert "NaN" in result.outcome.reason and "blocks.1.ffn.fc1.weight" in result.outcome.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_unsupported(tmp_path):
    outcome = run_job(job(tmp_path, device="cuda"), ignore).outcome
    assert outcome.status is Status.UNSUPPORTED
    assert "CUDA" in outcome.reason


def test_a_limit_on_a_gpu_is_a_share_of_its_memory(monkeypatch):
    calls: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *arguments: calls.append(arguments))
    set_memory_limit(20 * GIB, torch.device("cuda"))
    set_memory_limit(200 * GIB, torch.device("cuda", 1))
    assert calls == [(0.25, 3), (1.0, 1)]


def test_a_limit_below_the_memory_of_the_libraries_is_out_of_memory(tmp_path):
    outcome = run_job(job(tmp_path, memory_limit_bytes=10 * 2**20), ignore).outcome
    assert outcome.status is Status.OOM
    assert "the libraries alone take" in outcome.reason


def test_a_case_is_measured_in_a_process_of_its_own(engine, tmp_path):
    events: list[Event] = []
    seen: set[int] = set()

    def listen(event: Event) -> None:
        events.append(event)
        seen.update(worker.pid for worker in workers_of(os.getpid()))

    result = engine.run(job(tmp_path, batch=2), listen)
    assert isinstance(result.outcome, Measured)
    assert result.outcome.setup.threads == 1
    assert result.environment is not None
    assert [e.phase for e in events] == ["import", "load", "correctness", "memory", "warm-up", "timing"]
    assert len(seen) == 1 and not workers_of(os.getpid())


def test_running_out_of_memory_is_a_status_and_not_a_crash(engine, tmp_path):
    # Room for the libraries and the model, and not for the KV cache of 4,000 images (4 GB).
    result = engine.run(job(tmp_path, batch=4000, memory_limit_bytes=2 * GIB), ignore)
    assert result.outcome.status is Status.OOM, result.outcome
    assert "batch 4000" in result.outcome.reason and "memory_limit_bytes" in result.outcome.reason


def test_a_case_that_takes_too_long_is_ended_with_its_process(engine, tmp_path):
    started = time.monotonic()
    result = engine.run(job(tmp_path, timeout_s=0.5, repeats=1000), ignore)
    assert result.outcome.status is Status.TIMEOUT
    assert "timeout_s 0.5" in result.outcome.reason
    assert not workers_of(os.getpid())
    assert time.monotonic() - started < 30


def test_a_worker_killed_from_outside_is_an_error_that_names_the_signal(engine, tmp_path):
    def kill_soon() -> None:
        while not (running := workers_of(os.getpid())):
            time.sleep(0.02)
        running[0].send_signal(signal.SIGTERM)

    killer = threading.Thread(target=kill_soon)
    killer.start()
    result = engine.run(job(tmp_path, repeats=1000), ignore)
    killer.join()
    assert result.outcome.status is Status.ERROR
    assert "SIGTERM" in result.outcome.reason
