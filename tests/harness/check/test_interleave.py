"""The interleaved run: its order, its records, and that a killed one goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import records
from run_helpers import case, environment, failure

from arvbench.errors import ContractError, UserError
from arvbench.harness.check.engine import SideEngine
from arvbench.harness.check.interleave import CheckRun, Interleaved, Lane, Stage, check_folder, new_run, open_run
from arvbench.harness.check.sides import BuiltSide
from arvbench.harness.jobs import Event, EventListener, Finished, Job, Result, result_path
from arvbench.harness.machine.processes import this_python
from arvbench.harness.run.engines.spawn import SpawnEngine
from arvbench.results.records import read_records
from arvbench.results.schema import Environment, Measured, Outcome, Record
from arvbench.results.verdict import Side

CASES = (case("a"), case("b", batch=2))
SCREEN = Stage(name="screen", cases=CASES, launches=range(1, 5))


def built(name: str, /, **changes) -> BuiltSide:
    fields = {"name": name, "commit": name * 10, "dirty": False, "source_sha256": name[0] * 64}
    return BuiltSide(side=Side(**(fields | changes)), python=this_python())


def measured() -> Measured:
    return records.measured("demo/var", CASES[0].config, seed=0, speed=1.0, gpu=None)


BASE, HEAD = built("base"), built("head", name="working tree", dirty=True)


class CountingEngine:
    """Measures nothing, and notes the launches; `ends` are the outcomes of certain jobs, by number from 0."""

    def __init__(self, log: list[tuple[str, Job]], name: str, ends: Mapping[int, Outcome | BaseException]) -> None:
        self._log, self._name, self._ends = log, name, ends

    def environment(self, device: str) -> Environment:
        return environment()

    def run(self, job: Job, listener: EventListener) -> Result:
        end = self._ends.get(len(self._log), measured())
        self._log.append((self._name, job))
        if isinstance(end, BaseException):
            raise end
        return Result(outcome=end, environment=environment())

    def close(self) -> None: ...


class Rig:
    """A check of made-up sides in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[tuple[str, Job]] = []
        self.ends: dict[int, Outcome | BaseException] = {}
        self.events: list[Event] = []

    @contextmanager
    def opened(self, *, head: BuiltSide = HEAD, **identity: str) -> Iterator[tuple[CheckRun, str, Interleaved]]:
        with check_folder(self.folder) as stores:
            run, notice = open_run(self.folder, new_run("gate", {"machine": "this one"} | identity, BASE, head))
            lanes = [
                Lane(name=name, built=side, store=stores[name], engine=CountingEngine(self.log, name, self.ends))
                for name, side in (("base", BASE), ("head", head))
            ]
            yield run, notice, Interleaved(run, lanes, self.events.append)

    def recorded(self, side: str) -> list[Record]:
        return list(read_records(self.folder / side))

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.log]


@pytest.fixture
def rig(tmp_path) -> Rig:
    return Rig(tmp_path / "check")


def test_launches_take_turns_case_by_case(rig):
    with rig.opened() as (_, notice, interleaved):
        assert notice == ""
        interleaved.measure(SCREEN)
        assert interleaved.failures == ()
    rounds = [("base", "head"), ("head", "base"), ("base", "head"), ("head", "base")]
    assert rig.order == [name for pair in rounds for _ in CASES for name in pair]
    assert [job.case_id for _, job in rig.log] == ["a", "a", "b", "b"] * 4
    assert [(event.done, event.total) for event in rig.events] == [(number, 16) for number in range(16)]
    assert "b, base, launch 4" in {event.note for event in rig.events}


def test_every_launch_is_a_record_of_its_side_and_of_the_run(rig):
    with rig.opened() as (run, _, interleaved):
        interleaved.measure(SCREEN)
        second = Stage(name="suspected", cases=CASES[1:], launches=range(5, 8))
        interleaved.measure(second)
        late = {side: interleaved.records(side, second) for side in ("base", "head")}
        assert [record.record_id for record in late["head"]] == [
            run.record_id("head", CASES[1], launch) for launch in (5, 6, 7)
        ]
    for side in ("base", "head"):
        recorded = rig.recorded(side)
        assert len(recorded) == 4 * 2 + 3 and recorded[-3:] == late[side]
        assert {record.record_id[:16] for record in recorded} == {run.run_id}
        assert len({record.record_id for record in recorded}) == 11
        assert {record.suite for record in recorded} == {"gate"}


