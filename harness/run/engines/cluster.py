"""A Ray cluster as this package uses it: tasks that are never retried by Ray, each with a deadline, events and an end.

Ray itself would retry a task that the memory monitor killed, and wait for ever for an object that was lost. Here every
such end is an answer: lost, out of memory, late. Only the runner tries again.

Units    _s seconds
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from arvbench.harness.jobs import Event, EventListener, Result
from arvbench.harness.run.engines import ray_tasks
from arvbench.harness.run.engines.connection import connect
from arvbench.harness.run.engines.ray_tasks import Answer
from arvbench.results.schema import Failed, Status

ADDRESS = "RAY_ADDRESS"
"""Variable of the address of a cluster."""
_POLL_S = 0.2
_UNPLACED_S = 60.0
"""Time that a task may wait for resources that no living node has."""
_INTERRUPT_S = 10.0
"""Time that an interrupted task has to end by itself."""
_GRACE_S = 60.0
"""Time beyond its own limit that a task has to end by itself."""


_TYPE = "accelerator_type:"
"""Begin of the name of a resource of Ray that says the type of a node's GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Resources of a task."""

    cpus: int
    gpus: int = 0
    accelerator: str | None = None
    node: str | None = None
    """Id of the node that it must run on."""

    def __str__(self) -> str:
        kind = f" of type {self.accelerator}" if self.accelerator else ""
        return f"{self.cpus} CPUs and {self.gpus} GPUs{kind}" if self.gpus else f"{self.cpus} CPUs"

    def options(self) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0}
        if self.accelerator and self.gpus:
            options["accelerator_type"] = self.accelerator
        if self.node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(self.node, soft=False)
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A living node."""

    id: str
    cpus: int
    gpus: int
    accelerators: frozenset[str] = frozenset()
    """Types of its GPUs, as Ray names them."""

    def fits(self, need: Need) -> bool:
        """Return whether a task with this need could ever run here."""
        known = need.accelerator is None or not need.gpus or need.accelerator in self.accelerators
        return known and self.cpus >= need.cpus and self.gpus >= need.gpus and need.node in (None, self.id)


@dataclass(slots=True)
class Ended(Exception):
    """A task that gave no answer, and why; `lost` when another attempt may go well."""

    status: Status
    reason: str
    lost: bool = field(default=False)

    @classmethod
    def of(cls, result: Result) -> Ended:
        """Return the end of a task whose job failed."""
        reason = result.outcome.reason if isinstance(result.outcome, Failed) else "its job gave no features"
        return cls(result.outcome.status, reason, result.lost)

    @classmethod
    def lost_node(cls, device: str) -> Ended:
        """Return the end of a task for which no node lives."""
        return cls(Status.ERROR, f"no living node for device {device!r}", lost=True)

    def result(self) -> Result:
        outcome = Failed.model_validate({"status": self.status, "reason": self.reason})
        return Result(outcome=outcome, lost=self.lost)


class Cluster:
    """A connection to a Ray cluster; None as address starts one on this machine."""

    def __init__(self, address: str | None) -> None:
        """Raise HostError without ray, and for an address that nobody answers at, within 20 s."""
        self._ray = connect(address)
        self._running: dict[str, Any] = {}
        """Task -> its reference."""
        self._listeners: dict[str, EventListener] = {}
        self._inbox: dict[str, list[Event]] = {}
        """Task -> events that its thread has not asked for yet."""
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._board = self._ray.remote(num_cpus=0)(ray_tasks.Board).remote()

    def nodes(self) -> list[Node]:
        """Return the living nodes."""
        return [_node(node) for node in self._ray.nodes() if node["Alive"]]

    def slots(self, need: Need) -> int:
        """Return how many tasks with this need run at once; 0 where no node fits."""
        fitting = [node for node in self.nodes() if node.fits(need)]
        if need.gpus:
            return sum(min(node.gpus // need.gpus, node.cpus // need.cpus) for node in fitting)
        return sum(node.cpus // need.cpus for node in fitting)

    def put(self, value: object) -> Any:
        """Return a reference to a value that several tasks take."""
        return self._ray.put(value)

    def run(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        need: Need,
        listener: EventListener,
        limit_s: float,
    ) -> Any:
        """Run `function(*arguments, post)` on a node and return what it returns. Raises Ended for every other end."""
        name = uuid.uuid4().hex
        remote = self._ray.remote(_call).options(**need.options())
        with self._lock:
            if self._closing.is_set():
                raise Ended(Status.ERROR, "cancelled", lost=True)
            reference = remote.remote(function, arguments, self._board, name)
            self._running[name], self._listeners[name] = reference, listener
        try:
            return self._waited(name, reference, need, limit_s)
        finally:
            with self._lock:
                del self._running[name], self._listeners[name]
                self._inbox.pop(name, None)
            self._end([reference])

    def cancel(self) -> None:
        """End all running tasks; their `run` raises. Later ones run again."""
        with self._lock:
            self._closing.set()
            references = list(self._running.values())
        self._end(references)
        with self._lock:
            self._closing.clear()

    def _waited(self, name: str, reference: Any, need: Need, limit_s: float) -> Any:
        """Wait for a task, passing its events on. Its time counts from its first event."""
        begun: float | None = None
        placeable = time.monotonic()
        while True:
            ready, _ = self._ray.wait([reference], timeout=_POLL_S)
            for event in self._events(name):
                begun = begun or time.monotonic()
                self._listeners[name](event)
            if ready:
                return self._answer(reference)
            now = time.monotonic()
            if begun is not None and now - begun > limit_s + _GRACE_S:
                raise Ended(Status.TIMEOUT, f"no answer from its node {_GRACE_S:g} s after its limit of {limit_s:g} s")
            if begun is not None or self._placeable(need):
                placeable = now
            elif now - placeable > _UNPLACED_S:
                raise Ended(Status.ERROR, f"no living node has {need}", lost=True)

    def _placeable(self, need: Need) -> bool:
        return any(node.fits(need) for node in self.nodes())

    def _events(self, name: str) -> list[Event]:
        """Return the events of a task; those of other tasks wait until their threads ask."""
        with self._lock:
            with contextlib.suppress(self._ray.exceptions.RayError):
                for task, event in self._ray.get(self._board.take.remote(), timeout=_GRACE_S):
                    self._inbox.setdefault(task, []).append(Event.model_validate_json(event))
            return self._inbox.pop(name, [])

    def _answer(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference, timeout=_GRACE_S)
        except errors.OutOfMemoryError as error:
            raise Ended(Status.OOM, f"Ray's memory monitor killed the worker: {_line(error)}") from error
        except errors.TaskCancelledError as error:  # before the next: an interrupted task raises one that is both
            raise Ended(Status.ERROR, "cancelled", lost=True) from error
        except errors.RayTaskError as error:
            raise Ended(Status.ERROR, _line(error.cause or error)) from error
        except (errors.RayError, TimeoutError) as error:
            raise Ended(Status.ERROR, f"the worker or its node was lost: {_line(error)}", lost=True) from error

    def _end(self, references: list[Any]) -> None:
        """Interrupt tasks, so that they remove their scratch folders, and kill those that do not end by that."""
        with contextlib.suppress(Exception):
            for reference in references:
                self._ray.cancel(reference, force=False)
            _, busy = self._ray.wait(references, num_returns=len(references), timeout=_INTERRUPT_S)
            for reference in busy:
                self._ray.cancel(reference, force=True)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], board: Any, name: str) -> Any:
    """Run on a node."""
    import ray

    loaded = tuple(ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in arguments)
    poster = ray_tasks.Poster(board, name)
    try:
        return function(*loaded, poster)
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # a lost board: the answer counts
            poster.wait()


def _node(described: Mapping[str, Any]) -> Node:
    resources = described["Resources"]
    types = frozenset(name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE))
    return Node(
        id=described["NodeID"], cpus=int(resources.get("CPU", 0)), gpus=int(resources.get("GPU", 0)), accelerators=types
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def refused(answer: Answer) -> Answer:
    """Return an answer that is one. Raises Ended for that of a node which lacks something."""
    if answer.refused:
        raise Ended(Status.ERROR, answer.refused)
    return answer
