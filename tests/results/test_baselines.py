"""Baseline files: what they hold, and which ones are refused."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import records as make
from pydantic import ValidationError
from runs import launches

from arvbench.errors import UserError
from arvbench.results.baselines import (
    Anchor,
    Baseline,
    Calibration,
    Noise,
    baseline_name,
    make_baseline,
    read_baseline,
    write_baseline,
)
from arvbench.results.schema import Record

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
NOISE = Noise(case="var-d16", number="images", within_cv=0.01, between_cv=0.004, modes=1, mde=0.035)


def anchor(records: list[Record], **changes: Any) -> Anchor:
    fields = {"by": "Ada", "reason": "first", "at": NOW, "launches": tuple(record.record_id for record in records)}
    return Anchor(**(fields | changes))


def baseline(records: list[Record] | None = None, **changes: Any) -> Baseline:
    records = launches() if records is None else records
    calibration = Calibration(at=NOW, launches=tuple(record.record_id for record in records), noise=(NOISE,))
    fields = {"suite": "gate", "calibration": calibration, "accepted": anchor(records), "release": anchor(records)}
    return make_baseline(**(fields | {"records": records} | changes))


def test_a_baseline_is_written_and_read_again_with_a_line_per_record(tmp_path: Path) -> None:
    made = baseline()
    write_baseline(tmp_path / "new" / "b.json", made)
    assert read_baseline(tmp_path / "new" / "b.json") == made
    lines = (tmp_path / "new" / "b.json").read_text().splitlines()
    assert sum('"record_id"' in line for line in lines) == 8
    assert made.hardware == "AMD EPYC 9554, 64 cores" and len(made.records_of(made.accepted)) == 8


def test_records_are_kept_without_what_no_comparison_reads() -> None:
    (outcome, *_) = [record.outcome for record in baseline().records]
    assert outcome.setup.plan == () and outcome.cache == () and outcome.control is not None
    assert outcome.timings == launches()[0].outcome.timings


def test_only_records_that_an_anchor_or_the_calibration_names_are_kept() -> None:
    others = launches(speed=2)
    whole = baseline([*launches(), *others])
    kept = make_baseline(
        suite="gate",
        calibration=whole.calibration.model_copy(update={"launches": whole.calibration.launches[:8]}),
        accepted=anchor(launches()),
        release=anchor(launches()),
        records=whole.records,
    )
    assert [record.record_id for record in kept.records] == [record.record_id for record in launches()]


@pytest.mark.parametrize("hardware", ["NVIDIA H200, 140 GiB, driver 575", "AMD EPYC 9554, 2 cores", "../../x\x00/ÿ"])
def test_the_name_of_a_file_is_made_of_the_hardware_class(hardware: str) -> None:
    name = baseline_name(hardware)
    assert name.endswith(".json") and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") and ".." not in name
    assert baseline_name("NVIDIA H200, 140 GiB, driver 575") == "nvidia-h200-140-gib-driver-575.json"


def _without(text: str, key: str) -> str:
    content = json.loads(text)
    del content[key]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "is empty"),
        (lambda text: " \n", "is empty"),
        (lambda text: text[: len(text) // 2], "is no baseline"),
        (lambda text: "[]", "is no baseline"),
        (lambda text: "null", "is no baseline"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "its schema is not version 1"),
        (lambda text: _without(text, "accepted"), "accepted: Field required"),
        (lambda text: json.dumps(json.loads(text) | {"records": []}), "records"),
        (lambda text: json.dumps(json.loads(text) | {"extra": 1}), "unknown key 'extra'"),
        (lambda text: json.dumps(json.loads(text) | {"hardware": "H200"}), "another hardware class: AMD EPYC 9554"),
        (lambda text: text.replace('"cores":64', '"cores":32', 1), "another hardware class"),
        (lambda text: json.dumps(json.loads(text) | {"records": json.loads(text)["records"][1:]}), "does not hold"),
        (lambda text: json.dumps(json.loads(text) | {"records": json.loads(text)["records"] * 2}), "twice"),
        (lambda text: text.replace('"reason": "first"', '"reason": ""', 1), "reason"),
    ],
)
def test_a_damaged_baseline_is_bad_input(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "b.json"
    write_baseline(path, baseline())
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as refused:
        read_baseline(path)
    assert refused.value.exit_code == 2 and "b.json" in str(refused.value)


def test_a_baseline_that_is_missing_or_no_file_is_bad_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="cannot read"):
            read_baseline(path)


def test_a_file_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_baseline(tmp_path / "file" / "b.json", baseline())


def test_launches_of_several_machines_are_no_baseline() -> None:
    other = make.environment(cpu="Intel Xeon 8480")
    records = launches()
    mixed = [*records[:-1], records[-1].model_copy(update={"environment": other})]
    with pytest.raises(ValidationError, match="another hardware class"):
        baseline(mixed)
