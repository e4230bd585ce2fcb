"""The records file: append-only, whole lines only, nothing lost."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from run_helpers import record

from arvbench.errors import HostError, UserError
from arvbench.harness.run.store import DAMAGED_NAME, RecordStore
from arvbench.results.records import read_records


def ready(folder: Path, count: int = 0) -> RecordStore:
    store = RecordStore(folder)
    store.prepare()
    for number in range(count):
        store.append(record(str(number)))
    return store


def ids(store: RecordStore) -> list[str]:
    return [r.record_id for r in store.records()]


def test_records_come_back_as_they_were_written(tmp_path):
    store = ready(tmp_path / "new" / "folder", 2)
    assert store.records() == [record("0"), record("1")]
    assert ids(RecordStore(store.folder)) == ["0", "1"]


def test_preparing_twice_changes_nothing(tmp_path):
    store = ready(tmp_path, 2)
    before = store.path.read_bytes()
    assert store.prepare() == []
    assert store.path.read_bytes() == before


def test_a_cut_last_line_loses_no_older_record_and_is_kept_aside(tmp_path):
    store = ready(tmp_path, 2)
    cut = record("2").model_dump_json().encode()[:100]
    store.path.write_bytes(store.path.read_bytes() + cut)
    (notice,) = store.prepare()
    assert "was cut (100 bytes)" in notice and DAMAGED_NAME in notice
    assert (tmp_path / DAMAGED_NAME).read_bytes() == cut + b"\n"
    assert ids(store) == ["0", "1"]
    store.append(record("3"))
    assert ids(store) == ["0", "1", "3"]


def test_appending_to_a_cut_file_does_not_join_two_records(tmp_path):
    store = ready(tmp_path, 1)
    store.path.write_bytes(store.path.read_bytes() + b'{"schema_vers')
    store.append(record("1"))
    assert ids(store) == ["0", "1"]
    assert (tmp_path / DAMAGED_NAME).read_bytes() == b'{"schema_vers\n'


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path):
    store = ready(tmp_path, 2)
    store.path.write_bytes(store.path.read_bytes().rstrip(b"\n"))
    assert store.prepare() == []
    store.append(record("2"))
    assert ids(store) == ["0", "1", "2"]


def test_a_damaged_line_in_the_middle_is_reported_and_left_alone(tmp_path):
    store = ready(tmp_path, 2)
    first, second = store.path.read_bytes().splitlines(keepends=True)
    store.path.write_bytes(first + b"not a record\n" + second)
    (notice,) = store.prepare()
    assert "line 2" in notice
    assert ids(store) == ["0", "1"]
    assert b"not a record\n" in store.path.read_bytes()


def test_output_that_cannot_be_written_is_refused_before_any_measurement(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write results to .*file/run.*--out"):
        RecordStore(tmp_path / "file" / "run").prepare()


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    store = ready(tmp_path, 2)
    before = store.path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(HostError, match="No space left on device; older records are intact"):
        store.append(record("2"))
    assert store.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.jsonl"]


def test_a_line_that_the_disk_takes_half_of_is_taken_back(tmp_path, monkeypatch):
    store = ready(tmp_path, 2)
    before, write, calls = store.path.read_bytes(), os.write, []

    def nearly_full_disk(descriptor: int, content: memoryview) -> int:
        calls.append(len(content))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", nearly_full_disk)
        with pytest.raises(HostError, match="No space left on device; older records are intact"):
            store.append(record("2"))
    assert store.path.read_bytes() == before and calls[1] == calls[0] - calls[0] // 2
    store.append(record("3"))
    assert ids(store) == ["0", "1", "3"]


def test_an_append_leaves_the_older_lines_where_they_are(tmp_path):
    store = ready(tmp_path, 2)
    before, inode = store.path.read_bytes(), store.path.stat().st_ino
    store.append(record("2"))
    assert store.path.stat().st_ino == inode
    assert store.path.read_bytes() == before + record("2").model_dump_json().encode() + b"\n"


def test_records_of_a_link_are_added_to_a_file_of_the_folder(tmp_path):
    elsewhere = ready(tmp_path / "elsewhere", 1)
    before = elsewhere.path.read_bytes()
    store = RecordStore(tmp_path / "here")
    store.folder.mkdir()
    store.path.symlink_to(elsewhere.path)
    store.append(record("1"))
    assert ids(store) == ["0", "1"] and not store.path.is_symlink()
    assert elsewhere.path.read_bytes() == before


def test_an_append_to_what_is_no_file_is_refused(tmp_path):
    store = RecordStore(tmp_path)
    os.mkfifo(store.path)
    with pytest.raises(HostError, match="is no file"):
        store.append(record("0"))


@pytest.mark.parametrize("change", ["appended", "cut", "mended", "replaced", "emptied"])
def test_records_follow_what_others_do_to_the_file(tmp_path, change):
    store, other = ready(tmp_path, 2), RecordStore(tmp_path)
    assert ids(store) == ["0", "1"]
    if change in ("cut", "mended"):
        other.path.write_bytes(other.path.read_bytes() + b'{"schema_vers')
        assert ids(store) == ["0", "1"]
    if change in ("appended", "mended"):
        other.append(record("2"))
    if change == "replaced":
        other.path.unlink()
        ready(tmp_path, 1)
    if change == "emptied":
        other.path.write_bytes(b"")
    expected = {"appended": ["0", "1", "2"], "mended": ["0", "1", "2"], "replaced": ["0"], "emptied": []}
    assert ids(store) == ids(store) == ids(other) == expected.get(change, ["0", "1"])


def test_what_was_set_aside_is_mentioned_and_not_held(tmp_path):
    store = ready(tmp_path, 1)
    half = record("half").model_dump_json().encode()[:200]
    assert b'"half"' in half
    store.path.write_bytes(store.path.read_bytes() + half)
    for _ in range(2):
        assert store.mentions('"half"') and not store.holds('"half"')
        assert store.mentions('"0"') and store.holds('"0"')
        store.prepare()


def test_a_reader_beside_a_writer_finds_finished_lines_and_at_most_one_that_is_not(tmp_path):
    store, count = ready(tmp_path), 200
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=lambda: [RecordStore(tmp_path).append(record(str(n))) for n in range(count)])
    writer.start()
    found: list[str] = []
    while len(found) < count:
        alive = writer.is_alive()
        file = read_records(store.path)
        found = [r.record_id for r in file]
        assert found == [str(number) for number in range(len(found))]
        assert all(line.number == len(found) + 1 for line in file.damaged_lines)
        assert alive or len(found) == count
    writer.join()
    assert read_records(store.path).damaged_lines == ()


def _append_ten(folder: Path, start: int) -> None:
    for number in range(start, start + 10):
        RecordStore(folder).append(record(str(number)))


def test_two_processes_do_not_overwrite_each_other(tmp_path):
    store = ready(tmp_path)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_ten, args=(tmp_path, start)) for start in (100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(ids(store))) == 20
