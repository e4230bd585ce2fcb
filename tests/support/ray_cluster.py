"""Ray clusters on this machine's CPU, for tests; they end with the block, and so do their session folders."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
}
"""Of all clusters of a process, which reads the token once."""
STARTED_S = 120.0
"""Time in which a node must have joined."""
_OTHER_MACHINE = """
hostname "$NAME" && mount -t tmpfs -o size="$DISK" tmpfs "$TMPDIR" && mount -t tmpfs tmpfs "$EMPTY" && exec "$@"
"""


@contextmanager
def one_node(node: dict[str, Any] = NODE, **variables: str) -> Iterator[Any]:
    """Yield a cluster whose head has these resources; this process is connected to it. `variables` are Ray's."""
    # Not in TMPDIR, where a test looks for what is left; and sockets have short paths.
    folders = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    with folders as folder, mock.patch.dict(os.environ, VARIABLES | variables | {"RAY_TMPDIR": folder}):
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE | node | {"include_dashboard": False})
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """Yield the cluster and its second node; this process is connected to it."""
    with one_node() as cluster:
        yield cluster, cluster.add_node(**NODE)


@contextmanager
def another_machine(cluster: Any, name: str, scratch: Path, empty: Path, disk: str) -> Iterator[None]:
    """Have a node join that has a host name, and disks of its own: `disk` bytes for `scratch`, nothing in `empty`.

    Needs the right to make namespaces.
    """
    apart = [
        "unshare",
        "--mount",
        "--uts",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        _OTHER_MACHINE,
        "sh",
    ]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", "--num-cpus=1"]
    options = ["--object-store-memory=100000000", "--block"]
    before, ours = len(alive()), {"NAME": name, "TMPDIR": str(scratch), "EMPTY": str(empty), "DISK": disk}
    process = subprocess.Popen(
        [*apart, *start, *options],
        env=os.environ | ours,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + STARTED_S
        while len(alive()) <= before:
            assert process.poll() is None and time.monotonic() < deadline, "the node did not join"
            time.sleep(0.1)
        yield
    finally:
        process.kill()  # the end of a namespace of processes ends all that are in it
        process.wait()


def alive() -> list[Any]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]
