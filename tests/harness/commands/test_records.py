"""`arvbench records`, and records as a table."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from pathlib import Path

import pandas
import pytest
import records as make
from run_helpers import record

from arvbench import results
from arvbench.harness.cli import main
from arvbench.harness.run.store import PRUNED_NAME, RecordStore
from arvbench.results.records import newest_of_each_case, read_records


@pytest.fixture
def folder(tmp_path) -> Path:
    store = RecordStore(tmp_path / "run")
    store.prepare()
    for number in range(3):
        store.append(make.record(number=number))
    store.append(record("failed"))
    return store.folder


def lines(capsys, *arguments, code=0):
    assert main(["records", *map(str, arguments)]) == code
    return capsys.readouterr().out.splitlines()


def test_ls_lists_what_filters_choose(folder, capsys):
    assert len(lines(capsys, "ls", folder)) == 4
    (one,) = lines(capsys, "ls", folder, "--status", "error")
    assert "case failed" in one
    assert lines(capsys, "ls", folder, "--models", "no-such*") == []
    assert lines(capsys, "ls", folder, "--before", "2001-01-01") == []


def test_show_prints_one_record(folder, capsys):
    assert json.loads("\n".join(lines(capsys, "show", folder, "failed")))["record_id"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "PATH", "nothing"], "0 records have an id"),
        (["show", "PATH", ""], "4 records have an id"),
        (["ls", "PATH", "--status", "okay"], "no status 'okay'"),
        (["ls", "no-such-folder"], "no such file or folder"),
        (["prune", "PATH"], "say which records"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, words):
    assert main(["records", *(str(folder) if a == "PATH" else a for a in arguments)]) == 2
    assert words in capsys.readouterr().err


def test_prune_moves_lines_out_and_leaves_others_as_they_are(folder, capsys):
    path = folder / "records.jsonl"
    with path.open("a") as file:
        file.write("damaged\n")
    before = path.read_text().splitlines()
    assert lines(capsys, "prune", folder, "--status", "error", "--dry-run")[-1].startswith("0 record(s)")
    assert path.read_text().splitlines() == before
    assert lines(capsys, "prune", folder, "--status", "error")[-1].startswith("1 record(s)")
    assert path.read_text().splitlines() == [line for line in before if "failed" not in line]
    assert [r.record_id for r in read_records(folder / PRUNED_NAME)] == ["failed"]


def test_prune_takes_only_what_a_later_record_replaces(folder, capsys):
    store = RecordStore(folder)
    newer = make.record(number=0)
    store.append(newer.model_copy(update={"record_id": "newer"}))
    assert lines(capsys, "prune", folder, "--superseded")[-1].startswith("3 record(s)")
    assert [r.record_id for r in read_records(folder)] == ["failed", "newer"]


def test_merge_adds_each_record_once(folder, tmp_path, capsys):
    out = tmp_path / "all"
    assert "4 record(s) added" in lines(capsys, "merge", folder, "--out", out)[0]
    assert "0 record(s) added" in lines(capsys, "merge", folder, folder, "--out", out)[0]
    assert read_records(out).records == read_records(folder).records


def test_merge_refuses_one_id_with_two_contents(folder, tmp_path, capsys):
    other = RecordStore(tmp_path / "other")
    other.prepare()
    other.append(record("failed").model_copy(update={"suite": "another"}))
    assert main(["records", "merge", str(folder), str(other.folder), "--out", str(tmp_path / "all")]) == 2
    assert "has two contents" in capsys.readouterr().err and not (tmp_path / "all" / "records.jsonl").read_bytes()


def test_merging_shards_of_different_suites_names_them_and_loses_none(folder, tmp_path, capsys):
    other = RecordStore(tmp_path / "other")
    other.prepare()
    for number in range(3):
        other.append(make.record(number=number + 10, suite="another"))
    assert main(["records", "merge", str(folder), str(other.folder), "--out", str(tmp_path / "all")]) == 0
    said = capsys.readouterr()
    assert "7 record(s) added" in said.out and "records of 2 suites: imagenet256 (4), another (3)" in said.err
    main(["report", str(tmp_path / "all"), "--out", str(tmp_path / "r.html")])
    assert "imagenet256, another" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize("days", [-400, 400])
def test_the_order_of_merging_counts_and_no_clock(folder, tmp_path, capsys, days):
    """A machine of the same kind measured a case again, by a clock that is years off: of both the last one counts."""
    other = RecordStore(tmp_path / "other")
    other.prepare()
    old = make.record("var-d20", number=20)
    RecordStore(folder).append(old)
    skewed = {"started": old.started + timedelta(days=days), "finished": old.finished + timedelta(days=days)}
    other.append(old.model_copy(update=skewed | {"record_id": "again"}))
    for order, counts in (([folder, other.folder], "again"), ([other.folder, folder], old.record_id)):
        out = tmp_path / counts
        lines(capsys, "merge", *order, "--out", out)
        newest = {record.record_id for record in newest_of_each_case(read_records(out))}
        assert newest & {"again", old.record_id} == {counts}
        assert len(read_records(out)) == 6


def test_a_frame_has_a_row_per_record_and_parquet_gives_it_back(folder, tmp_path, capsys):
    frame = results.frame(folder)
    assert list(frame["status"]) == ["ok", "ok", "ok", "error"]
    first = read_records(folder).records[0]
    assert frame["peak_bytes"][0] == first.outcome.memory.peak_bytes
    pytest.importorskip("pyarrow")
    lines(capsys, "ls", folder, "--parquet", tmp_path / "t.parquet")
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "t.parquet"), frame, check_dtype=False)


def test_two_writers_in_one_folder_lose_and_double_nothing_and_a_kill_tears_one_line_at_most(programs, tmp_path):
    code = (
        "import sys; from pathlib import Path; from run_helpers import record; "
        "from arvbench.harness.run.store import RecordStore; store = RecordStore(Path(sys.argv[1])); store.prepare(); "
        "print(flush=True); n = 0\n"
        "while n < 100000: store.append(record(f'{sys.argv[2]}-{n}')); n += 1; print(n, flush=True)"
    )
    writers = [programs.start("-c", code, tmp_path, name) for name in "ab"]
    told = []
    for writer in writers:
        for _ in range(20):
            writer.stdout.readline()
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        told.append(int(([line for line in writer.communicate()[0].split("\n") if line.isdigit()] or ["19"])[-1]))
    assert RecordStore(tmp_path).prepare() is not None
    ids = [r.record_id for r in read_records(tmp_path)]
    assert len(ids) == len(set(ids)) and read_records(tmp_path).damaged_lines == ()
    for name, last in zip("ab", told, strict=True):
        assert {f"{name}-{n}" for n in range(last)} <= set(ids)
