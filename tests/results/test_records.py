from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warm_program import Programs

from arvbench.errors import UserError
from arvbench.results.records import newest_of_each_case, read_records
from arvbench.results.schema import Record

GOOD = {
    "record_id": "one",
    "suite": "demo",
    "case_id": "case",
    "fingerprint": "f",
    "started": "2026-03-02T09:30:00Z",
    "finished": "2026-03-02T09:31:00Z",
    "case": {"model": "demo/var", "weights": "demo"},
    "environment": {
        "arvbench_version": "0.1.0",
        "source_sha256": "00",
        "git_commit": None,
        "git_dirty": None,
        "python": "3.11",
        "libraries": {},
        "os": "Linux",
        "cpu": "a CPU",
        "cores": 2,
        "memory_bytes": 1,
        "gpu": None,
        "cuda": None,
        "tf32": False,
    },
    "outcome": {"status": "oom", "reason": "too little memory"},
}


def line(**changes: object) -> str:
    return json.dumps({"schema_version": 1} | GOOD | changes)


def test_a_run_folder_and_its_records_file_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line() + "\n" + line(record_id="two") + "\n")
    assert [record.record_id for record in read_records(tmp_path)] == ["one", "two"]
    assert read_records(tmp_path) == read_records(path) == read_records(str(path)) == read_records(str(tmp_path))


def test_a_cut_last_line_costs_no_other_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line() + "\n" + line(record_id="two")[:50])
    file = read_records(path)
    assert [record.record_id for record in file.records] == ["one"]
    (damaged,) = file.damaged_lines
    assert damaged.number == 2
    assert "cut in mid-line" in str(damaged)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"not json", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"{}", "not a valid record"),
        (line(schema_version=99).encode(), "schema is not version 1"),
        (line(outcome={"status": "ok"}).encode(), "not a valid record: outcome"),
    ],
)
def test_a_bad_line_in_the_middle_is_named_and_skipped(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(line().encode() + b"\n" + bad + b"\n\n" + line(record_id="three").encode() + b"\n")
    file = read_records(path)
    assert [record.record_id for record in file.records] == ["one", "three"]
    assert [damaged.number for damaged in file.damaged_lines] == [2]
    assert reason in file.damaged_lines[0].reason


def test_a_whole_last_line_without_a_newline_is_a_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line())
    assert len(read_records(path)) == 1


