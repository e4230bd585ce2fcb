"""Whole or not at all, one writer at a time, and locks that end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arvbench.files import cache_folder, claimed, locked, put_in_place, replacing, temporaries, write_whole

SOURCE = str(Path(__file__).resolve().parents[1] / "src")
HOLDS = """
import sys, time
from pathlib import Path
from arvbench import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as held:
    if sys.argv[1] != "locked":
        held.write_text("half")
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path):
    """Start another process inside a block of `files`; it never leaves the block."""
    started = []

    def start(block: str, path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HOLDS, block, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": SOURCE})
        started.append(process)
        assert process.stdout.readline() == b"inside\n"
        return process

    yield start
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(("content", "stored"), [("zwölf\n", "zwölf\n".encode()), (b"\x00\r\n", b"\x00\r\n")])
def test_content_replaces_what_was_there_and_leaves_nothing_else(tmp_path, content, stored):
    path = tmp_path / "x.json"
    path.write_text("old")
    write_whole(path, content)
    assert path.read_bytes() == stored and names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("block", [replacing, claimed])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_what_was_there(tmp_path, before, block, error):
    path = tmp_path / "x"
    if before:
        path.write_text(before)
    with pytest.raises(error), block(path) as part:
        part.write_text("half")
        raise error
    assert names(tmp_path) == (["x"] if before else [])
    assert not before or path.read_text() == before


@pytest.mark.parametrize("block", [replacing, claimed])
def test_a_disk_that_refuses_leaves_what_was_there(tmp_path, block, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "x").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), block(tmp_path / "x") as part:
        part.write_text("new")
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_new_files_have_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a", "")
        with claimed(tmp_path / "b") as part:
            part.write_text("")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in "ab"} == {0o666 & ~umask}


def test_writers_of_one_target_do_not_meet_and_the_last_wins(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert temporaries(path) == sorted([first, second])
    assert path.read_text() == "first" and names(tmp_path) == ["x"]


def test_a_killed_writer_leaves_only_a_temporary_that_is_listed(tmp_path, other_process):
    path = tmp_path / "x"
    path.write_text("old")
    kill(other_process("replacing", path))
    assert path.read_text() == "old"
    assert temporaries(path) == [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(temporaries(path)) == 1 and temporaries(tmp_path / "y") == []


def test_one_writer_claims_a_target_until_it_ends_or_is_killed(tmp_path, other_process):
    path = tmp_path / "x"
    process = other_process("claimed", path)
    with pytest.raises(BlockingIOError), claimed(path):
        pytest.fail("two writers")
    assert names(tmp_path) == [".x.part"], "what the other writes stays"
    kill(process)
    with claimed(path) as part:
        assert part.read_text() == "", "a half of the killed one is cleared"
        part.write_text("new")
    assert path.read_text() == "new" and names(tmp_path) == ["x"]


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_is_replaced_as_a_whole(tmp_path, before):
    path = tmp_path / "x"
    if before:
        path.mkdir()
        (path / "old").touch()
    (tmp_path / ".x.part" / "left").mkdir(parents=True)
    with claimed(path, folder=True) as part:
        assert names(part) == []
        (part / "new").touch()
    assert names(path) == ["new"] and names(tmp_path) == ["x"]


def test_a_finished_file_of_another_folder_is_put_in_place(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "x").write_text("new")
    (tmp_path / "x").write_text("old")
    put_in_place(tmp_path / "stage" / "x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "new" and names(tmp_path / "stage") == []


def test_a_lock_ends_with_its_process(tmp_path, other_process):
    path = tmp_path / ".lock"
    process = other_process("locked", path)
    with locked(path, wait=False) as mine:
        assert not mine
    kill(process)
    with locked(path) as mine:
        assert mine
        with locked(path, wait=False) as again:
            assert not again


def test_the_cache_is_where_the_variable_says_or_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    assert cache_folder("weights") == tmp_path / "cache" / "weights" and not (tmp_path / "cache").exists()
    monkeypatch.setenv("ARVBENCH_CACHE", "~/elsewhere")
    assert cache_folder("references") == Path.home() / "elsewhere" / "references"
    monkeypatch.delenv("ARVBENCH_CACHE")
    assert cache_folder("weights") == Path.home() / ".cache" / "arvbench" / "weights"


def test_a_lock_file_is_no_link_and_never_loses_what_it_holds(tmp_path):
    kept, lock = tmp_path / "kept", tmp_path / ".x.lock"
    kept.write_text("kept")
    lock.symlink_to(kept)
    with pytest.raises(OSError, match="is a link"), locked(lock):
        pytest.fail("followed")
    lock.unlink()
    lock.write_text("another program's")
    with locked(lock) as mine:
        assert mine
    assert kept.read_text() == "kept" and lock.read_text() == "another program's"


@pytest.mark.parametrize("block", [replacing, claimed])
def test_the_next_writer_clears_what_a_killed_one_left_and_follows_no_link(tmp_path, other_process, block):
    path, kept = tmp_path / "x", tmp_path / "kept"
    kill(other_process("replacing", path))
    kept.write_text("kept")
    (tmp_path / ".x.part").symlink_to(kept)
    with block(path) as part:
        part.write_text("new")
    assert path.read_text() == "new" and kept.read_text() == "kept" and names(tmp_path) == ["kept", "x"]
