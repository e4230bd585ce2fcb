"""Workers on the nodes of a Ray cluster.

A timed job has a node to itself. The images of a quality part are shared by all nodes: every shard of them is a task
that returns its chunks of features, and a last task makes the numbers of all chunks. Chunks do not depend on who
extracted them, so the record is that of one machine, bit for bit on equal hardware.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from arvbench.errors import HostError
from arvbench.harness.jobs import FEATURES_FOLDER, Event, EventListener, Job, Part, Result, Shard
from arvbench.harness.quality.features.chunks import chunk_count
from arvbench.harness.run.crew import cores_taken
from arvbench.harness.run.engines import ray_tasks
from arvbench.harness.run.engines.cluster import ADDRESS, Cluster, Ended, Need, Node, refused
from arvbench.harness.run.engines.parcels import Parcel, pack, unpack
from arvbench.results.schema import Environment, Measured

_DESCRIBE_S = 120.0


class RayEngine:
    """Measures on a cluster: that at `address`, else that of RAY_ADDRESS, else one on this machine."""

    def __init__(
        self, *, workers: int | None = None, address: str | None = None, accelerator: str | None = None
    ) -> None:
        """Share images among `workers` tasks, None as many as the cluster has room for."""
        self._cluster = Cluster(address or os.environ.get(ADDRESS))
        self._workers, self._accelerator = workers, accelerator
        self._described: dict[str, Environment] = {}
        self._timed: set[str] = set()
        """Nodes that a timed job has to itself."""
        self._choosing = threading.Lock()

    def environment(self, device: str) -> Environment:
        if device not in self._described:
            need = Need(cpus=1, gpus=_gpus(device), accelerator=self._accelerator)
            if not self._cluster.slots(need):
                raise HostError(f"the Ray cluster has no living node for device {device!r}: none has {need}")
            try:
                text = self._cluster.run(_described, (device,), need, lambda _event: None, _DESCRIBE_S)
            except Ended as ended:
                raise HostError(ended.reason) from ended
            self._described[device] = Environment.model_validate_json(text)
        return self._described[device]

    def room(self, job: Job, others: Sequence[Job]) -> bool:
        if any(one.part is not job.part for one in others):
            return False
        if job.part is not Part.QUALITY:
            return len(others) < len(self._nodes(job.case.device))
        return len(others) < self._slots(job)

    def run(self, job: Job, listener: EventListener) -> Result:
        try:
            if job.part is not Part.QUALITY:
                return self._timed_job(job, listener)
            shards = self._shards(job)
            if len(shards) > 1:
                self._extract(job, shards, listener)
            features = pack(job.folder, (job.folder / FEATURES_FOLDER).rglob("[!.]*"))
            return self._answered(job, self._need(job), listener, features=self._cluster.put(features))
        except Ended as ended:
            return ended.result()

    def close(self) -> None:
        self._cluster.cancel()

    def _timed_job(self, job: Job, listener: EventListener) -> Result:
        """Run a job that has a node to itself."""
        with self._choosing:
            free = [node for node in self._nodes(job.case.device) if node.id not in self._timed]
            if not free:
                raise Ended.lost_node(job.case.device)
            node = free[0]
            self._timed.add(node.id)
        try:
            need = Need(cpus=node.cpus, gpus=_gpus(job.case.device), accelerator=self._accelerator, node=node.id)
            return self._answered(job, need, listener)
        finally:
            with self._choosing:
                self._timed.discard(node.id)

    def _extract(self, job: Job, shards: Sequence[Shard], listener: EventListener) -> None:
        """Have the features of all shards extracted, and put them into the run folder. Raises Ended."""
        done = dict.fromkeys(shards, 0)
        telling = threading.Lock()
        total = job.case.quality.images if job.case.quality else 0

        def one(shard: Shard) -> None:
            def tell(event: Event) -> None:
                if event.phase.endswith("samples"):
                    with telling:
                        done[shard] = event.done
                        listener(event.model_copy(update={"done": sum(done.values()), "total": total}))

            self._answered(job.model_copy(update={"shard": shard}), self._need(job), tell)

        with ThreadPoolExecutor(len(shards)) as pool:
            for future in [pool.submit(one, shard) for shard in shards]:
                future.result()

    def _answered(self, job: Job, need: Need, listener: EventListener, *, features: object = None) -> Result:
        """Run a job on a node, keep its files, and return its result. Raises Ended."""
        message = job.model_copy(update={"folder": Path("unused")}).model_dump_json()
        limit_s = max(0.0, job.case.timeout_s - job.spent_s)
        sent = (message, features)
        answer = refused(self._cluster.run(_job, sent, need, listener, limit_s))
        unpack(answer.files, job.folder)
        result = Result.model_validate_json(answer.result)
        if job.shard is not None and (result.lost or not isinstance(result.outcome, Measured)):
            raise Ended.of(result)
        return result

    def _shards(self, job: Job) -> list[Shard]:
        """Return the shards of a job's images: one for each task that has room, and at least a chunk in each."""
        random = isinstance(speed := job.speed.outcome if job.speed else None, Measured) and speed.setup.weights_random
        chunks = chunk_count(job.case.quality.images) if job.case.quality and not random else 1
        count = min(chunks, self._workers or self._slots(job))
        return [Shard(index, count) for index in range(1, count + 1)]

    def _slots(self, job: Job) -> int:
        """Return the number of untimed tasks of a case that the cluster has room for; at least one."""
        if _gpus(job.case.device):
            return max(1, sum(node.gpus for node in self._nodes(job.case.device)))
        cpus = self._need(job).cpus
        return max(1, sum(node.cpus // cpus for node in self._nodes("cpu")))

    def _need(self, job: Job) -> Need:
        most = max((node.cpus for node in self._nodes(job.case.device)), default=1)
        gpus = _gpus(job.case.device)
        cpus = 1 if gpus else max(1, cores_taken(job.case, most))
        return Need(cpus=cpus, gpus=gpus, accelerator=self._accelerator)

    def _nodes(self, device: str) -> list[Node]:
        """Return the living nodes for cases on a device."""
        need = Need(cpus=1, gpus=_gpus(device), accelerator=self._accelerator)
        return [node for node in self._cluster.nodes() if node.fits(need)]


def _gpus(device: str) -> int:
    return 0 if device == "cpu" else 1


def _described(device: str, post: ray_tasks.Post) -> str:
    return ray_tasks.describe(device)


def _job(message: str, features: Parcel | None, post: ray_tasks.Post) -> ray_tasks.Answer:
    return ray_tasks.run_job(message, (features,) if features else (), post)
