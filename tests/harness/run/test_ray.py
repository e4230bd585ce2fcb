"""The engine of a Ray cluster: its records are those of one machine, also when workers and nodes go."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import psutil
import pytest
from engine_facts import facts
from run_helpers import SilentListener, write_suite

from arvbench.errors import HostError
from arvbench.harness.cli import main
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.engines.parcels import pack, unpack
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Suite, load_suite
from arvbench.results.schema import Record, Status

QUALITY = {"protocols": ["digits-cnn"], "reference": "digits", "images": 600, "bootstrap": 0}
CASE = {"weights": "demo", "threads": 1, "repeats": 1, "max_warmup": 1, "batch": 50}


def test_parcels_arrive_as_they_were_packed_or_not_at_all(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"content")
    parcel = pack(tmp_path / "a", (tmp_path / "a").rglob("*"))
    unpack(parcel, tmp_path / "there")
    assert (tmp_path / "there" / "b" / "c").read_bytes() == b"content"
    for name, content in (("../x", b"content"), ("/x", b"content"), ("b/c", b"changed")):
        with pytest.raises(HostError):
            unpack({name: (content, parcel["b/c"][1])}, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "x").exists()


def test_without_ray_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["run", "demo", "--engine", "ray", "--out", str(tmp_path)]) == 3
    assert capsys.readouterr().err == "error: --engine ray needs Ray: pip install 'arvbench[ray]'\n"


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("127.0.0.1:1", 3, "nobody answers at the Ray address 127.0.0.1:1: Connection refused"),
        ("no-such-host.invalid:6379", 3, "nobody answers at the Ray address"),
        ("6379", 2, "write auto, HOST:PORT or ray://HOST:PORT"),
        ("host:port", 2, "write auto, HOST:PORT"),
        ("host:99999", 2, "write auto, HOST:PORT"),
    ],
)
def test_an_address_that_nobody_answers_at_is_one_line(tmp_path, capsys, address, code, words):
    assert main(["run", "demo", "--engine", "ray", "--address", address, "--out", str(tmp_path)]) == code
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_options_that_an_engine_does_not_have_are_refused(tmp_path, capsys):
    assert main(["run", "demo", "--engine", "local", "--address", "auto", "--out", str(tmp_path)]) == 2
    assert "engine local has no --address" in capsys.readouterr().err


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Suite:
    path = tmp_path_factory.mktemp("suite") / "s.yaml"
    # Both have images to draw: when the first of them has some, the other node is busy too.
    cases = [{"model": "demo/var", "quality": QUALITY, "sample_sheet": 2}, {"model": "demo/nar", "quality": QUALITY}]
    return load_suite(str(write_suite(path, defaults=CASE, cases=cases)))


@pytest.fixture(scope="module")
def alone(suite, tmp_path_factory) -> list[Record]:
    """The records of one machine."""
    store = RecordStore(tmp_path_factory.mktemp("alone"))
    store.prepare()
    return run_suite(suite, store, LocalEngine(), SilentListener())


class Disturbed(SilentListener):
    """Calls `disturb` once, after the first images are extracted."""

    def __init__(self, disturb) -> None:
        self.left, self.disturb = 1, disturb
        self.phases: set[str] = set()

    def case_event(self, case, event) -> None:
        self.phases.add(event.phase)
        if event.phase == "quality: samples" and event.done and self.left:
            self.left -= 1
            self.disturb()


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Any, Any]]:
    if find_spec("ray") is None:  # not imported here: Ray reads its variables then
        pytest.skip("needs ray")
    from ray_cluster import two_nodes

    with two_nodes() as both:
        yield both


def workers_of_jobs() -> list[psutil.Process]:
    """Processes of running tasks, on both nodes."""
    return [p for p in psutil.Process().children(recursive=True) if "ray::_call" in " ".join(p.cmdline()[:1])]


@pytest.mark.slow
@pytest.mark.parametrize("disturbance", ["nothing", "a worker is killed", "a node is removed"])
def test_records_of_a_cluster_are_those_of_one_machine(cluster, suite, alone, tmp_path, disturbance):
    from arvbench.harness.run.engines.ray import RayEngine

    nodes, second = cluster

    def disturb() -> None:
        if disturbance == "a worker is killed":
            busy = workers_of_jobs()
            assert busy
            busy[-1].send_signal(signal.SIGKILL)
        if disturbance == "a node is removed":
            nodes.remove_node(second, allow_graceful=False)

    store, listener = RecordStore(tmp_path / "run"), Disturbed(disturb)
    store.prepare()
    records = run_suite(suite, store, RayEngine(), listener, options=RunOptions(retries=3))
    assert listener.left == 0 and any(phase.startswith("on ") for phase in listener.phases)
    assert facts(records) == facts(alone)
    stored = store.records()
    assert {r.record_id for r in stored if r.status is Status.OK} == {r.record_id for r in records}
    assert len({r.record_id for r in stored}) == len(stored)
    lost = [r for r in stored if r.status is not Status.OK]
    assert bool(lost) == (disturbance != "nothing")
    left = sorted(path.name for path in store.folder.iterdir())
    assert left == ["records.jsonl", "samples"]