def test_quality_has_a_run_seed_of_its_own_in_each_launch_that_measures_it(rig):
    quality = {"protocols": ["digits-cnn"], "reference": "digits", "images": 10, "seed": 7}
    cases = [case("q", quality=quality, sample_sheet=3), case("other", quality=quality, batch=2)]
    stages = [
        Stage(name="screen", cases=cases, launches=range(1, 5), seeded=["q", "other"]),
        Stage(name="suspected", cases=cases, launches=range(5, 9), seeded=["q"], seeds=3),
    ]
    with rig.opened() as (_, _, interleaved):
        for stage in stages:
            interleaved.measure(stage)
    seeds = {(name, job.case_id, job.launch): job.case.quality.seed for name, job in rig.log if job.case.quality}
    first = {(name, wanted, 1): 7 for name in ("base", "head") for wanted in ("q", "other")}
    assert seeds == first | {(name, "q", launch): 6 + launch for name in ("base", "head") for launch in (5, 6, 7)}
    assert all(job.control and job.case.sample_sheet == 0 for _, job in rig.log)


def test_a_killed_check_goes_on_where_it_stopped(rig):
    rig.ends[5] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), rig.opened() as (run, _, interleaved):
        interleaved.measure(SCREEN)
    first, (stopped_side, stopped) = rig.log[:5], rig.log[5]
    with rig.opened() as (again, notice, interleaved):
        assert again == run and notice == f"going on with run {run.run_id}, which was interrupted"
        interleaved.measure(SCREEN)
        ids = [record.record_id for side in ("base", "head") for record in interleaved.records(side, SCREEN)]
    assert rig.log[6][0] == stopped_side and rig.log[6][1].record_id == stopped.record_id
    assert len(rig.log) == 5 + 1 + 11
    assert len(set(ids)) == 16 and {job.record_id for _, job in first} < set(ids)


def test_a_launch_that_was_finished_when_the_check_was_killed_is_not_measured_again(rig):
    with rig.opened() as (run, _, _):
        record_id = run.record_id("head", CASES[0], 1)
        job = Job(record_id=record_id, case=CASES[0].config, folder=rig.folder / "head", started=run.started)
        left = Finished(job=job, result=Result(outcome=measured(), environment=environment()), fingerprint="f")
        result_path(rig.folder / "head", record_id).write_text(left.model_dump_json())
    with rig.opened() as (_, _, interleaved):
        interleaved.measure(SCREEN)
    assert len(rig.log) == 15 and record_id not in {job.record_id for _, job in rig.log}


@pytest.mark.parametrize(
    ("head", "identity", "named"),
    [
        (replace(HEAD, side=HEAD.side.model_copy(update={"source_sha256": "e" * 64})), {}, "source of head"),
        (HEAD, {"suite": "another"}, "suite"),
        (HEAD, {"machine": "another"}, "machine"),
    ],
)
def test_an_unfinished_check_of_something_else_starts_anew_and_says_so(rig, head, identity, named):
    with rig.opened() as (first, _, interleaved):
        interleaved.measure(SCREEN)
    with rig.opened(head=head, **identity) as (run, notice, interleaved):
        assert run.run_id != first.run_id
        assert notice == f"the unfinished run {first.run_id} had another {named}: this one starts anew"
        assert interleaved.records("base", SCREEN) == []
        interleaved.measure(SCREEN)
    assert len(rig.log) == 32
    assert len(rig.recorded("base")) == 16, "older records stay"


