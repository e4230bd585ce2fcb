"""Moments of records: with a zone, without one, and at the ends of the calendar."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import records as make

from arvbench.harness import cli
from arvbench.results.moments import in_utc

ODD = ("2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00+05:30")


@pytest.mark.parametrize("text", ODD)
def test_every_moment_is_in_utc(text):
    moment = in_utc(datetime.fromisoformat(text))
    assert moment.tzinfo is UTC and in_utc(moment) == moment


def test_a_moment_with_a_zone_stays_the_moment():
    assert in_utc(datetime.fromisoformat("2026-01-01T00:00:00+05:30")) == datetime(2025, 12, 31, 18, 30, tzinfo=UTC)


FIELDS = [("started", moment) for moment in ODD] + [
    pytest.param("finished", moment, marks=[pytest.mark.slow] * (moment != ODD[0])) for moment in ODD
]


@pytest.mark.parametrize(("field", "moment"), FIELDS)
def test_records_of_any_moments_are_compared_and_reported_together(field, moment, tmp_path, capsys):
    """Other tools and editors write times without a zone, and launches of one case may differ in it."""
    path = make.write_records(tmp_path / "a" / "records.jsonl", [make.record(number=0, launch=1)])
    line = json.loads(Path(path).read_text())
    odd = tmp_path / "b" / "records.jsonl"
    odd.parent.mkdir()
    odd.write_text(json.dumps(line) + "\n" + json.dumps(line | {field: moment, "launch": 2, "record_id": "odd"}) + "\n")
    assert cli.main(["compare", str(path), str(odd), "--out", str(tmp_path / "c")]) == 5
    assert cli.main(["report", str(odd), "--out", str(tmp_path / "report.html")]) == 0
    assert "error" not in capsys.readouterr().err
