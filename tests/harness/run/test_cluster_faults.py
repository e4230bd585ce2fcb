"""Faults of single machines of a cluster: each is named with its node, and no record is lost by it."""

from __future__ import annotations

import resource
import shutil
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from records import START, record

from arvbench.errors import HostError
from arvbench.harness.cli import main
from arvbench.harness.jobs import Job
from arvbench.harness.run.engines import ray_tasks
from arvbench.harness.run.engines.cluster import Ended, refused
from arvbench.harness.run.engines.parcels import pack, unpack
from arvbench.harness.run.store import RecordStore
from arvbench.results.records import read_records
from arvbench.results.schema import CaseConfig, Status

CASE = {"model": "demo/var", "threads": 1, "repeats": 1, "max_warmup": 1}


@contextmanager
def limited_files(most_bytes: int):
    """Limit the size of files of this process, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_node_without_the_weights_is_named_with_the_file(tmp_path):
    case = CaseConfig(**CASE, weights=str(tmp_path / "missing"))
    job = Job(record_id="r", case=case, folder=Path("unused"))
    answer = ray_tasks.run_job(job.model_dump_json(), (), lambda event: None)
    with pytest.raises(Ended) as refusal:
        refused(answer)
    assert refusal.value.status is Status.ERROR and not refusal.value.lost
    assert f"node {answer.node}: " in refusal.value.reason and str(tmp_path / "missing") in refusal.value.reason


def test_a_full_disk_of_the_driver_is_one_error_and_writes_no_half_file(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "chunk").write_bytes(bytes(100_000))
    parcel = pack(tmp_path / "node", [tmp_path / "node" / "chunk"])
    with limited_files(50_000), pytest.raises(Exception, match="cannot write"):
        unpack(parcel, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []
    unpack(parcel, tmp_path / "here")
    assert (tmp_path / "here" / "chunk").stat().st_size == 100_000


def test_a_full_disk_of_a_node_is_named_and_the_next_run_goes_on(programs, tmp_path):
    import numpy as np

    np.savez(tmp_path / "s.npz", arr_0=np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), "uint8"))
    request = ["eval", str(tmp_path / "s.npz"), "--reference", "digits", "--protocol", "digits-cnn", "--metrics", "fid"]
    shard = [*request, "--workers", "1", "--shard", "1/1", "--work", str(tmp_path / "w")]
    code = (
        "import resource, sys; from arvbench.harness.cli import main; sys.dont_write_bytecode = True; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY)); sys.exit(main(sys.argv[1:]))"
    )
    full = programs.run("-c", code, *shard)
    last = full.stderr.strip().splitlines()[-1]
    assert full.returncode == 2 and last.startswith("error: cannot write") and "finished chunks are intact" in last
    assert not list(tmp_path.glob("w/*/chunk-*.safetensors")) and not list(tmp_path.glob("w/*/shard.json"))
    assert main(shard) == 0 and main(["merge", str(tmp_path / "w"), "--out", str(tmp_path / "whole")]) == 0


def test_a_store_on_a_full_device_keeps_older_records(tmp_path):
    store = RecordStore(tmp_path)
    store.prepare()
    store.append(record(number=0))
    size = store.path.stat().st_size
    with limited_files(size + 100), pytest.raises(HostError, match="older records are intact"):
        store.append(record(number=1))
    assert store.path.stat().st_size == size
    store.append(record(number=1))
    assert len(store.records()) == 2


def test_clocks_that_disagree_change_neither_order_nor_choice(tmp_path, capsys):
    """The second machine's clock is a day behind: its later record still counts, since it stands last."""
    early, late = START - timedelta(days=1), START + timedelta(days=1)
    first = record(number=1, record_id="first", fingerprint="f" * 64, started=late, finished=late)
    second = record(number=2, record_id="second", fingerprint="f" * 64, started=early, finished=early)
    for name, one in (("a", first), ("b", second)):
        store = RecordStore(tmp_path / name)
        store.prepare()
        store.append(one)
    for order in (("a", "b"), ("b", "a")):
        out = tmp_path / "".join(order)
        assert main(["records", "merge", *(str(tmp_path / name) for name in order), "--out", str(out)]) == 0
        found = [r.record_id for r in read_records(out).records]
        assert found == [{"a": "first", "b": "second"}[name] for name in order]
        assert main(["records", "prune", str(out), "--superseded"]) == 0
        assert [r.record_id for r in read_records(out).records] == found[-1:]
        shutil.rmtree(out)
