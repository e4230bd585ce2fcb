"""Children forked from one warm process, which has imported their libraries once. Linux only.

Parent   `start_warm` runs `python -m MODULE`; each `WarmProcess.running` asks it for one more child.
Warm     `serve` imports, then forks a child per request. It stays without threads: a fork would not copy them. A child
         may become a warm process itself (`WarmProcess.forked`), with the imports and the memory layout of its parent.
Child    runs in a session and process group of its own, with one message on stdin, as a child of `processes.running`.

A request is one datagram: arguments, and the child's file descriptors. Parent and warm process share a socket, the
link, for each child. Warm to parent it carries the process id and, after the child and its group have ended, the exit
code. Its end in the other direction ends the child, so that nothing outlives a parent that was killed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from pydantic import BaseModel

from arvbench.harness.machine.processes import end_group, signal_at_parent_death, this_python
from arvbench.harness.machine.resident import make_resident, resident_file_ranges

CAN_FORK = sys.platform.startswith("linux") and hasattr(os, "pidfd_open")
_READY = b"ready"
_MOST_BYTES = 65536
"""Limit of a request without its file descriptors."""
_MOST_FDS = 8

Work = Callable[[list[str], list[int]], int]
"""Function of a child: arguments and passed file descriptors to an exit code."""


class _Nothing(BaseModel):
    """Message to a child that gets what it does by requests."""


class WarmProcess:
    """A running warm process; `close` ends it, and the end of this process does."""

    def __init__(self, requests: socket.socket, life: contextlib.ExitStack) -> None:
        """Take the socket of its requests, and what ends it."""
        self._requests, self._life = requests, life
        self._ready = False

    def ready(self, deadline: float) -> bool:
        """Wait until it can fork; False when it has ended, or is still importing at `deadline` (`time.monotonic`)."""
        if not self._ready:
            self._ready = _received(self._requests, deadline) == _READY
        return self._ready and not self._ended()

    def _ended(self) -> bool:
        """Return whether the process is gone, or going: its sockets close some time before it can be waited for."""
        self._requests.setblocking(False)
        try:
            gone = not self._requests.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            gone = False
        except ConnectionResetError:
            gone = True
        finally:
            self._requests.setblocking(True)
        return gone

    @contextlib.contextmanager
    def running(
        self, message: BaseModel, *, output: IO[Any], arguments: Sequence[str] = (), pass_fds: Sequence[int] = ()
    ) -> Iterator[ForkedChild]:
        """Yield a child; when the block ends, its whole group is gone, whatever happened.

        `message` is one line of JSON on the child's stdin. `output` gets its stdout and stderr.
        """
        read_fd, write_fd = os.pipe()
        link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack:
            stack.enter_context(link)
            stack.callback(os.close, write_fd)  # the child takes its end for the end of this process
            try:
                fds = [read_fd, output.fileno(), theirs.fileno(), *pass_fds]
                # When the warm process has just died, the link says so.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    socket.send_fds(self._requests, [json.dumps(list(arguments)).encode()], fds)
            finally:
                os.close(read_fd)
                theirs.close()
            child = ForkedChild(link)
            stack.callback(child.end)
            with contextlib.suppress(BrokenPipeError):
                _write_all(write_fd, message.model_dump_json().encode() + b"\n")
            yield child

    def forked(self, arguments: Sequence[str]) -> WarmProcess:
        """Start a child whose work is to `serve`, with its one passed file descriptor as stdin."""
        requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life = contextlib.ExitStack()
        with theirs, Path(os.devnull).open("wb") as nowhere:
            child = self.running(_Nothing(), output=nowhere, arguments=arguments, pass_fds=(theirs.fileno(),))
            life.enter_context(child)
        return WarmProcess(requests, life)

    def close(self) -> None:
        """End the process and its children."""
        self._requests.close()
        self._life.close()


def start_warm(module: str) -> WarmProcess:
    """Start `python -m module`, which must call `serve`."""
    requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=this_python().environment(),
        )
    life = contextlib.ExitStack()
    life.callback(process.wait)
    life.callback(end_group, process.pid)
    return WarmProcess(requests, life)


class ForkedChild:
    """A child of a warm process, in the terms of `subprocess.Popen`."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.pid: int | None = None
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            said = _received(self._link, deadline)
            if said is None:
                raise subprocess.TimeoutExpired("forked child", timeout or 0)
            if not said:
                self._lost()
            elif self.pid is None:
                self.pid = int(said)
            else:
                self.returncode = int(said)
        return self.returncode

    def end(self) -> None:
        """Have the group killed, and wait until it is gone."""
        with contextlib.suppress(OSError):  # the warm process is gone
            self._link.shutdown(socket.SHUT_WR)
        self.wait()

    def _lost(self) -> None:
        """Take the end of the warm process for the child's: the kernel kills a child with its parent."""
        if self.pid is not None:
            end_group(self.pid)
        self.returncode = -signal.SIGKILL


