"""Nodes with disks and host names of their own, made of namespaces: what one lacks is said with its name.

The second node of these clusters has a scratch disk of 256 KiB and a folder for weights that is empty; all tasks go to
it, since the head has no cores to give.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from run_helpers import SilentListener, write_suite

from arvbench.harness.cli import main
from arvbench.harness.run.runner import run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import load_suite
from arvbench.results.schema import Record, Status

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")]
CASE = {"model": "demo/nar", "threads": 1, "repeats": 1, "max_warmup": 1}


@dataclass(frozen=True)
class Poor:
    """Address and folders of the second node, whose disks differ from those of this process."""

    address: str
    scratch: Path
    weights: Path


@pytest.fixture(scope="module")
def poor(tmp_path_factory) -> Iterator[Poor]:
    if subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not permitted here")
    from ray_cluster import another_machine, one_node

    scratch, weights = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("weights")
    with one_node({"num_cpus": 0}) as cluster, another_machine(cluster, "node-b", scratch, weights, "256k"):
        yield Poor(cluster.address, scratch, weights)


def test_a_node_without_the_weights_is_named_with_the_file(poor, tmp_path):
    import arvbench.adapters

    (weights,) = Path(arvbench.adapters.__file__).parent.rglob("nar.safetensors")
    for path in weights.parent.glob("nar.*"):
        (poor.weights / path.name).write_bytes(path.read_bytes())
    (one,) = measured(tmp_path, CASE | {"weights": str(poor.weights / "nar.safetensors")})
    assert one.status is Status.ERROR
    assert one.outcome.reason.startswith(f"node node-b: no weights at {poor.weights / 'nar.safetensors'}")


def test_a_full_disk_of_a_node_is_named_and_what_others_finished_is_kept(poor, tmp_path, capsys):
    samples = tmp_path / "samples.npz"
    np.savez(samples, arr_0=np.random.default_rng(0).integers(0, 256, (1024, 32, 32, 3), "uint8"))
    request = ["eval", str(samples), "--reference", "digits", "--protocol", "digits-cnn", "--metrics", "fid", "--json"]
    assert main([*request, "--engine", "ray", "--address", poor.address, "--work", str(tmp_path / "w")]) == 3
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "node node-b: cannot write " in last and "No space left on device" in last
    assert main([*request, "--work", str(tmp_path / "w")]) == 0


def test_a_full_disk_of_a_node_is_the_end_of_a_case_with_its_name(poor, tmp_path):
    quality = {"protocols": ["digits-cnn"], "reference": "digits", "images": 1024, "metrics": ["fid"], "bootstrap": 0}
    (one,) = measured(tmp_path, CASE | {"weights": "demo", "batch": 64, "quality": quality})
    assert one.status is Status.UNSUPPORTED  # as on one machine
    assert one.outcome.reason.startswith("node node-b: cannot write ")
    assert "No space left on device" in one.outcome.reason


def measured(folder: Path, case: dict[str, object]) -> list[Record]:
    from arvbench.harness.run.engines.ray import RayEngine

    store = RecordStore(folder / "out")
    store.prepare()
    suite = load_suite(str(write_suite(folder / "s.yaml", cases=[case])))
    return run_suite(suite, store, RayEngine(), SilentListener())
