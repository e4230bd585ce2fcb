"""Files of /proc and /sys, which may be missing or unreadable."""

from __future__ import annotations

import pytest

from arvbench.harness.machine.system_files import lines_of, status_bytes


def test_lines_are_read_even_where_bytes_are_not_text(tmp_path):
    (tmp_path / "stat").write_bytes(b"cpu 1 2\nname \xff\n")
    assert lines_of(tmp_path / "stat") == ["cpu 1 2", "name \ufffd"]


@pytest.mark.parametrize("name", ["missing", ".", "file/below"])
def test_a_file_that_cannot_be_read_has_no_lines(tmp_path, name):
    (tmp_path / "file").write_text("text\n")
    assert lines_of(tmp_path / name) == []
    assert status_bytes(tmp_path / name) == {}


def test_status_sizes_are_bytes_and_other_fields_are_left_out(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython 3 kB\nVmRSS:\t   512 kB\nThreads:\t4\nVmData:\t8 kB\n\n")
    assert status_bytes(tmp_path) == {"VmRSS": 512 * 1024, "VmData": 8 * 1024}
