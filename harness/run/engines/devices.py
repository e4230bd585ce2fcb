"""GPUs of a machine, given to one worker at a time by CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence

from arvbench.errors import HostError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable that names the GPUs which a process sees, by number or UUID."""


class Devices:
    """GPUs by their names in CUDA_VISIBLE_DEVICES; without names, every worker sees what we see.

    Only workers of cases on "cuda" are pinned: they see one GPU, as cuda:0.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names, self._free = tuple(names), list(names)
        self._change = threading.Condition()

    @property
    def count(self) -> int:
        """Workers on GPUs at once."""
        return max(1, len(self._names))

    def show_to_us(self) -> None:
        """Let this process see these GPUs alone, in this order: its cuda:0 is the one that timed workers get.

        Without effect once torch has looked.
        """
        if self._names:
            os.environ[VISIBLE] = ",".join(self._names)

    def check(self, seen: int) -> None:
        """Raise HostError where this process sees fewer than were named."""
        if seen < len(self._names):
            raise HostError(f"--devices names {len(self._names)} ({', '.join(self._names)}), this machine has {seen}")

    @contextlib.contextmanager
    def one(self, device: str) -> Iterator[dict[str, str]]:
        """Hold a GPU for a worker of a case on `device`; yield the variables that pin it. The first free one in order.

        Waits while all are taken.
        """
        if not self._names or device != "cuda":
            yield {}
            return
        with self._change:
            self._change.wait_for(lambda: bool(self._free))
            name = self._free.pop(0)
        try:
            yield {VISIBLE: name}
        finally:
            with self._change:
                self._free = [known for known in self._names if known in {*self._free, name}]
                self._change.notify()
