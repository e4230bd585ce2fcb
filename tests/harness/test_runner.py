"""The orchestrator: what is measured, what is reused, what is never lost."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from run_helpers import ScriptedEngine, case, environment, failure, suite

from arvbench.harness.fingerprint import fingerprint
from arvbench.harness.jobs import Event
from arvbench.harness.runner import RunOptions, SilentListener, run_suite
from arvbench.harness.store import RecordStore
from arvbench.results.schema import Status


@pytest.fixture
def store(tmp_path) -> RecordStore:
    ready = RecordStore(tmp_path / "run")
    ready.prepare()
    return ready


def run(store, engine, *cases, where=None, **options):
    return run_suite(
        suite(*cases),
        store,
        engine,
        SilentListener(),
        environment_of=lambda device: where or environment(),
        options=RunOptions(**options),
    )


def test_every_case_gets_one_record_in_order_whatever_happened(store):
    engine = ScriptedEngine(failure("x"), failure("y", Status.OOM), failure("z", Status.TIMEOUT))
    records = run(store, engine, case("a"), case("b", batch=2), case("c", batch=3))
    assert [(r.case_id, r.status) for r in records] == [
        ("a", Status.ERROR),
        ("b", Status.OOM),
        ("c", Status.TIMEOUT),
    ]
    assert store.records() == records


def test_a_case_that_is_recorded_is_not_measured_again(store):
    first = run(store, ScriptedEngine(failure()), case("a"))
    engine = ScriptedEngine(failure())
    again = run(store, engine, case("a"), case("b", batch=2))
    assert [job.case.batch for job in engine.jobs] == [2]
    assert again[0] == first[0]


def test_fresh_measures_again_and_keeps_the_old_record(store):
    run(store, ScriptedEngine(failure()), case("a"))
    run(store, ScriptedEngine(failure()), case("a"), fresh=True)
    assert len(store.records()) == 2


def test_retry_failed_repeats_what_is_not_ok_by_its_last_record(store):
    run(store, ScriptedEngine(failure(status=Status.OOM)), case("a"))
    engine = ScriptedEngine(failure())
    run(store, engine, case("a"), retry_failed=True)
    assert len(engine.jobs) == 1


def test_another_source_or_machine_is_another_measurement():
    config = case().config
    here = fingerprint(config, environment())
    assert here == fingerprint(config, environment(git_dirty=True, os="another kernel"))
    changes = [{"source_sha256": "6" * 64}, {"cpu": "another"}, {"cores": 4}, {"libraries": {"torch": "2.6.0"}}]
    others = {fingerprint(config, environment(**change)) for change in changes}
    others.add(fingerprint(case(batch=2).config, environment()))
    assert len(others | {here}) == 6


def test_new_weight_files_at_the_same_path_are_another_measurement(tmp_path):
    config = case(weights=str(tmp_path)).config
    empty = fingerprint(config, environment())
    (tmp_path / "var_d16.pth").write_bytes(b"1")
    one = fingerprint(config, environment())
    (tmp_path / "var_d16.pth").write_bytes(b"22")
    assert len({empty, one, fingerprint(config, environment())}) == 3


def test_a_record_carries_the_source_that_the_worker_imported(store):
    edited = environment(source_sha256="7" * 64)
    (record,) = run(store, ScriptedEngine(failure()), case("a"), where=edited)
    assert record.environment.source_sha256 == "5" * 64
    assert record.fingerprint == fingerprint(record.case, environment())


def test_an_interrupt_keeps_what_is_finished(store):
    engine = ScriptedEngine(failure(), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(store, engine, case("a"), case("b", batch=2), case("c", batch=3))
    assert [r.case_id for r in store.records()] == ["a"]


def test_ctrl_c_while_a_record_is_written_comes_after_the_record(store, monkeypatch):
    assert threading.current_thread() is threading.main_thread()
    write = store.append

    def interrupted_write(record) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(record)

    monkeypatch.setattr(store, "append", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        run(store, ScriptedEngine(failure()), case("a"))
    assert [r.case_id for r in store.records()] == ["a"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_listener_hears_every_turn(store):
    heard: list[str] = []

    class Listener(SilentListener):
        def case_reused(self, case, record):
            heard.append(f"reused {case.case_id}")

        def case_started(self, case):
            heard.append(f"started {case.case_id}")

        def case_event(self, case, event):
            heard.append(f"{event.phase} {case.case_id}")

        def case_finished(self, case, record):
            heard.append(f"finished {case.case_id} {record.status}")

    class TalkingEngine(ScriptedEngine):
        def run(self, job, listener):
            listener(Event(phase="load"))
            return super().run(job, listener)

    run(store, ScriptedEngine(failure()), case("a"))
    run_suite(
        suite(case("a"), case("b", batch=2)),
        store,
        TalkingEngine(failure()),
        Listener(),
        environment_of=lambda device: environment(),
    )
    assert heard == ["reused a", "started b", "load b", "finished b error"]