def test_an_empty_file_is_a_run_without_finished_cases(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.touch()
    file = read_records(path)
    assert file.records == () and file.damaged_lines == ()


@pytest.mark.parametrize("name", ["missing.jsonl", "empty-folder"])
def test_a_missing_file_is_a_user_error_that_names_the_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    with pytest.raises(UserError, match=name):
        read_records(tmp_path / name)


def record(record_id: str, **changes: object) -> Record:
    return Record.model_validate_json(line(record_id=record_id, **changes))


def ids(records: list[Record]) -> list[str]:
    return [record.record_id for record in newest_of_each_case(records)]


@pytest.mark.parametrize("started", ["2026-03-02T09:30:01Z", "2026-03-02T09:30:00Z", "1970-01-01T00:00:00+02:00"])
def test_of_each_case_the_last_record_counts_also_when_the_clock_was_set_back(started: str) -> None:
    other, old, new = record("other", case_id="other"), record("old"), record("new", started=started)
    assert ids([old, other, new]) == ["new", "other"]


def test_a_byte_order_mark_and_windows_lines_cost_no_record(tmp_path: Path) -> None:
    content = ("\ufeff" + line() + "\r\n" + line(record_id="two") + "\r\n").encode()
    (tmp_path / "records.jsonl").write_bytes(content)
    file = read_records(tmp_path)
    assert ([r.record_id for r in file], file.damaged_lines) == (["one", "two"], ())


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_garbage_collection_as_it_was(tmp_path: Path, enabled: bool) -> None:
    (tmp_path / "records.jsonl").write_text(line() + "\n")
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        read_records(tmp_path)
        with pytest.raises(UserError):
            read_records(tmp_path / "missing")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_reading_from_a_line_on_leaves_out_those_before(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(line(record_id=name) + "\n" for name in ("one", "two", "three")))
    start = len(line(record_id="one")) + 1
    assert [record.record_id for record in read_records(path, start=start)] == ["two", "three"]
    assert len(read_records(path, start=path.stat().st_size)) == 0


HOSTILE = {
    "deep lists": b"[" * 100_000,
    "deep mappings": b'{"a":' * 100_000,
    "half a surrogate": line(suite="x").encode().replace(b'"x"', b'"\\ud800"'),
    "null byte": b"\0" * 50,
    "not UTF-8": line(suite="x").encode().replace(b'"x"', b'"\xff"'),
    "bare NaN": line(suite="x").encode().replace(b'"x"', b"NaN"),
    "a long number": line(schema_version=10**400).encode(),
    "a number of floats": line(cores=1e400).encode(),
    "a list": b"[1, 2]",
    "another schema": line(schema_version=2).encode(),
    "a date that is none": line(started="2026-02-30T00:00:00Z").encode(),
    "half a record": line().encode()[:200],
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_line_is_named_and_costs_no_other(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(line().encode() + b"\n" + content + b"\n" + line(record_id="two").encode() + b"\n")
    file = read_records(path)
    assert [r.record_id for r in file] == ["one", "two"]
    (damaged,) = file.damaged_lines
    assert str(damaged).startswith(f"{path}, line 2: ")
    assert "\n" not in str(damaged) and len(damaged.reason) < 300
    str(damaged).encode()


def test_a_line_of_most_of_a_gigabyte_is_skipped_within_bounded_memory(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with path.open("wb") as file:
        file.write(line().encode() + b"\n")
        file.seek(3 * 2**28, os.SEEK_CUR)  # a hole: 800 MB of null bytes that take no room
        file.write(b"\n" + line(record_id="two").encode() + b"\n")
    program = (
        "import resource, sys; from pathlib import Path; from arvbench.results.records import read_records; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; found = read_records(Path(sys.argv[1])); "
        "print([r.record_id for r in found], [d.reason for d in found.damaged_lines], "
        "(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 2**19)"
    )
    ended = programs.run("-c", program, path)
    assert ended.stdout.strip() == "['one', 'two'] ['longer than 134,217,728 bytes'] True"


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_records_that_are_no_file_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(UserError, match=r"records\.jsonl"):
        read_records(path)


@pytest.mark.fuzz
@given(st.lists(st.binary(max_size=80) | st.text(max_size=80).map(str.encode), max_size=4))
def test_any_lines_are_records_or_damaged(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "records.jsonl"
    path.write_bytes(b"\n".join(lines))
    for damaged in read_records(path).damaged_lines:
        str(damaged).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PLACES = st.sampled_from([(key,) for key in GOOD] + [("environment", key) for key in GOOD["environment"]])


@pytest.mark.fuzz
@given(st.lists(st.tuples(PLACES, JSON), max_size=3))
def test_any_values_in_a_record_are_read_or_damaged(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[tuple[str, ...], object]]
) -> None:
    changed = {"schema_version": 1} | json.loads(json.dumps(GOOD))
    for place, value in changes:
        inner = changed
        for key in place[:-1]:
            inner = inner[key] if isinstance(inner.get(key), dict) else inner
        inner[place[-1]] = value
    path = tmp_path_factory.getbasetemp() / "values.jsonl"
    path.write_text(json.dumps(changed) + "\n")
    file = read_records(path)
    assert len(file) + len(file.damaged_lines) == 1
    for record in file:
        assert Record.model_validate_json(record.model_dump_json()).record_id == record.record_id


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": "other"},
        {"case_id": "other"},
        {"case": GOOD["case"] | {"weights": "random:0"}},
        {"case": GOOD["case"] | {"threads": 1}},
        {"environment": GOOD["environment"] | {"cpu": "another CPU"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_case_or_machine_hides_no_record(changes: dict[str, object]) -> None:
    assert ids([record("one"), record("two", **changes)]) == ["one", "two"]


def test_another_source_and_settings_of_measuring_are_the_same_case() -> None:
    changed = {"case": GOOD["case"] | {"repeats": 2}, "environment": GOOD["environment"] | {"source_sha256": "01"}}
    assert ids([record("one"), record("two", **changed)]) == ["two"]


OLD_SETUP = {
    "model": "demo/var", "family": "var", "image_px": 32, "transformer_parameters": 1, "tokenizer_parameters": 1,
    "weights_source": "demo", "weights_random": False, "weights_sha256": {}, "settings": {"cfg": 0.5},
    "settings_source": "chosen", "settings_deviations": {}, "cache_policy": "static", "kernels": {},
    "attention": "math", "threads": 1, "plan": [], "decode_flops": 1,
}  # fmt: skip
OLD_OUTCOME = {
    "status": "ok",
    "setup": OLD_SETUP,
    "correctness": {
        "judge": "reference backend", "images": 1, "max_abs_diff": 0.0, "tolerance": 0.0, "equal_tokens": 1.0,
        "required_equal_tokens": 1.0, "passed": True,
    },
    "warmup": {"samples_ns": [5], "steady": True},
    "timings": [{"scope": "images", "samples_ns": [5, 6], "images": 1, "forward_rows": 2, "clock": "wall"}],
    "memory": {
        "weights_bytes": 1, "cache_planned_bytes": 0, "cache_live_bytes": 0, "cache_allocated_bytes": 0,
        "tokens_peak_bytes": None, "decode_peak_bytes": None, "source": "process-rss", "peak_bytes": None,
        "reserved_bytes": None, "device_used_bytes": None,
    },
    "cache": [],
    "quality": [
        {"metric": "fid", "value": 0.77, "spread": None, "protocol_id": "0123456789ab", "n_samples": 1000, "note": "",
         "protocol": "fid (digits-cnn) against digits, torch-fidelity 0.4.0"},
    ],
    "sample_sheet": None,
}  # fmt: skip


@pytest.mark.parametrize(("extractor", "protocol"), [("digits-cnn", "digits-cnn"), ("inception", "torch-fidelity")])
def test_a_record_of_before_protocols_had_names_is_read(tmp_path: Path, extractor: str, protocol: str) -> None:
    asked = {"extractor": extractor, "reference": "digits", "images": 1000, "metrics": ["fid", "isc", "prc"], "seed": 0}
    path = tmp_path / "records.jsonl"
    path.write_text(line(case=GOOD["case"] | {"quality": asked}, outcome=OLD_OUTCOME) + "\n")
    file = read_records(path)
    assert file.damaged_lines == ()
    (old,) = file.records
    assert old.case.quality.protocols == (protocol,)
    assert old.case.quality.metrics == ("fid", "isc", "precision", "recall")
    assert (old.case.quality.labels, old.case.quality.resize, old.case.recipe) == ("balanced", None, None)
    (number,) = old.outcome.quality
    assert (number.value, number.interval, number.protocol_id) == (0.77, None, "0123456789ab")
    assert old.outcome.findings == () and old.outcome.setup.recipe_deviations == {}
    assert Record.model_validate_json(old.model_dump_json()) == old


def test_a_report_of_an_old_record_shows_its_number(tmp_path: Path) -> None:
    from arvbench.reports.build import build_report

    (tmp_path / "records.jsonl").write_text(line(outcome=OLD_OUTCOME) + "\n")
    build_report([tmp_path], tmp_path / "r.html", tables=[tmp_path / "tables.md"])
    assert "0123456789ab" in (tmp_path / "r.html").read_text() and "0.7700" in (tmp_path / "tables.md").read_text()
