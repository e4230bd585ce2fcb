"""Launches of both sides: forked from warm processes of their own packages, with one layout of the libraries."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from run_helpers import case

import arvbench
from arvbench.harness.check.engine import SideEngine, WarmSides, side_engines
from arvbench.harness.check.libraries import LIBRARIES
from arvbench.harness.check.sides import BuiltSide
from arvbench.harness.jobs import Event, Job
from arvbench.harness.machine.forks import CAN_FORK
from arvbench.harness.machine.processes import Python
from arvbench.harness.machine.source import digest_of_source
from arvbench.results.schema import Status
from arvbench.results.verdict import Side

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="needs Linux")
PACKAGE = Path(arvbench.__file__).parent
CASE = case(model="demo/detailflow", weights="demo", repeats=1, max_warmup=1, threads=1).config


def make_side(folder: Path, name: str, executable: str = sys.executable) -> BuiltSide:
    """A side with samplers of its own."""
    package = folder / name / "arvbench"
    package.mkdir(parents=True)
    for path in PACKAGE.iterdir():
        if path.name == "adapters":
            shutil.copytree(path.resolve(), package / "adapters", ignore=shutil.ignore_patterns("__pycache__"))
            (package / "adapters" / "mark.py").write_text(f"NAME = '{name}'\n")
        elif path.name != "__pycache__":
            (package / path.name).symlink_to(path.resolve())
    side = Side(name=name, commit=name * 10, dirty=False, source_sha256=digest_of_source(package))
    return BuiltSide(side=side, python=Python(executable=executable, package_root=package.parent))


class Watch:
    """Notes the worker of a job, its warm process, and the one that this was forked from."""

    def __init__(self) -> None:
        self.line: tuple[int, ...] = ()

    def __call__(self, event: Event) -> None:
        if event.pid is not None:
            self.line = (event.pid, *(process.pid for process in psutil.Process(event.pid).parents()))


def launch(engine: SideEngine, folder: Path, number: int):
    watch = Watch()
    result = engine.run(Job(record_id=f"r{number}", case=CASE, folder=folder, launch=number), watch)
    assert result.outcome.status is Status.OK, result.outcome
    return result, watch.line


def test_launches_of_both_sides_share_a_layout_until_another_is_drawn(tmp_path):
    sides = [make_side(tmp_path, name) for name in ("base", "head")]
    order = [(0, 1), (1, 1), (0, 2)]
    with side_engines(*sides, least=3) as engines:
        found = [launch(engines[side], tmp_path / sides[side].side.name, number) for side, number in order]
        third, line = launch(engines[0], tmp_path / "base", 3)
    results, lines = zip(*found, strict=True)
    workers, warm, libraries, above = zip(*(line[:4] for line in lines), strict=True)
    assert len({*workers, line[0]}) == 4, "each launch is a process of its own"
    assert warm[0] == warm[2] != warm[1], "each side has a warm process"
    assert len(set(libraries)) == 1 and set(above) == {os.getpid()}
    assert line[2] not in libraries, "a round after three launches has another layout"
    assert not any(psutil.pid_exists(pid) for pid in {*workers, *warm, *libraries, *line[:3]})

    digests = [sides[side].side.source_sha256 for side, _ in order]
    assert [result.environment.source_sha256 for result in results] == digests
    assert {result.environment.git_commit for result in results} == {"base" * 10, "head" * 10}
    outcomes = [result.outcome for result in (*results, third)]
    assert all(outcome.correctness == outcomes[0].correctness for outcome in outcomes)
    assert all(outcome.start.import_ns is None for outcome in outcomes), "no launch imported the libraries"
    peaks = [outcome.memory.peak_bytes for outcome in outcomes]
    assert max(peaks) < 1.02 * min(peaks)


def test_both_sides_start_fresh_where_one_has_an_interpreter_of_its_own(tmp_path):
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    sides = make_side(tmp_path, "base", str(other)), make_side(tmp_path, "head")
    job = Job(record_id="r", case=CASE, folder=tmp_path / "run")
    result = ["--result", str(tmp_path / "result")]
    with side_engines(*sides, least=8) as engines, Path(os.devnull).open("r+b") as nothing:
        for engine in engines:
            with engine.worker(job, result, nothing, nothing.fileno(), time.monotonic() + 60) as worker:
                assert psutil.Process(worker.pid).ppid() == os.getpid()


def test_the_shared_process_imports_every_library_of_a_case_and_nothing_of_a_side():
    code = (
        "import sys\n"
        "from arvbench.harness.check import libraries\n"
        "libraries.import_libraries()\n"
        "before = set(sys.modules)\n"
        "assert not [name for name in before if name.startswith(('arvbench.adapters', 'arvbench.kernels'))]\n"
        "from arvbench.harness.run import warm\n"
        "warm.import_harness()\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], env=os.environ | PATHS, capture_output=True, text=True)
    assert done.stdout.split() == ["arvbench"], done.stderr
    assert "torch" in LIBRARIES


PATHS = {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
HANGING = """
import sys, time
from pathlib import Path
from arvbench.harness.check.engine import side_engines
from arvbench.harness.check.sides import BuiltSide
from arvbench.harness.jobs import Job
from arvbench.harness.machine.processes import this_python
from arvbench.results.schema import CaseConfig
from arvbench.results.verdict import Side
case = CaseConfig(model="demo/var", weights="demo", repeats=1, threads=1)
def wait(event):
    print(event.pid, flush=True)
    time.sleep(600)
with side_engines(BuiltSide(side=Side(name="x"), python=this_python()), least=1) as (engine,):
    engine.run(Job(record_id="r", case=case, folder=Path(sys.argv[1])), wait)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_check_that_is_killed_or_interrupted(tmp_path, programs, number):
    process = programs.start("-c", HANGING, tmp_path / "run", variables=PATHS)
    assert int(process.stdout.readline()) > 0
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 3, "the libraries, the side, the worker"
    process.send_signal(number)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_a_side_that_cannot_be_imported_has_no_warm_process(tmp_path):
    (tmp_path / "arvbench").mkdir()
    (tmp_path / "arvbench" / "__init__.py").write_text("")
    broken = BuiltSide(side=Side(name="broken"), python=Python(executable=sys.executable, package_root=tmp_path))
    with closing(WarmSides(least=1)) as warm:
        assert warm.of(broken, 1, time.monotonic() + 60) is None