def test_a_finished_check_is_over_and_the_same_command_makes_a_new_one(rig):
    with rig.opened() as (first, _, _):
        (rig.folder / "verdict.json").write_text(f'{{"run_id": "{first.run_id}"}}')
    with rig.opened() as (second, notice, _):
        assert second.run_id != first.run_id and notice == ""


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run_id": 3}', "\0", "[" * 100_000], ids=lambda text: text[:9])
def test_a_damaged_file_of_the_run_starts_anew(rig, content):
    with rig.opened() as (first, _, _):
        (rig.folder / "verdict.json").write_text(content)
    with rig.opened() as (second, _, _):
        assert second == first, "a damaged verdict is none"
    (rig.folder / "check.json").write_text(content)
    with rig.opened() as (third, _, _):
        assert third.run_id != first.run_id


@pytest.mark.parametrize("run_id", ["", "../../0123456789", "0123456789ABCDEF", "0" * 500])
def test_a_run_whose_id_is_no_beginning_of_a_file_name_starts_anew(rig, run_id):
    with rig.opened() as (first, _, _):
        pass
    path = rig.folder / "check.json"
    path.write_text(path.read_text().replace(first.run_id, run_id))
    with rig.opened() as (second, _, _):
        assert second.run_id not in (first.run_id, run_id)


@pytest.mark.parametrize("name", ["check.json", "verdict.json"])
def test_a_pipe_in_the_place_of_a_file_of_the_run_is_refused(rig, name):
    rig.folder.mkdir(exist_ok=True)
    os.mkfifo(rig.folder / name)
    with pytest.raises(UserError, match=f"{name}: it is a named pipe"), rig.opened():
        pass


def test_records_of_another_run_in_the_folder_count_for_nothing_and_stay(rig):
    foreign = [Record.model_validate(record) for record in _records_of_another_run(rig)]
    with rig.opened() as (_, _, interleaved):
        interleaved.measure(SCREEN)
        assert len(interleaved.records("base", SCREEN)) == 8
    assert rig.recorded("base")[: len(foreign)] == foreign and len(rig.log) == 16 + 16


def _records_of_another_run(rig: Rig) -> list[Record]:
    with rig.opened() as (_, _, interleaved):
        interleaved.measure(SCREEN)
    (rig.folder / "check.json").unlink()
    return rig.recorded("base")


def test_a_case_of_which_a_launch_fails_has_no_further_ones_and_both_sides_are_named(rig):
    rig.ends[2] = failure("ImportError: cannot import name 'Cache'")
    with rig.opened() as (_, _, interleaved):
        interleaved.measure(SCREEN)
        assert interleaved.failed == {"b"}
        assert interleaved.failures == (
            "base, base (basebasebase), has no numbers for b under the harness of head, working tree (headheadhead "
            "with changes): error: ImportError: cannot import name 'Cache'",
        )
    assert [job.case_id for _, job in rig.log] == ["a", "a", "b"] + ["a"] * 6


def test_cases_that_fail_alike_are_one_sentence(rig):
    rig.ends = {0: failure("gone"), 1: failure("gone")}
    with rig.opened() as (_, _, interleaved):
        interleaved.measure(SCREEN)
        (sentence,) = interleaved.failures
    assert "has no numbers for a and 1 more under the harness of head" in sentence
    assert len(rig.log) == 2


def test_two_checks_do_not_share_a_folder(rig):
    with rig.opened(), pytest.raises(UserError, match=r"another check runs in .* choose another folder with --out"):
        check_folder(rig.folder).__enter__()
    assert not (rig.folder / ".check.lock").exists()


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write results to .*choose another folder with --out"):
        check_folder(tmp_path / "file").__enter__()


class _Answers(SpawnEngine):
    """Answers for the worker of any side with the digest of one source."""

    def run(self, job: Job, listener: EventListener) -> Result:
        return Result(outcome=measured(), environment=environment(source_sha256="b" * 64, git_commit=None))


@pytest.fixture
def _no_workers(monkeypatch) -> None:
    monkeypatch.setattr(SpawnEngine, "run", _Answers.run)


@pytest.mark.usefixtures("_no_workers")
def test_records_name_the_commit_of_their_side_and_another_source_is_refused(tmp_path):
    job = Job(record_id="1", case=CASES[0].config, folder=tmp_path)
    engine = SideEngine(built("base", source_sha256="b" * 64))
    there = engine.run(job, lambda event: None).environment
    assert (there.git_commit, there.git_dirty) == ("base" * 10, False)
    with pytest.raises(ContractError, match="not that of its side"):
        SideEngine(HEAD).run(job, lambda event: None)
