"""Way of a launch to its first images, part by part. These times are shown beside the steady ones and never gated.

Units    _ns nanoseconds
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from arvbench.adapters.loading import locate_weights
from arvbench.adapters.methods.request import spec_of
from arvbench.errors import ArvbenchError
from arvbench.harness.jobs import COMPILER_CACHES
from arvbench.harness.machine.page_cache import PageCache, page_cache
from arvbench.results.machine import Start
from arvbench.results.schema import CaseConfig


class StartClock:
    """Times the load of a model and its first call."""

    def __init__(self, case: CaseConfig, *, import_ns: int | None = None) -> None:
        """Begin the load. `import_ns` is the time that the imports before it took."""
        self._device = torch.device(case.device)
        self._import_ns = import_ns
        self._page_cache, self._cache = _weights_state(case), compiler_cache()
        self._compiled = _CompileTimes() if self._device.type == "cuda" else None
        self._first_call_ns = 0
        self._begin = self._read = self._loaded = time.perf_counter_ns()

    def weights_read(self) -> None:
        """Note that the weights are in host memory, or drawn."""
        self._read = time.perf_counter_ns()

    def loaded(self) -> None:
        """Note that the sampler is ready."""
        self._settle()
        self._loaded = time.perf_counter_ns()

    @contextlib.contextmanager
    def first_call(self, watch: AbstractContextManager[object]) -> Iterator[None]:
        """Time the block, a sampling call, inside `watch`."""
        begin = time.perf_counter_ns()
        with watch:
            yield
        self._settle()
        self._first_call_ns = time.perf_counter_ns() - begin

    def times(self) -> Start:
        return Start(
            import_ns=self._import_ns,
            load_weights_ns=self._read - self._begin,
            to_device_ns=self._loaded - self._read,
            first_call_ns=self._first_call_ns,
            compile_ns=self._compiled.total_ns if self._compiled else None,
            capture_ns=None,  # no call is captured
            page_cache=self._page_cache,
            cache=self._cache,
        )

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _CompileTimes:
    """Adds up the times of Triton's compiler in this process."""

    def __init__(self) -> None:
        self.total_ns = 0
        with contextlib.suppress(ImportError, AttributeError):  # absent, or older than this hook
            import triton

            triton.knobs.compilation.listener = self._add

    def _add(self, *, times: Any, **_: Any) -> None:
        self.total_ns += 1000 * times.total


def compiler_cache() -> Literal["cold", "warm"]:
    """Return "warm" when a compiler's cache folder holds something, else "cold"."""
    folders = [Path(os.environ[name]) for name in COMPILER_CACHES if os.environ.get(name)]
    return "warm" if any(folder.is_dir() and any(folder.iterdir()) for folder in folders) else "cold"


def _weights_state(case: CaseConfig) -> PageCache:
    try:
        return page_cache(dict.fromkeys(locate_weights(spec_of(case.model, case.method), case.weights).values()))
    except ArvbenchError:  # the load says it better
        return "unknown"
