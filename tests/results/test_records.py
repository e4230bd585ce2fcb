from __future__ import annotations

import json
from pathlib import Path

import pytest

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
    assert read_records(tmp_path) == read_records(path)


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


def test_of_each_case_the_newest_record_counts_wherever_it_stands() -> None:
    other = record("other", case_id="other")
    old, new = record("old"), record("new", started="2026-03-02T09:30:01Z")
    assert ids([old, other, new]) == ids([new, other, old]) == ["new", "other"]


def test_times_are_compared_as_moments_whatever_their_zone() -> None:
    old, new = record("old", started="2026-03-02T10:00:00+02:00"), record("new", started="2026-03-02T09:00:00")
    assert ids([new, old]) == ["new"]


def test_of_records_started_at_once_the_last_counts() -> None:
    assert ids([record("first"), record("second")]) == ["second"]


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
    build_report([tmp_path], tmp_path / "r.html")
    assert "0123456789ab" in (tmp_path / "r.html").read_text() and "0.7700" in (tmp_path / "r.md").read_text()
