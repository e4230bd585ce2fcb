"""A Ray cluster of two nodes on this machine's CPU, for tests; it ends with the block."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


@contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """Yield the cluster and its second node; this process is connected to it."""
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    with mock.patch.dict(os.environ, variables):
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        try:
            second = cluster.add_node(**NODE)
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster, second
        finally:
            ray.shutdown()
            cluster.shutdown()
