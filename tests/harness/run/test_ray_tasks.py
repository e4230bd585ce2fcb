"""Tasks of a Ray cluster: every end of one is an answer, and a cluster of our own leaves nothing.

One cluster on this machine serves the whole file: its start is most of what these tests take.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest
from ray_cluster import VARIABLES

from arvbench.errors import HostError
from arvbench.harness.cli import main
from arvbench.harness.jobs import Event
from arvbench.harness.run.engines import cluster as cluster_module
from arvbench.harness.run.engines import connection
from arvbench.harness.run.engines.cluster import Cluster, Ended, Need
from arvbench.harness.run.engines.ray import RayEngine
from arvbench.results.schema import Status

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
ONE = Need(cpus=1)
BEGUN = Event(phase="begun").model_dump_json()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with mock.patch.dict(os.environ, VARIABLES):
        yield Cluster(None)
        connection.disconnect()


def ended(cluster: Cluster, function, need: Need = ONE, listener=lambda event: None, limit_s: float = 60) -> Ended:
    with pytest.raises(Ended) as end:
        cluster.run(function, (BEGUN,), need, listener, limit_s)
    return end.value


def test_a_task_answers_after_its_events(cluster):
    def task(begun, number, post):
        post(begun)
        return number + 1

    phases = []
    assert cluster.run(task, (BEGUN, 1), ONE, lambda event: phases.append(event.phase), 60) == 2
    assert phases == ["begun"]


def test_a_failure_of_the_task_is_not_tried_again_and_a_lost_worker_may_be(cluster):
    def fails(begun, post):
        raise ValueError("made up")

    def dies(begun, post):
        os.kill(os.getpid(), signal.SIGKILL)

    failed, lost = ended(cluster, fails), ended(cluster, dies)
    assert (failed.status, failed.lost) == (Status.ERROR, False) and "made up" in failed.reason
    assert (lost.status, lost.lost) == (Status.ERROR, True) and "the worker or its node was lost" in lost.reason


def test_what_ray_tells_of_its_nodes_is_not_on_stdout(cluster, capsys):
    from ray._private.worker import print_to_stdstream

    print_to_stdstream({"lines": ["a node died"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert capsys.readouterr().out == ""


def test_a_task_that_never_ends_is_late_and_one_that_is_cancelled_may_run_again(cluster, monkeypatch):
    def stays(begun, post):
        post(begun)
        while True:
            time.sleep(0.01)

    cancelled = ended(cluster, stays, listener=lambda event: cluster.cancel())
    assert (cancelled.reason, cancelled.lost) == ("cancelled", True)
    monkeypatch.setattr(cluster_module, "_GRACE_S", 0.5)
    late = ended(cluster, stays, limit_s=0)
    assert (late.status, late.lost) == (Status.TIMEOUT, False)


def test_what_no_node_has_is_said_and_not_waited_for(cluster, monkeypatch):
    monkeypatch.setattr(cluster_module, "_UNPLACED_S", 0)
    assert "no living node has 1000 CPUs" in ended(cluster, lambda *_: None, need=Need(cpus=1000)).reason
    with closing(RayEngine()) as engine, pytest.raises(HostError, match="no living node for device 'cuda': none has 1"):
        engine.environment("cuda")


def test_the_numbers_of_an_evaluation_are_those_of_one_process(cluster, tmp_path, capsys):
    samples = tmp_path / "samples.npz"
    np.savez(samples, arr_0=np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), "uint8"))
    request = ["eval", str(samples), "--reference", "digits", "--protocol", "digits-cnn", "--metrics", "fid", "--json"]
    found = []
    for engine in (["--engine", "ray", "--workers", "1", "--work", str(tmp_path / "w")], []):
        assert main([*request, *engine]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] and [path.name for path in (tmp_path / "w").iterdir()] == ["whole"]


def test_a_cluster_of_our_own_ends_with_the_connection_and_its_folder_too(cluster):
    def folder(begun, post):
        import ray

        return ray._private.worker._global_node.get_session_dir_path()

    session = Path(cluster.run(folder, (BEGUN,), ONE, lambda event: None, 60))
    processes = [p for p in psutil.Process().children(recursive=True) if "ray" in " ".join(p.cmdline())]
    assert processes and session.parent.name.startswith(f"arvbench-{os.getpid()}-")
    connection.disconnect()
    assert not session.parent.exists()
    assert psutil.wait_procs(processes, timeout=60)[1] == []


def test_sockets_of_ray_have_short_paths_wherever_temporary_files_are(monkeypatch):
    for top, taken in (("/tmp", "/tmp"), ("/scratch/of/a/user/with/a/long/name", "/tmp"), ("/var/tmp", "/var/tmp")):
        monkeypatch.setattr(tempfile, "tempdir", top)
        assert connection._short_top() == Path(taken)
