"""Programs in processes of their own that start at once: forks of one process that has imported what they all import.

A program is used as a `subprocess.Popen` with pipes, and has a session of its own. The warm processes of local engines,
in programs and in the process of the tests, are forks too. Where the start itself is the point of a test, that test
starts its program fresh; so do all where the system cannot fork.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from arvbench.harness.machine.forks import CAN_FORK, ForkedChild, WarmProcess, serve, start_warm
from arvbench.harness.machine.processes import end_group, this_python

_MODULES = (
    "arvbench.adapters.registry",
    "arvbench.harness.cli",
    "arvbench.harness.measure.case",
    "arvbench.harness.measure.case_quality",
    "arvbench.harness.run.engines.local",
    "arvbench.harness.run.runner",
    "arvbench.harness.suites.suite",
    "rich.progress",
    "scipy.stats",
    "statsmodels.stats.multitest",
)
ENGINE_NAME = "arvbench-warm"
"""Name of a process, by which those are known that stand for `python -m arvbench.harness.run.warm`."""
_SET_NAME = 15
"""prctl(2) option: the name of this process, which its forks keep."""


class _Nothing(BaseModel):
    """Message to a program, which gets its arguments otherwise."""


class Program:
    """A running program."""

    def __init__(self, warm: WarmProcess, request: Mapping[str, object], folder: Path) -> None:
        self._life = contextlib.ExitStack()
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        self.stdout: IO[str] = os.fdopen(out)
        self.stderr: IO[str] = os.fdopen(err)
        output = self._life.enter_context((folder / "warm.log").open("ab"))
        name = folder / f"request-{theirs_out}.json"
        name.write_text(json.dumps(request))
        fds = (theirs_out, theirs_err)
        child = warm.running(_Nothing(), output=output, arguments=[str(name)], pass_fds=fds)
        self._child = self._life.enter_context(child)
        for fd in fds:
            os.close(fd)
        while self._child.pid is None and self._child.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.01)

    @property
    def pid(self) -> int:
        assert self._child.pid is not None
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        return self._child.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(0.001)
        return self._child.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        return self._child.wait(timeout)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what is left of its output and its errors, once it has ended. Raises subprocess.TimeoutExpired."""
        texts = {}
        readers = [
            threading.Thread(target=lambda name=name: texts.update({name: getattr(self, name).read()}), daemon=True)
            for name in ("stdout", "stderr")
        ]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        finally:
            self._life.close()
        for reader in readers:
            reader.join(timeout)
        self.stdout.close()
        self.stderr.close()
        return texts["stdout"], texts["stderr"]


class Programs:
    """The process that programs are forked from, started with the first of them."""

    def __init__(self, folder: Path) -> None:
        """Keep files of programs in `folder`."""
        self._folder = folder
        self._warm: WarmProcess | None = None

    def start(
        self, *arguments: object, variables: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Program | subprocess.Popen[str]:
        """Start `python ARGUMENTS`: "-m" and a module, "-c" and code, or a file; `variables` are added to ours."""
        words = [str(word) for word in arguments]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | dict(variables or {})
        if not CAN_FORK:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return subprocess.Popen([sys.executable, *words], env=environment, cwd=cwd, text=True, **pipes)
        request = {"words": words, "environment": environment, "cwd": str(cwd or Path.cwd())}
        return Program(self._ready(), request, self._folder)

    def run(self, *arguments: object, timeout: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        program = self.start(*arguments, **options)
        out, errors = program.communicate(timeout)
        return subprocess.CompletedProcess(arguments, program.returncode, out, errors)

    def engine_process(self, module: str) -> WarmProcess:
        """Stand for `start_warm` in LocalEngine: its warm process is forked, not started."""
        return _engine_process(self._ready())

    def running(
        self,
        module: str,
        message: BaseModel,
        *,
        output: IO[Any],
        arguments: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> AbstractContextManager[ForkedChild]:
        """Stand for `running` of machine/processes.py: the child is forked, and calls `main` of the module."""
        words = ["module", json.dumps({"words": [module, *arguments], **_here()})]
        return self._ready().running(message, output=output, arguments=words, pass_fds=pass_fds)

    def close(self) -> None:
        if self._warm is not None:
            self._warm.close()

    def _ready(self) -> WarmProcess:
        if self._warm is None:
            before = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
            try:
                self._warm = start_warm("warm_program")
            finally:
                if before is None:
                    del os.environ["PYTHONPATH"]
                else:
                    os.environ["PYTHONPATH"] = before
        assert self._warm.ready(time.monotonic() + 120)
        return self._warm


def _engine_process(parent: WarmProcess) -> WarmProcess:
    """Fork the warm process of a LocalEngine, which begins with our environment and folder."""
    return parent.forked(["engine", json.dumps(_here())])


def _here() -> dict[str, object]:
    """Return our environment and folder, which a child begins with."""
    where: dict[str, object] = {"environment": this_python().environment(), "cwd": ""}
    with contextlib.suppress(FileNotFoundError):
        where["cwd"] = str(Path.cwd())
    return where


def _go_to(where: Mapping[str, Any]) -> None:
    """Take over the environment and folder of `_here`."""
    os.environ.clear()
    os.environ.update(where["environment"])
    os.chdir(where["cwd"] or "/")
    sys.path[:0] = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path not in sys.path]
    tempfile.tempdir = None


def _be_engine(arguments: list[str], fds: list[int]) -> int:
    """Become the warm process that a LocalEngine asked for."""
    where = json.loads(arguments[1])
    os.dup2(fds[0], sys.stdin.fileno())
    os.close(fds[0])
    _go_to(where)
    ctypes.CDLL(None).prctl(_SET_NAME, ENGINE_NAME.encode())
    importlib.import_module("arvbench.harness.run.warm").main()
    return 0


def _parent_of_engines() -> WarmProcess:
    """Fork the process from which a program forks warm processes; the program has begun nothing yet."""
    requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            requests.close()
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd, number in ((theirs.fileno(), 0), (nowhere, 1), (nowhere, 2)):
                os.dup2(fd, number)
            theirs.close()
            serve(lambda: None, _be_engine)
        finally:
            os._exit(0)
    theirs.close()
    life = contextlib.ExitStack()
    life.callback(os.waitpid, pid, 0)
    life.callback(end_group, pid)
    return WarmProcess(requests, life)


def _import_all() -> None:
    for name in _MODULES:
        importlib.import_module(name)


def _be_program(arguments: list[str], fds: list[int]) -> int:
    """Become the program of a request, and return its exit code."""
    if arguments[0] == "engine":
        return _be_engine(arguments, fds)
    if arguments[0] == "module":
        where = json.loads(arguments[1])
        _go_to(where)
        module, *words = where["words"]
        sys.argv = [module, *words]
        return int(importlib.import_module(module).main())
    request = json.loads(Path(arguments[0]).read_text())
    for fd, number in zip(fds, (1, 2), strict=True):
        os.dup2(fd, number)
        os.close(fd)
    # The streams of the parent take what they write to for a file in which one can seek.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None
    try:
        match request["words"]:
            case ["-m", module, *words]:
                if words[:1] == ["run"]:
                    parent = _parent_of_engines()
                    sys.modules["arvbench.harness.run.engines.local"].start_warm = lambda _: _engine_process(parent)
                sys.argv = [module, *words]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case ["-c", code, *words]:
                sys.argv = ["-c", *words]
                exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            case [file, *words]:
                sys.argv = [file, *words]
                runpy.run_path(file, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
    return 0


if __name__ == "__main__":
    serve(_import_all, _be_program)
