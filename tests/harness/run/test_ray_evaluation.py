"""Evaluations whose features the nodes of a Ray cluster extract: the numbers are those of one process."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest

from arvbench.errors import HostError, UserError
from arvbench.harness.cli import main
from arvbench.harness.jobs import Shard
from arvbench.harness.quality.evaluation import EvaluationRequest
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.run.engines import ray_evaluation
from arvbench.harness.run.engines.cluster import Cluster, Ended, Need, Node, refused
from arvbench.harness.run.engines.ray_evaluation import Extraction
from arvbench.results.schema import Status

COUNT = 256 * 4 + 10
REQUEST = ("--reference", "digits", "--protocol", "digits-cnn", "--metrics", "fid", "--bootstrap", "0", "--json")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    return noise(tmp_path_factory.mktemp("samples") / "samples.npz", COUNT)


def noise(path: Path, count: int) -> Path:
    np.savez(path, arr_0=np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), "uint8"))
    return path


def numbers(capsys, samples: Path, *arguments: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["eval", str(samples), *REQUEST, *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "spawn"], "no engine of an evaluation 'spawn'"),
        (["--engine", "ray", "--shard", "1/2"], "leave one away"),
        (["--engine", "ray", "--address", "6379"], "write auto, HOST:PORT"),
        (["--address", "auto"], "--address is for --engine ray"),
        (["--engine", "local", "--retries", "1"], "--retries is for --engine ray"),
    ],
)
def test_options_that_do_not_fit_are_refused(samples, capsys, arguments, words):
    assert main(["eval", str(samples), *REQUEST, *arguments]) == 2
    assert words in (err := capsys.readouterr().err) and err.count("\n") == 1


def test_an_address_that_nobody_answers_at_and_a_missing_ray_are_one_line(samples, capsys, monkeypatch):
    assert main(["eval", str(samples), *REQUEST, "--engine", "ray", "--address", "127.0.0.1:1"]) == 3
    assert "nobody answers at the Ray address 127.0.0.1:1" in (err := capsys.readouterr().err) and err.count("\n") == 1
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["eval", str(samples), *REQUEST, "--engine", "ray"]) == 3
    assert capsys.readouterr().err == "error: --engine ray needs Ray: pip install 'arvbench[ray]'\n"


def test_local_is_the_engine_without_a_name(samples, capsys):
    assert numbers(capsys, samples, "--engine", "local") == numbers(capsys, samples)


def test_a_node_without_the_samples_is_named_with_the_file(samples):
    source = open_images(samples)
    request = EvaluationRequest(protocols=("digits-cnn",), reference="digits")
    extraction = Extraction.of(source, request, "cpu", {})
    samples.rename(away := samples.with_name("away.npz"))
    try:
        answer = ray_evaluation._extract(extraction, Shard(1, 2), lambda event: None)
    finally:
        away.rename(samples)
    with pytest.raises(Ended) as refusal:
        refused(answer)
    assert f"node {answer.node}" in refusal.value.reason and str(samples) in refusal.value.reason


def test_images_that_are_in_no_file_cannot_be_sent(samples):
    source = open_images(samples)
    source.address = None
    with pytest.raises(UserError, match="nodes cannot read it"):
        Extraction.of(source, EvaluationRequest(protocols=("digits-cnn",)), "cpu", {})


class Stand:
    """Stands in for a cluster: runs tasks here, one after another, after the given failures."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures, self.ran, self.cancelled = list(failures), [], 0

    def slots(self, need: Need) -> int:
        return 0 if need.gpus else 3

    def run(self, function, arguments, need, listener, limit_s) -> Any:
        self.ran.append(str(arguments[1]))
        if self.failures:
            raise self.failures.pop()
        return function(*arguments, lambda event: None)

    def cancel(self) -> None:
        self.cancelled += 1


def test_a_lost_shard_is_extracted_again_and_finished_ones_are_kept(samples, tmp_path, capsys, monkeypatch):
    lost = Ended(Status.ERROR, "made up", lost=True)
    first, second = Stand(lost), Stand()
    clusters = [first, second]
    monkeypatch.setattr(ray_evaluation, "Cluster", lambda address: clusters.pop(0))
    request = ["--engine", "ray", "--work", tmp_path / "w", "--workers", 3]
    assert main(["eval", str(samples), *REQUEST, *map(str, request), "--retries", "0"]) == 3
    assert "made up" in capsys.readouterr().err and first.cancelled == 1
    there = {path.parent.name for path in (tmp_path / "w").glob("*/shard.json")}
    assert len(there) == 2
    assert numbers(capsys, samples, *request) == numbers(capsys, samples)
    assert len(second.ran) == 1 and [path.name for path in (tmp_path / "w").iterdir()] == ["whole"]


def test_nodes_fit_by_cores_gpus_and_their_type():
    node = Node(id="1", cpus=4, gpus=2, accelerators=frozenset({"H100"}))
    assert node.fits(Need(cpus=4, gpus=2, accelerator="H100")) and node.fits(Need(cpus=1, accelerator="A100"))
    for need in (Need(cpus=5), Need(cpus=1, gpus=3), Need(cpus=1, gpus=1, accelerator="A100"), Need(cpus=1, node="2")):
        assert not node.fits(need), need


def test_a_cluster_without_such_gpus_says_so_at_once(samples, monkeypatch):
    cluster = Stand()
    options = ray_evaluation.ClusterOptions(cluster, None, 0, "A100")
    extraction = Extraction.of(open_images(samples), EvaluationRequest(protocols=("digits-cnn",)), "cuda", {})
    with pytest.raises(HostError, match="no living node with 1 CPUs and 1 GPUs of type A100"):
        ray_evaluation.extract_on_cluster(extraction, Path("unused"), options, lambda event: None)


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Any, Any]]:
    if find_spec("ray") is None:  # not imported here: Ray reads its variables then
        pytest.skip("needs ray")
    from ray_cluster import two_nodes

    with two_nodes() as both:
        yield both


@pytest.mark.slow
@pytest.mark.parametrize("disturbance", ["nothing", "a worker is killed", "a node is removed"])
def test_numbers_of_a_cluster_are_those_of_one_process(cluster, tmp_path, capsys, disturbance):
    samples = noise(tmp_path / "samples.npz", 20_000)  # tasks still run when their first event arrives
    nodes, second = cluster
    run = Cluster.run
    left = [disturbance]

    def disturbed(self, function, arguments, need, listener, limit_s):
        def tell(event) -> None:
            listener(event)
            if event.phase.startswith("on ") and left:  # a task runs there
                match left.pop():
                    case "a worker is killed":
                        busy = [p for p in psutil.Process().children(recursive=True) if "ray::_call" in p.cmdline()[:1]]
                        busy[-1].send_signal(signal.SIGKILL)
                    case "a node is removed":
                        nodes.remove_node(second, allow_graceful=False)

        return run(self, function, arguments, need, tell, limit_s)

    with mock.patch.object(Cluster, "run", disturbed):
        found = numbers(capsys, samples, "--engine", "ray", "--work", tmp_path / "w")
    assert not left and found == numbers(capsys, samples)
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["whole"]
