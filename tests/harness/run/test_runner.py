"""The runner: it measures new cases, reuses finished ones, and loses none."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from records import GPU
from run_helpers import ScriptedEngine, SilentListener, case, environment, failure, suite

from arvbench.adapters.registry import MODELS
from arvbench.harness.jobs import Event, Finished, result_path
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.runner import RunListener, RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.results.schema import CaseConfig, Status

OFFICIAL = (MODELS["var-d16"].checkpoint.transformer_file, MODELS["var-d16"].checkpoint.tokenizer_file)
DIGITS = {"protocols": ["digits-cnn"], "reference": "digits", "images": 10}


@pytest.fixture
def store(tmp_path) -> RecordStore:
    ready = RecordStore(tmp_path / "run")
    ready.prepare()
    return ready


def run(store, engine, *cases, listener=None, **options):
    return run_suite(suite(*cases), store, engine, listener or SilentListener(), options=RunOptions(**options))


def test_every_case_gets_one_record_in_order_for_every_outcome(store):
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


def test_retry_failed_repeats_cases_whose_last_record_is_not_ok(store):
    run(store, ScriptedEngine(failure(status=Status.OOM)), case("a"))
    engine = ScriptedEngine(failure())
    run(store, engine, case("a"), retry_failed=True)
    assert len(engine.jobs) == 1


def test_another_source_or_machine_is_another_measurement():
    config = case().config
    here = fingerprint(config, environment())
    assert here == fingerprint(config, environment(git_dirty=True, os="another kernel"))
    changes = [
        {"source_sha256": "6" * 64},
        {"cpu": "another"},
        {"cores": 4},
        {"libraries": {"torch": "2.6.0"}},
        {"libraries": {"torch": "2.14.1", "triton": "3.5.0"}},
        {"gpu": GPU},
        {"gpu": GPU.model_copy(update={"name": "NVIDIA H100"})},
        {"gpu": GPU.model_copy(update={"driver": "580.65"})},
    ]
    others = {fingerprint(config, environment(**change)) for change in changes}
    others.add(fingerprint(case(batch=2).config, environment()))
    assert len(others | {here}) == len(changes) + 2


def test_the_momentary_state_of_a_gpu_is_not_part_of_the_identity():
    hot = GPU.model_copy(update={"sm_clock_mhz": 900, "power_w": 700.0, "throttle_reasons": ("thermal",)})
    assert fingerprint(case().config, environment(gpu=GPU)) == fingerprint(case().config, environment(gpu=hot))


def states_of(
    config: CaseConfig, names: Sequence[str], folder: Path, contents: Sequence[bytes] = (b"1", b"22")
) -> list[str]:
    """Fingerprints of a case while its two files come one after the other and then one becomes another."""
    seen = [fingerprint(config, environment())]
    for name, content in [(names[0], contents[0]), (names[1], contents[0]), (names[0], contents[1])]:
        (folder / name).write_bytes(content)
        seen.append(fingerprint(config, environment()))
    return seen


def test_new_weight_files_at_the_same_path_are_another_measurement(tmp_path):
    seen = states_of(case(model="var-d16", weights=str(tmp_path)).config, OFFICIAL, tmp_path)
    # With one of the two files there is nothing to measure yet.
    assert seen[0] == seen[1] and len(set(seen)) == 3
    alone = case(model="var-d16", weights=str(tmp_path / OFFICIAL[0])).config
    before = fingerprint(alone, environment())
    (tmp_path / OFFICIAL[1]).write_bytes(b"another tokenizer")
    assert fingerprint(alone, environment()) != before
    (tmp_path / "README.md").write_text("not read by any case")
    assert fingerprint(alone, environment()) == fingerprint(alone, environment()) != before


@pytest.mark.parametrize("weights", ["hub", "random:0"])
def test_a_file_that_is_named_like_a_kind_of_weights_is_none(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    config = case(model="var-d16", weights=weights).config
    before = fingerprint(config, environment())
    (tmp_path / weights).mkdir()
    (tmp_path / weights / OFFICIAL[0]).write_bytes(b"1")
    assert fingerprint(config, environment()) == before


def picture(px: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (px, px)).save(stream, "PNG")
    return stream.getvalue()


def test_other_images_in_the_reference_folder_are_another_measurement(tmp_path):
    (tmp_path / "deep").mkdir()
    quality = DIGITS | {"reference": str(tmp_path)}
    names = ("a.png", "deep/b.PNG")
    pictures = picture(8), picture(32)
    assert len(set(states_of(case(quality=quality).config, names, tmp_path, pictures))) == 4
    before = fingerprint(case(quality=quality).config, environment())
    (tmp_path / "notes.txt").write_text("no image")
    assert fingerprint(case(quality=quality).config, environment()) == before


def test_other_inception_weights_are_another_measurement(tmp_path, monkeypatch):
    monkeypatch.delenv("ARVBENCH_INCEPTION", raising=False)
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    asks = case(quality=DIGITS | {"protocols": ["torch-fidelity", "digits-cnn"]}).config
    asks_not = case(quality=DIGITS).config
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    one.write_bytes(b"1")
    two.write_bytes(b"22")
    by_flag = [fingerprint(asks, environment(), given) for given in ({}, {"inception": one}, {"inception": two})]
    assert len(set(by_flag)) == 3
    monkeypatch.setenv("ARVBENCH_INCEPTION", str(one))
    assert fingerprint(asks, environment()) == by_flag[1]
    assert fingerprint(asks, environment(), {"inception": two}) == by_flag[2]
    assert fingerprint(asks_not, environment(), {"inception": two}) == fingerprint(asks_not, environment())


def test_an_official_reference_is_another_measurement_when_its_file_changes(tmp_path, monkeypatch):
    name = "VIRTUAL_imagenet256_labeled.npz"
    monkeypatch.setenv("ARVBENCH_REFERENCES", str(tmp_path))
    config = case(quality=DIGITS | {"reference": name}).config
    assert len(set(states_of(config, (name, "VIRTUAL_imagenet512.npz"), tmp_path))) == 3


def test_weights_that_went_away_during_the_run_do_not_cost_the_record(store, tmp_path):
    (record,) = run(store, ScriptedEngine(failure()), case(model="var-d16", weights=str(tmp_path / "gone")))
    assert store.records() == [record]


def test_a_record_carries_the_source_that_the_worker_imported(store):
    edited = environment(source_sha256="7" * 64)
    (record,) = run(store, ScriptedEngine(failure(), where=edited), case("a"))
    assert record.environment.source_sha256 == environment().source_sha256
    assert record.fingerprint == fingerprint(record.case, environment())


def test_an_interrupt_keeps_finished_cases(store):
    engine = ScriptedEngine(failure(), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(store, engine, case("a"), case("b", batch=2), case("c", batch=3))
    assert [r.case_id for r in store.records()] == ["a"]


class InterruptedStore(RecordStore):
    """Ctrl-C is pressed just before a record is written."""

    def append(self, record) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        super().append(record)


def test_ctrl_c_while_a_record_is_written_comes_after_the_record(tmp_path):
    assert threading.current_thread() is threading.main_thread()
    store = InterruptedStore(tmp_path)
    store.prepare()
    with pytest.raises(KeyboardInterrupt):
        run(store, ScriptedEngine(failure()), case("a"))
    assert [r.case_id for r in store.records()] == ["a"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_listener_receives_every_event(store):
    heard: list[str] = []

    class Listener(RunListener):
        def case_reused(self, case, record):
            heard.append(f"reused {case.case_id}")

        def case_started(self, case, part):
            heard.append(f"started {case.case_id} {part}")

        def case_event(self, case, event):
            heard.append(f"{event.phase} {case.case_id}")

        def case_finished(self, case, record):
            heard.append(f"finished {case.case_id} {record.status}")

    class TalkingEngine(ScriptedEngine):
        def run(self, job, listener):
            listener(Event(phase="load"))
            return super().run(job, listener)

    run(store, ScriptedEngine(failure()), case("a"))
    run(store, TalkingEngine(failure()), case("a"), case("b", batch=2), listener=Listener())
    assert heard == ["reused a", "started b speed", "load b", "finished b error"]


def test_other_inception_weights_on_the_command_line_are_measured_again(store, tmp_path, monkeypatch):
    monkeypatch.delenv("ARVBENCH_INCEPTION", raising=False)
    asks = case(quality=DIGITS | {"protocols": ["torch-fidelity"]})
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    one.write_bytes(b"1")
    two.write_bytes(b"22")
    run(store, ScriptedEngine(failure()), asks, extractor_files={"inception": one})
    engine = ScriptedEngine(failure())
    run(store, engine, asks, extractor_files={"inception": one})
    assert engine.jobs == []
    run(store, engine, asks, extractor_files={"inception": two})
    assert [job.extractor_files for job in engine.jobs] == [{"inception": two}]


@pytest.mark.parametrize("stored", ["nothing", "half a line", "the record"])
def test_a_result_that_a_killed_runner_left_becomes_a_record_once(store, stored):
    class KilledAfterTheWorker(ScriptedEngine):
        def run(self, job, listener):
            result = super().run(job, listener)
            identity = fingerprint(job.case, result.environment)
            left = Finished(job=job, result=result, fingerprint=identity).model_dump_json()
            result_path(job.folder, job.record_id).write_text(left)
            if stored == "half a line":
                with store.path.open("a") as file:
                    file.write(f'{{"schema_version": 1, "record_id": "{job.record_id}", "sui')
            if stored != "the record":
                raise KeyboardInterrupt
            return result

    with contextlib.suppress(KeyboardInterrupt):
        run(store, KilledAfterTheWorker(failure("made once")), case("a"))
    engine = ScriptedEngine()
    store.prepare()
    (record,) = run(store, engine, case("a"))
    assert record.outcome.reason == "made once" and store.records() == [record] and engine.jobs == []
    left = ["records.jsonl", *(["records.jsonl.damaged"] if stored == "half a line" else [])]
    assert sorted(path.name for path in store.folder.iterdir()) == left
