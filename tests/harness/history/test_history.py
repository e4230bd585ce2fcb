"""Histories of made-up records: which records share a series, in which order, and what is left out."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import records as make
from histories import commit, records_of, write
from runs import control

from arvbench.errors import UserError
from arvbench.harness.history.history import history_of
from arvbench.results.baselines import Anchor, Calibration, make_baseline, write_baseline
from arvbench.results.history import History, NumberHistory
from arvbench.results.schema import Record, Status
from arvbench.results.verdict import Cause

STEP = [1.0] * 10 + [1.1] * 10


@pytest.fixture(autouse=True)
def _outside_of_any_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def times(history: History) -> list[NumberHistory]:
    return [number for number in history.numbers if number.number == "images"]


def of(folder: Path, records: list[Record], **options: object) -> History:
    return history_of([write(folder, records)], **options)  # type: ignore[arg-type]


def test_a_step_is_a_change_point_of_every_time_at_its_commit(tmp_path):
    history = of(tmp_path / "run", records_of(STEP, launches=2))
    assert history.commits == tuple(commit(place) for place in range(20))
    changed = {number.number for number, _ in history.marked()}
    assert {"images", "tokens", "decode"} <= changed and "weights_bytes" not in changed
    (change,) = times(history)[0].change_points
    assert (change.commit, change.after, change.cause) == (commit(10), commit(9), Cause.CODE)
    assert change.ratio == pytest.approx(1.1, abs=0.02) and change.p is not None and change.p < 0.01
    assert times(history)[0].is_worse(change.ratio) and len(times(history)[0].points[0].values) == 2


def test_an_exact_number_has_a_change_point_without_a_test(tmp_path):
    records = records_of([1.0] * 4)
    memory = records[0].outcome.memory.model_copy(update={"weights_bytes": 1_700_000_000})
    outcome = records[2].outcome.model_copy(update={"memory": memory})
    records[2] = records[2].model_copy(update={"outcome": outcome})
    history = of(tmp_path / "run", records)
    marked = [(number.number, change.commit, change.p) for number, change in history.marked()]
    assert marked == [("weights_bytes", commit(2), None), ("weights_bytes", commit(3), None)]
    assert all(not number.enough for number in times(history))


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": "another"},
        {"cores": 2},
        {"method_sha256": "cd" * 32},
        {"gpu": make.GPU},
    ],
    ids=str,
)
def test_records_of_another_machine_or_harness_never_share_a_series(tmp_path, changes):
    records = records_of(STEP, environment=lambda place: changes if place >= 10 else {})
    history = of(tmp_path / "run", records)
    assert [len(number.points) for number in times(history)] == [10, 10]
    assert not any(number.change_points for number in times(history))


def test_without_a_digest_of_the_harness_its_version_tells(tmp_path):
    versions = records_of(
        STEP, environment=lambda place: {"method_sha256": None, "arvbench_version": f"0.{place // 10}"}
    )
    assert [number.method for number in times(of(tmp_path / "run", versions))] == ["arvbench 0.0", "arvbench 0.1"]


def test_numbers_of_another_protocol_id_never_share_a_series(tmp_path):
    records = []
    for place, record in enumerate(records_of([1.0] * 4, weights="demo")):
        numbers = tuple(
            quality.model_copy(update={"protocol_id": f"id{place // 2}", "protocol_name": "digits-cnn"})
            for quality in make.quality_numbers(np.random.default_rng(0))
        )
        records.append(record.model_copy(update={"outcome": record.outcome.model_copy(update={"quality": numbers})}))
    history = of(tmp_path / "run", records)
    fids = [number for number in history.numbers if number.number == "fid digits-cnn"]
    assert [len(number.points) for number in fids] == [2, 2] and "protocol id0" in fids[0].basis


def test_a_case_with_other_settings_is_another_series(tmp_path):
    records = records_of(STEP[:4]) + records_of(STEP[:4], first=100, settings={"cfg": 4.0}, case_id="equal name")
    records += records_of(STEP[:4], first=200, settings={"cfg": 2.0}, case_id="equal name")
    assert [len(number.points) for number in times(of(tmp_path / "run", records))] == [4, 4, 4]


def test_a_machine_that_moved_is_the_cause(tmp_path):
    records = []
    for place, record in enumerate(records_of(STEP)):
        slower = control(1.1 if place >= 10 else 1.0)
        records.append(record.model_copy(update={"outcome": record.outcome.model_copy(update={"control": slower})}))
    (change,) = times(of(tmp_path / "run", records))[0].change_points
    assert change.cause is Cause.MACHINE and "times as long" in change.reason and "beside" not in change.reason


def test_other_libraries_are_the_cause_and_are_named(tmp_path):
    libraries = {"torch": "2.14.1"}
    records = records_of(
        STEP, environment=lambda place: {"libraries": libraries | ({"torch": "2.15.0"} if place >= 10 else {})}
    )
    (change,) = times(of(tmp_path / "run", records))[0].change_points
    assert change.cause is Cause.METHOD and change.reason == "libraries: torch 2.14.1 to 2.15.0"


def test_one_source_at_two_commits_has_no_code_to_blame(tmp_path):
    records = records_of(STEP, environment=lambda _place: {"source_sha256": "5f" * 32})
    (change,) = times(of(tmp_path / "run", records))[0].change_points
    assert change.cause is Cause.UNKNOWN


def test_records_of_no_use_are_left_out_and_counted(tmp_path):
    records = records_of([1.0] * 4)
    dirty, without = records_of([9.0] * 2, first=50, environment=lambda _place: {"git_dirty": True})
    without = without.model_copy(update={"environment": make.environment(git_commit=None, git_dirty=None)})
    odd = without.model_copy(update={"record_id": "odd", "environment": make.environment(git_commit="--upload-pack=x")})
    failed = make.failed(Status.OOM, "out of memory", number=70)
    history = of(tmp_path / "run", [*records, records[0], dirty, without, odd, failed])
    assert [len(number.points) for number in times(history)] == [4]
    assert set(history.notices) == {
        "left out: 1 records that are there twice",
        "left out: 1 records of a checkout with local changes: their commit alone is not what ran",
        "left out: 2 records without a commit",
        "left out: 1 records of failed cases",
    }


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"git_commit": "ab" * 20}, "one commit alone (abababababab)"),
        ({"git_commit": None}, "no commit"),
        (
            {"git_dirty": True},
            "of no commit: a history needs two or more; left out: 3 records of a checkout with local",
        ),
    ],
)
def test_fewer_than_two_commits_are_refused(tmp_path, environment, named):
    with pytest.raises(UserError, match="history needs two or more") as error:
        of(tmp_path / "run", records_of([1.0] * 3, environment=lambda _place: environment))
    assert named in str(error.value)


def test_runs_of_one_commit_are_launches_of_one_point(tmp_path):
    records = records_of([1.0] * 3)
    again = records_of([1.0] * 3, first=100)
    history = history_of([write(tmp_path / "a", records), write(tmp_path / "b", again)])
    assert [len(point.values) for point in times(history)[0].points] == [2, 2, 2]


def test_a_clock_that_was_set_back_moves_no_commit(tmp_path):
    back = timedelta(days=-900)
    records = [
        record.model_copy(update={"started": record.started + back * (place >= 5)})
        for place, record in enumerate(records_of([1.0] * 10))
    ]
    history = of(tmp_path / "run", records)
    assert history.commits == tuple(commit(place) for place in range(10))
    assert any("a clock was set back" in notice for notice in history.notices)
    # Each run in a file of its own has no line above it: there the times are all there is.
    assert "by their first measurements" in history.order


def test_the_order_of_commits_is_that_of_the_checkout(tmp_path):
    made, when = [], datetime(2026, 1, 1, tzinfo=UTC)
    repository = tmp_path / "repository"
    author = {
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@b",
    }

    def git(*words: str, **variables: str) -> str:
        command = ["git", "-C", str(repository), *words]
        environment = os.environ | author | variables
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    repository.mkdir()
    git("init", "-q")
    for place in range(4):
        date = (when - timedelta(days=place)).isoformat()  # dates that run backward
        git("commit", "-q", "--allow-empty", "-m", str(place), GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
        made.append(git("rev-parse", "HEAD"))
    names = [made[place] for place in (2, 0, 3, 1)]  # measured in another order than made
    run = write(tmp_path / "run", records_of([1.0] * 4, environment=lambda place: {"git_commit": names[place]}))
    history = history_of([run], repository=repository)
    assert history.commits == tuple(made) and history.order == "by the checkout"
    assert history_of([run]).commits == tuple(names)
    with pytest.raises(UserError, match="no commit"):
        of(tmp_path / "other", records_of([1.0] * 3), repository=repository)
    with pytest.raises(UserError, match="not in a git checkout"):
        history_of([run], repository=tmp_path)


def test_the_anchors_of_a_baseline_are_those_of_equal_machine_harness_and_case(tmp_path):
    records = records_of(STEP[:4], launches=2)
    release, accepted = records[:2], records[2:4]

    def anchor(behind: list[Record]) -> Anchor:
        ids = tuple(record.record_id for record in behind)
        return Anchor(by="Ada", reason="first", at=datetime(2026, 3, 2, tzinfo=UTC), launches=ids)

    calibration = Calibration(at=datetime(2026, 3, 2, tzinfo=UTC), launches=anchor(records[:4]).launches, noise=())
    baseline = make_baseline(
        suite="gate", calibration=calibration, accepted=anchor(accepted), release=anchor(release), records=records
    )
    write_baseline(tmp_path / "b.json", baseline)
    history = of(tmp_path / "run", records, baselines=[tmp_path / "b.json"])
    (images,) = times(history)
    assert [(one.name, one.commit) for one in images.anchors] == [("accepted", commit(1)), ("release", commit(0))]
    assert images.anchors[1].value == images.points[0].value
    assert images.since("release") == pytest.approx(images.points[-1].value / images.points[0].value)
    other = records_of(STEP[:4], environment=lambda _place: {"method_sha256": "cd" * 32})
    history = of(tmp_path / "other", other, baselines=[tmp_path / "b.json"])
    assert not any(number.anchors for number in history.numbers)
    assert any("b.json: its launches are of another machine" in notice for notice in history.notices)


def test_a_number_that_is_none_is_no_point(tmp_path):
    records = records_of([1.0] * 3)
    memory = records[1].outcome.memory.model_copy(update={"weights_bytes": 0})
    records[1] = records[1].model_copy(update={"outcome": records[1].outcome.model_copy(update={"memory": memory})})
    history = of(tmp_path / "run", records)
    (weights,) = [number for number in history.numbers if number.number == "weights_bytes"]
    assert [point.commit for point in weights.points] == [commit(0), commit(2)]
