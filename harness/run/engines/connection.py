"""This process's connection to a Ray cluster, and the cluster that it starts where no address is given.

That one belongs to this process: its session folder is a scratch folder of ours, and both are gone when the process
ends. After a SIGKILL the kernel ends Ray's processes, and the next run removes the folder.

Units    _s seconds
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import tempfile
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from arvbench.errors import HostError, UserError
from arvbench.files import scratch_folder

CONNECT_S = 20.0
"""Time for the first contact with a cluster."""
_START_S = 120.0
"""Time to start a cluster on this machine, which may be busy."""
_ANSWER_S = 5.0
"""Time for a host to accept a connection."""
_LONGEST_TOP = 12
"""Characters of a folder of temporary files in which Ray's sockets keep below the 107 of a socket's path."""

_connected = contextlib.ExitStack()
"""Ends with the connection."""


def connect(address: str | None) -> Any:
    """Return the module ray, connected; None starts a cluster on this machine, unless this process is connected.

    Raises HostError without ray, and for an address that nobody answers at, within 20 s.
    """
    check_address(address)
    ray = _import_ray()
    # Ray prints on stdout what befell its nodes, whatever `log_to_driver` says; stdout has results alone.
    ray._private.worker._worker_logs_enabled = False
    if not ray.is_initialized():
        with contextlib.ExitStack() as unless_connected:
            options: dict[str, Any] = {"address": address}
            if address in (None, "", "local"):
                top = unless_connected.enter_context(scratch_folder(_short_top()))
                options = {"address": "local", "_temp_dir": str(top)}
            unless_connected.callback(ray.shutdown)
            _initialise(ray, options)
            _connected.push(unless_connected.pop_all())
            atexit.register(disconnect)
    return ray


def disconnect() -> None:
    """Leave the cluster; one that this process started ends, and its folder is gone."""
    atexit.unregister(disconnect)
    with contextlib.suppress(OSError):  # a log that is still written: the next run removes the folder
        _connected.close()


def check_address(address: str | None) -> None:
    """Raise UserError for what is no address of a cluster, HostError where nobody answers: Ray takes half a minute."""
    if address in (None, "", "auto", "local"):
        return
    host, colon, port = str(address).removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 2**16):
        raise UserError(f"Ray address {str(address)[:100]!r}: write auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise HostError(f"nobody answers at the Ray address {address}: {error.strerror or error}") from error


def _initialise(ray: Any, options: dict[str, Any]) -> None:
    """Connect in a thread that stays: a cluster that it starts on this machine ends with it."""
    connected: SimpleQueue[BaseException | None] = SimpleQueue()
    where = "on this machine" if "_temp_dir" in options else f"at {options['address']!r}"
    limit_s = _START_S if "_temp_dir" in options else CONNECT_S

    def initialise() -> None:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False, **options)
        except BaseException as error:
            connected.put(error)
            return
        connected.put(None)
        threading.Event().wait()

    threading.Thread(target=initialise, daemon=True, name="connect to ray").start()
    try:
        error = connected.get(timeout=limit_s)
    except Empty:
        raise HostError(f"cannot use the Ray cluster {where}: no answer in {limit_s:g} s") from None
    if error is not None:
        reason = " ".join(str(error).split())[:200]
        raise HostError(f"cannot use the Ray cluster {where}: {reason}") from error


def _short_top() -> Path:
    """Return the folder of temporary files, or /tmp where Ray's sockets would have too long a path in it."""
    top = tempfile.gettempdir()
    return Path(top if len(os.fsencode(top)) <= _LONGEST_TOP else "/tmp")


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise HostError("--engine ray needs Ray: pip install 'arvbench[ray]'") from error
    return ray
