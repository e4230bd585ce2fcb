"""A Ray cluster of two nodes beside one machine: `python tests/support/ray_proof.py --images 5000 --models demo/var`.

Twice the same: images of demo/var are evaluated, and the cases of the suite `demo` of the named models are run; once on
this machine alone, once by two nodes. On the nodes a worker is killed after its first chunks, and a node is removed a
while later. Digests of all features, numbers and records must be equal; what was disturbed and compared is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from engine_facts import facts
from ray_cluster import two_nodes
from run_helpers import SilentListener

from arvbench.harness.cli import main as arvbench
from arvbench.harness.jobs import Event
from arvbench.harness.run.engines.cluster import Cluster
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.engines.ray import RayEngine
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Suite, load_suite
from arvbench.results.schema import Status

REQUEST = ("--reference", "digits", "--protocol", "digits-cnn", "--bootstrap", "0", "--json")


class Disturbances:
    """Kills a worker, then removes a node, once each, when as many images as `moments` says are done."""

    def __init__(self, cluster: Any, node: Any, moments: Sequence[int]) -> None:
        self._cluster, self._node, self._moments = cluster, node, list(moments)
        self._acts: list[Callable[[], str]] = [self._kill_worker, self._remove_node]
        self.done: list[str] = []

    def hear(self, event: Event) -> None:
        if event.phase.endswith("samples") and self._acts and event.done >= self._moments[0]:
            del self._moments[0]
            self.done.append(f"{self._acts.pop(0)()} at {event.done} images")

    def _kill_worker(self) -> str:
        busy = [p for p in psutil.Process().children(recursive=True) if "ray::_call" in p.cmdline()[:1]]
        busy[-1].send_signal(signal.SIGKILL)
        return "a worker killed"

    def _remove_node(self) -> str:
        self._cluster.remove_node(self._node, allow_graceful=False)
        return "a node removed"


class Disturbed(SilentListener):
    """Passes the events of cases to disturbances."""

    def __init__(self, disturbances: Disturbances) -> None:
        self._disturbances = disturbances

    def case_event(self, case, event) -> None:
        self._disturbances.hear(event)


def numbers(*arguments: object) -> Any:
    """Return what a command of the command line writes to stdout, as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert arvbench(list(map(str, arguments))) == 0
    return json.loads(out.getvalue())


def digests(work: Path) -> dict[str, str]:
    """Return the sha256 of every chunk of features."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in work.glob("chunk-*")}
    assert found
    return found


def prove_evaluation(images: int, folder: Path) -> None:
    samples = folder / "samples.npz"
    drawn = ["sample", "demo/var", "--weights", "demo", "--images", images, "--batch", 50, "--out", samples]
    assert arvbench(list(map(str, drawn))) == 0
    alone = numbers("eval", samples, *REQUEST, "--workers", 1, "--work", folder / "alone")
    with two_nodes() as (cluster, second):
        disturbances, run = Disturbances(cluster, second, (256, 512)), Cluster.run

        def disturbed(self, function, arguments, need, listener, limit_s):
            def tell(event: Event) -> None:
                listener(event)
                disturbances.hear(event)

            return run(self, function, arguments, need, tell, limit_s)

        with mock.patch.object(Cluster, "run", disturbed):
            request = ("--engine", "ray", "--retries", 3, "--work", folder / "nodes")
            found = numbers("eval", samples, *REQUEST, *request)
    assert found == alone
    ours, theirs = digests(folder / "alone"), digests(folder / "nodes" / "whole")
    assert ours == theirs
    print(f"evaluation of {images:,} images of demo/var: {', '.join(disturbances.done)}; numbers and the digests of")
    print(f"{len(ours)} chunks are those of one process", flush=True)
    assert len(disturbances.done) == 2


def prove_suite(suite: Suite, folder: Path) -> None:
    stores = [RecordStore(folder / name) for name in ("alone", "nodes")]
    for store in stores:
        store.prepare()
    alone = run_suite(suite, stores[0], LocalEngine(), SilentListener())
    with two_nodes() as (cluster, second):
        disturbances = Disturbances(cluster, second, (256, 300))
        options = RunOptions(retries=3)
        nodes = run_suite(suite, stores[1], RayEngine(), Disturbed(disturbances), options=options)
    unlike = [
        f"{record.case_id}: {ours!r} and {theirs!r}"[:2000]
        for record, *both in zip(alone, facts(alone), facts(nodes), strict=True)
        for ours, theirs in zip(*both, strict=False)
        if ours != theirs
    ]
    assert not unlike, "\n".join(unlike)
    stored = stores[1].records()
    lost = [record for record in stored if record.status is not Status.OK]
    assert len({record.record_id for record in stored}) == len(stored) == len(suite.cases) + len(lost)
    print(
        f"{len(suite.cases)} cases of suite demo: {', '.join(disturbances.done)}; {len(lost)} lost attempts recorded;"
    )
    print("tokens, checks, quality and pictures of all records are those of one machine", flush=True)
    assert len(disturbances.done) == 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--models", nargs="*", default=["demo/var", "demo/nar"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.images:
            prove_evaluation(options.images, folder)
        suite = load_suite("demo")
        cases = tuple(case for case in suite.cases if case.config.model in options.models)
        if cases:
            prove_suite(suite.model_copy(update={"cases": cases}), folder / "suite")


if __name__ == "__main__":
    main()
