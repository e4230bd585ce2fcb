"""Contract of every engine: equal records, events, deadlines, and ends that are answers; only the runner tries again.

`local` with two workers is tested always, the others with `-m slow`: each starts processes that import everything anew.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import psutil
import pytest
from engine_facts import facts
from run_helpers import SilentListener, workers_of, write_suite

from arvbench.harness.run.engines import ENGINES
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.ranks import this_rank
from arvbench.harness.run.runner import RunListener, RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Suite, load_suite
from arvbench.results.records import read_records
from arvbench.results.schema import Measured, Record, Status
from arvbench.results.search import searches

QUALITY = {"protocols": ["digits-cnn"], "reference": "digits", "images": 260, "metrics": ["fid"], "bootstrap": 0}
CASE = {"weights": "demo", "threads": 1, "repeats": 1, "max_warmup": 1, "batch": 20}
CASES = [
    CASE | {"model": "demo/detailflow", "quality": QUALITY, "sample_sheet": 1},
    CASE | {"model": "demo/nar", "timeout_s": 0.01},
    CASE | {"model": "demo/nar", "batch": 2, "memory_limit_bytes": 1},
    CASE | {"model": "demo/nar", "batch": 1},
]
KILLED = 3
"""Place of the case whose first worker is killed."""
PHASES = ["load", "correctness", "memory", "warm-up", "timing"]


@dataclass(frozen=True)
class Kind:
    """An engine with its options, and the processes that share the cases, each by the variables of its launcher."""

    engine: str
    options: dict[str, object] = field(default_factory=dict)
    ranks: Sequence[dict[str, str]] = ({},)

    def open(self) -> Engine:
        return ENGINES[self.engine](**self.options)

    @property
    def arguments(self) -> list[str]:
        given = [part for name, value in self.options.items() for part in (f"--{name}", str(value))]
        return ["--engine", self.engine, *given]


TORCHRUN = [{"RANK": str(r), "WORLD_SIZE": "2", "LOCAL_RANK": str(r)} for r in (0, 1)]
SLURM = [{"SLURM_PROCID": str(r), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(r)} for r in (0, 1)]
KINDS = {
    "local, 1 worker": Kind("local", {"workers": 1}),
    "fresh processes": Kind("spawn"),
    "local, 2 workers": Kind("local", {"workers": 2}),
    "torchrun": Kind("torchrun", ranks=TORCHRUN),
    "SLURM": Kind("torchrun", ranks=SLURM),
    "ray": Kind("ray"),
}
ALWAYS = "local, 2 workers"


class Watching(SilentListener):
    """Notes phases and starts by case, and kills the first worker of one case."""

    def __init__(self, killed: str) -> None:
        self.killed, self.kills = killed, 0
        self.phases: dict[str, list[str]] = {}
        self.starts: list[str] = []

    def case_started(self, case, part) -> None:
        self.starts.append(f"{part} {case.case_id}")

    def case_event(self, case, event) -> None:
        seen = self.phases.setdefault(case.case_id, [])
        if event.phase not in seen:
            seen.append(event.phase)
        if case.case_id == self.killed and event.phase == "load" and not self.kills:
            self.kills += 1
            for worker in workers_of(os.getpid()):
                worker.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Ran:
    """Records and output of one run, of all its ranks together."""

    records: list[Record]
    """One of each case, in the order of the suite."""
    stored: list[Record]
    watching: Watching
    folders: list[Path]


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite") / "s.yaml", cases=CASES)


@pytest.fixture(scope="module", params=[pytest.param(k, marks=[pytest.mark.slow] * (k != ALWAYS)) for k in KINDS])
def kind(request) -> Iterator[Kind]:
    with ExitStack() as stack:
        if request.param == "ray":
            if find_spec("ray") is None:
                pytest.skip("needs ray")
            from ray_cluster import two_nodes

            cluster, _ = stack.enter_context(two_nodes())
            stack.enter_context(mock.patch.dict("os.environ", RAY_ADDRESS=cluster.address))
        yield KINDS[request.param]


@pytest.fixture(scope="module")
def ran(kind, suite, tmp_path_factory) -> Ran:
    whole = load_suite(str(suite))
    watching = Watching(whole.cases[KILLED].case_id)
    found, folders = run_ranks(kind, whole, tmp_path_factory.mktemp("out"), watching)
    by_case = {record.case_id: record for record in found}
    stored = [record for folder in folders for record in read_records(folder).records]
    return Ran([by_case[case.case_id] for case in whole.cases], stored, watching, folders)


def run_ranks(kind: Kind, suite: Suite, out: Path, listener: RunListener) -> tuple[list[Record], list[Path]]:
    """Run the part of every rank, one after another; return the records and the run folders."""
    records, folders = [], []
    for variables in kind.ranks:
        with mock.patch.dict("os.environ", variables):
            part = suite.shard(this_rank().shard) if variables else suite
            folders.append(folder := out / this_rank().folder if variables else out / "all")
            store = RecordStore(folder)
            store.prepare()
            records += run_suite(part, store, kind.open(), listener, options=RunOptions(retries=1))
    return records, folders


@pytest.fixture(scope="module")
def alone(suite, tmp_path_factory) -> list[Record]:
    """Records of one worker after another, without a disturbance."""
    store = RecordStore(tmp_path_factory.mktemp("alone"))
    store.prepare()
    return run_suite(load_suite(str(suite)), store, ENGINES["local"](workers=1), SilentListener())


def test_records_are_those_of_one_worker_after_another(ran, alone):
    assert facts(ran.records) == facts(alone)
    for record, other in zip(ran.records, alone, strict=True):
        assert keys(record.model_dump(mode="json")) == keys(other.model_dump(mode="json"))


def keys(value: object) -> object:
    """Return the names of fields at all depths; telemetry and load depend on what the machine shows."""
    if not isinstance(value, dict):
        return None
    return {name: keys(part) for name, part in value.items() if name not in ("telemetry", "host_load", "start")}


def test_events_of_every_measured_case_come_in_their_order(ran):
    for record in ran.records:
        phases = ran.watching.phases.get(record.case_id, [])
        if isinstance(record.outcome, Measured):
            assert [phase for phase in phases if phase in PHASES] == PHASES
    assert "quality: samples" in ran.watching.phases[ran.records[0].case_id]


def test_a_deadline_and_a_failure_are_records_and_are_not_tried_again(ran):
    late, full = ran.records[1], ran.records[2]
    assert late.status is Status.TIMEOUT and "timeout_s 0.01" in late.outcome.reason
    assert full.status is Status.OOM
    for record in (late, full):
        assert ran.watching.starts.count(f"speed {record.case_id}") == 1
        assert [r.record_id for r in ran.stored if r.case_id == record.case_id] == [record.record_id]


def test_a_killed_worker_is_tried_again_by_the_runner_alone_and_both_attempts_are_kept(ran):
    last = ran.records[KILLED]
    assert ran.watching.kills == 1 and ran.watching.starts.count(f"speed {last.case_id}") == 2
    first, second = (record for record in ran.stored if record.case_id == last.case_id)
    assert first.status is Status.ERROR and "SIGKILL" in first.outcome.reason
    assert second.status is Status.OK and second.record_id == last.record_id


def test_nothing_but_records_and_sheets_is_left(ran):
    for folder in ran.folders:
        assert {path.name for path in folder.iterdir()} <= {"records.jsonl", "samples"}
    assert workers_of(os.getpid()) == []


def test_a_search_is_whole_on_every_engine_and_goes_on_from_its_records(kind, tmp_path):
    """Two searches: ranks have one each, others run them beside each other, and both have a best of their own tries."""
    asked = {"objective": "latency", "over": {"batch": [1, 2]}, "budget": 2}
    cases = [CASE | {"model": model, "search": asked} for model in ("demo/nar", "demo/detailflow")]
    suite = load_suite(str(write_suite(tmp_path / "s.yaml", cases=cases)))
    first, _ = run_ranks(kind, suite, tmp_path, SilentListener())
    found = sorted(searches(first), key=lambda search: search.best.case.model)
    assert [search.best.case.model for search in found] == ["demo/detailflow", "demo/nar"]
    assert [search.mark(search.best) for search in found] == ["best of 2", "best of 2"]
    assert sorted((record.case.model, record.case.batch) for record in first) == [
        (model, batch) for model in ("demo/detailflow", "demo/nar") for batch in (1, 2)
    ]
    again, _ = run_ranks(kind, suite, tmp_path, SilentListener())
    assert {record.record_id for record in again} == {record.record_id for record in first}


def test_ctrl_c_is_one_line_and_leaves_nothing(programs, kind, suite, tmp_path):
    (tmp_path / "tmp").mkdir()
    variables = dict(kind.ranks[0]) | {"TMPDIR": str(tmp_path / "tmp")}
    command = ["-m", "arvbench", "run", suite, "--no-report", "--out", tmp_path / "out", *kind.arguments]
    driver = programs.start(*command, variables=variables)
    wait_for(lambda: driver.poll() is not None or any((tmp_path / "out").rglob(".job-*.lock")))
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("interrupted; what is finished is kept: 0 record(s) in ") and out == ""
    _, living = psutil.wait_procs(children, timeout=60)
    assert living == []
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "records.jsonl"]
    assert left == [] and list((tmp_path / "tmp").iterdir()) == []


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)
