"""Fixtures that all tests share."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from unittest import mock

import blas_threads  # noqa: F401
import pytest
import torch
from hypothesis import HealthCheck, settings
from warm_program import Programs

from arvbench.harness.machine.forks import CAN_FORK
from arvbench.harness.run.engines import local

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
LONG = (
    "reports/test_browser.py",
    "test_site.py",
    "test_example.py",
    "test_identities.py",
    "adapters",
    "harness",
    "reports",
)
"""Files and folders whose tests take long, in the order in which processes take them; all others come after them."""

# Inputs are the same in every run, and no file of examples is kept: tests are deterministic.
settings.register_profile(
    "few", max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("fuzz", settings.get_profile("few"), max_examples=10_000)
settings.load_profile("few")


# Bytecode is kept, also where the environment says not to: child processes start in less time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests send Ctrl-C to child processes, which would ignore it where a shell started this one in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move files that take long to the front: a process that got one of them last would end alone."""

    def place(item: pytest.Item) -> int:
        ways = (item.path, *item.path.parents)
        return next((number for number, name in enumerate(LONG) if TESTS / name in ways), len(LONG))

    items.sort(key=place)


@pytest.fixture
def golden() -> Path:
    """Folder of fixtures and key manifests."""
    return GOLDEN


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, in fixtures too: small models gain nothing from more, which wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _one_thread_in_every_module(_one_thread: None) -> None:
    """Use one thread again: what fixtures of the module before have set outlives their tests."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Keep collections short: nothing looks again at what was imported, which is a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _threads_as_before(_one_thread: None) -> Iterator[None]:
    """Undo a test's own number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Starts programs whose imports are done."""
    with closing(Programs(tmp_path_factory.mktemp("programs"))) as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def _forked_engines(programs: Programs) -> Iterator[None]:
    """Fork the warm processes of local engines from one that has imported the harness."""
    with mock.patch.object(local, "start_warm", programs.engine_process) if CAN_FORK else nullcontext():
        yield


@pytest.fixture
def forked_helpers(programs: Programs) -> Iterator[None]:
    """Fork helpers of passes over images, and launches of `versus`, where their start is not the point."""
    with contextlib.ExitStack() as patches:
        for module in ("quality.features.feature_pass", "versus.trial") if CAN_FORK else ():
            patches.enter_context(mock.patch(f"arvbench.harness.{module}.running", programs.running))
        yield
