"""Forked children: one process each, ended with their group, their warm process and their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import forked_parrot
import psutil
import pytest
from pydantic import BaseModel

from arvbench.harness.machine.forks import CAN_FORK, WarmProcess, start_warm
from arvbench.harness.machine.resident import make_resident, resident_file_ranges
from arvbench.harness.machine.system_files import status_bytes

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="needs Linux")
SUPPORT = str(Path(forked_parrot.__file__).parent)


class Word(BaseModel):
    text: str


@pytest.fixture
def warm(monkeypatch) -> Iterator[WarmProcess]:
    monkeypatch.setenv("PYTHONPATH", SUPPORT, prepend=os.pathsep)
    with closing(start_warm("forked_parrot")) as process:
        assert process.ready(time.monotonic() + 60)
        yield process


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_child_gets_its_message_its_output_its_descriptors_and_a_group_of_its_own(warm, tmp_path):
    read_fd, write_fd = os.pipe()
    texts = ["one", "x" * 200_000]
    lines = []
    for number, text in enumerate(texts):
        with (tmp_path / f"{number}.txt").open("wb") as output:
            arguments = {"arguments": ["exit", "0"], "pass_fds": (write_fd,)}
            with warm.running(Word(text=text), output=output, **arguments) as child:
                assert child.wait(60) == 0
        assert os.read(read_fd, 100) == b"told\n"
        lines.append((tmp_path / f"{number}.txt").read_text().split())
    os.close(read_fd)
    os.close(write_fd)
    for text, (message, pid, group, session, threads) in zip(texts, lines, strict=True):
        assert Word.model_validate_json(message).text == text
        assert pid == group == session and threads == "2"  # its own, and the one that watches the parent
    assert lines[0][1] != lines[1][1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["exit", "7"], 7, ""), (["raise"], 1, "RuntimeError: broken on purpose"), (["die"], -signal.SIGABRT, "")],
)
def test_every_end_of_a_child_is_told(warm, tmp_path, arguments, code, said):
    with (
        (tmp_path / "out.txt").open("wb") as output,
        warm.running(Word(text="a"), output=output, arguments=arguments) as child,
    ):
        assert child.wait(60) == code
    assert said in (tmp_path / "out.txt").read_text()
    assert child.returncode == code


def test_the_end_of_the_block_ends_the_whole_group_and_no_other_child(warm, tmp_path):
    files = [(tmp_path / f"{number}.txt").open("w+b") for number in range(2)]
    with warm.running(Word(text="a"), output=files[0], arguments=["wait"]) as first:
        with warm.running(Word(text="b"), output=files[1], arguments=["wait"]) as second:
            wait_for(lambda: all(Path(file.name).read_text().count("\n") == 2 for file in files))
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.01)
        groups = [[int(word) for word in Path(file.name).read_text().split() if word.isdigit()] for file in files]
        assert second.returncode == -signal.SIGKILL and first.returncode is None
        wait_for(lambda: not any(running(pid) for pid in (groups[1][0], groups[1][-1])))
        assert running(groups[0][0]) and running(groups[0][-1])
    wait_for(lambda: not any(running(pid) for pid in (groups[0][0], groups[0][-1])))
    for file in files:
        file.close()


def test_a_child_is_ended_before_it_has_a_group(warm, tmp_path):
    with (tmp_path / "out.txt").open("wb") as output:
        for _ in range(20):  # the end may come before the child leads a group, or after
            with warm.running(Word(text="a"), output=output, arguments=["wait"]) as child:
                pass
            assert child.returncode == -signal.SIGKILL


def test_children_end_with_a_warm_process_that_is_killed(warm, tmp_path):
    with (tmp_path / "out.txt").open("wb") as output:
        with warm.running(Word(text="a"), output=output, arguments=["wait"]) as child:
            wait_for(lambda: (tmp_path / "out.txt").read_text().count("\n") == 2)
            (process,) = [p for p in psutil.Process().children() if "forked_parrot" in p.cmdline()]
            process.kill()
            assert child.wait(60) == -signal.SIGKILL
        assert child.pid is not None
        wait_for(lambda: not running(child.pid))
        wait_for(lambda: not warm.ready(0))
        with warm.running(Word(text="b"), output=output, arguments=["exit", "0"]) as child:
            assert child.wait(60) == -signal.SIGKILL


def test_a_child_may_be_a_warm_process_and_ends_with_its_own_children(warm, tmp_path):
    with closing(warm.forked(["serve"])) as other, (tmp_path / "out.txt").open("wb") as output:
        assert other.ready(time.monotonic() + 60) and warm.ready(0)
        with other.running(Word(text="a"), output=output, arguments=["exit", "7"]) as child:
            assert child.wait(60) == 7
        (process,) = [p for p in psutil.Process().children() if "forked_parrot" in p.cmdline()]
        (forked,) = process.children()
        with other.running(Word(text="b"), output=output, arguments=["wait"]) as child:
            wait_for(lambda: (tmp_path / "out.txt").read_text().count("\n") == 3)
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.01)
            assert psutil.Process(child.pid).ppid() == forked.pid
            process.kill()
            forked.kill()
            assert child.wait(60) == -signal.SIGKILL
        wait_for(lambda: not running(child.pid))
        # A killed process keeps its sockets for a moment longer.
        wait_for(lambda: not other.ready(0))
    wait_for(lambda: not warm.ready(0))


def test_a_warm_process_that_was_forked_ends_when_it_is_closed(warm):
    earlier = psutil.Process().children(recursive=True)
    other = warm.forked(["serve"])
    assert other.ready(time.monotonic() + 60)
    forked = [process for process in psutil.Process().children(recursive=True) if process not in earlier]
    other.close()
    _, alive = psutil.wait_procs(forked, timeout=0.01)
    assert len(forked) == 1 and not alive and warm.ready(0)


def test_everything_ends_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import sys, time; from arvbench.harness.machine.forks import start_warm; from pydantic import BaseModel\n"
        "class Word(BaseModel): text: str\n"
        "warm = start_warm('forked_parrot'); assert warm.ready(time.monotonic() + 60)\n"
        "with warm.running(Word(text='a'), output=sys.stdout, arguments=['wait']): time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([SUPPORT, *sys.path])}
    with (tmp_path / "out.txt").open("wb") as output:
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=output, env=environment)
    wait_for(lambda: (tmp_path / "out.txt").read_text().count("\n") == 2)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) == 3
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(running(process.pid) for process in family))


def test_a_module_that_cannot_be_imported_is_never_ready():
    with closing(start_warm("arvbench.no_such_module")) as process:
        assert not process.ready(time.monotonic() + 60)


def test_a_fork_counts_the_libraries_of_its_parent_in_its_resident_set():
    ranges = resident_file_ranges()
    assert sum(length for _, length in ranges) > 2**20
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        make_resident(ranges)
        os.write(write_fd, str(status_bytes()["VmRSS"]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    child, parent = int(os.read(read_fd, 100)), status_bytes()["VmRSS"]
    os.close(read_fd)
    os.close(write_fd)
    assert 0.9 * parent < child < 1.1 * parent
    assert resident_file_ranges(Path("/nowhere")) == []