def _received(link: socket.socket, deadline: float | None) -> bytes | None:
    """Return the next datagram, empty when the other end is gone; None when the deadline comes first."""
    link.settimeout(None if deadline is None else max(1e-3, deadline - time.monotonic()))
    try:
        return link.recv(64)
    except TimeoutError:
        return None
    except ConnectionResetError:
        return b""


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def serve(prepare: Callable[[], None], work: Work) -> None:
    """Call `prepare`, which imports; then fork a child that runs `work` for every request, until the parent is gone."""
    requests = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    # Only while it imports: later the end of the socket says it, whichever thread of the parent started this process.
    signal_at_parent_death(signal.SIGKILL)
    prepare()
    gc.collect()
    gc.freeze()  # else every collection in a child would copy the pages that it shares
    signal_at_parent_death(0)
    os.close(os.pidfd_open(os.getpid()))  # a kernel without it ends this process before it is of use
    with _Nursery(requests, work) as nursery:
        requests.send(_READY)
        while nursery.turn():
            pass


def _end(pid: int) -> None:
    """Kill a child that was not waited for, with its group; right after the fork it has none yet."""
    end_group(pid)
    os.kill(pid, signal.SIGKILL)


class _Nursery:
    """The children of the warm process. On exit of the `with` block they are gone."""

    def __init__(self, requests: socket.socket, work: Work) -> None:
        self._requests, self._work = requests, work
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)
        self._libraries = resident_file_ranges()
        self._links: dict[int, tuple[int, socket.socket]] = {}
        """Process id -> pidfd and link."""

    def __enter__(self) -> _Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._links:
            _end(pid)

    def turn(self) -> bool:
        """Do what is due: a request, a child to end, one that has ended. False when the parent is gone."""
        for key, _ in self._selector.select():
            if key.fileobj is self._requests:
                message, fds, _, _ = socket.recv_fds(self._requests, _MOST_BYTES, _MOST_FDS)
                if not message:
                    return False
                self._fork(json.loads(message), fds)
            elif key.data in self._links:
                pidfd, link = self._links[key.data]
                if key.fd == pidfd:
                    self._bury(key.data)
                else:  # its end: nothing is ever sent this way
                    self._selector.unregister(link)
                    _end(key.data)
        return True

    def _fork(self, arguments: list[str], fds: list[int]) -> None:
        stdin, output, link_fd, *passed = fds
        pid = os.fork()
        if pid == 0:
            self._be_child(arguments, stdin, output, link_fd, passed)
        for fd in (stdin, output, *passed):
            os.close(fd)
        link = socket.socket(fileno=link_fd)
        pidfd = os.pidfd_open(pid)
        self._links[pid] = pidfd, link
        self._selector.register(pidfd, selectors.EVENT_READ, pid)
        self._selector.register(link, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):  # the parent has given up
            link.send(str(pid).encode())

    def _be_child(self, arguments: list[str], stdin: int, output: int, link_fd: int, passed: list[int]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            for theirs in (link_fd, *(key.fd for key in self._selector.get_map().values())):
                os.close(theirs)
            self._selector.close()
            for fd, number in ((stdin, 0), (output, 1), (output, 2)):
                os.dup2(fd, number)
            os.close(stdin)
            os.close(output)
            make_resident(self._libraries)
            code = self._work(arguments, passed)
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _bury(self, pid: int) -> None:
        """Kill what is left of a child's group, and tell its exit code."""
        pidfd, link = self._links.pop(pid)
        end_group(pid)  # before the process id is free for another
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        with contextlib.suppress(KeyError):
            self._selector.unregister(link)
        with link, contextlib.suppress(OSError):
            link.send(str(os.waitstatus_to_exitcode(status)).encode())
