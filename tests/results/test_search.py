"""Searches in records: the next point, the best, k, and what belongs to one search."""

from __future__ import annotations

from datetime import timedelta

import pytest
import records as make
from hypothesis import given
from hypothesis import strategies as st

from arvbench.results.energy import Energy, EnergyWindow
from arvbench.results.records import newest_of_each_case
from arvbench.results.schema import Record, SearchRequest, Status
from arvbench.results.search import marks, next_point, searches, value_of, with_marks
from arvbench.results.search_request import read_objective

MIB = 2**20


def request(*, objective: str = "latency", budget: int = 100, **over) -> SearchRequest:
    return SearchRequest(objective=objective, budget=budget, over=over)


def walk(asked: SearchRequest, value) -> list:
    """All points that a search tries, each with its value."""
    tried = []
    while (point := next_point(asked, tried)) is not None:
        tried.append((point, value(*point)))
    return tried


@given(
    st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=9, unique=True), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_as_many_points_as_the_budget_or_there_are_are_tried_each_once(axes, budget, seed):
    over = dict(zip(("batch", "settings.a", "settings.b"), map(tuple, axes), strict=False))
    asked = request(budget=budget, **over)

    def value(*point):
        drawn = hash((seed, *point)) % 7
        return None if drawn == 0 else drawn

    tried = walk(asked, value)
    assert len({point for point, _ in tried}) == len(tried) == asked.most
    assert walk(asked, value) == tried
    assert all(given in axis for point, _ in tried for given, axis in zip(point, axes, strict=True))


@pytest.mark.parametrize("least", [1, 2, 17, 40, 63, 64])
def test_a_minimum_among_64_is_found_within_13_tries(least):
    tried = walk(request(budget=13, batch={"low": 1, "high": 64}), lambda batch: abs(batch - least) ** 1.5)
    assert min(tried, key=lambda pair: pair[1])[0] == (least,)


def test_the_way_along_a_line_is_ends_then_golden_section_of_the_wider_gap():
    tried = walk(request(budget=6, batch={"low": 0, "high": 100}), lambda batch: (batch - 30) ** 2)
    assert [point for point, _ in tried] == [(0,), (100,), (38,), (62,), (23,), (14,)]


def test_a_higher_value_is_better_where_the_objective_says_so():
    tried = walk(request(objective="images/s", budget=3, batch=(1, 2, 10, 20)), lambda batch: batch)
    assert [point for point, _ in tried] == [(1,), (20,), (10,)]


def test_texts_are_tried_in_the_order_of_the_list():
    tried = walk(request(cache=("static", "grow", "window:2", "int8"), budget=4), lambda name: len(name))
    assert [point[0] for point, _ in tried] == ["static", "int8", "window:2", "grow"]


def test_several_keys_are_tried_in_turns_along_the_lines_through_the_best():
    over = {"batch": (1, 2, 3), "settings.cfg": (0.0, 1.0, 2.0)}
    tried = walk(request(budget=9, **over), lambda batch, cfg: (batch - 2) ** 2 + (cfg - 1) ** 2)
    assert [point for point, _ in tried[:4]] == [(1, 0.0), (3, 0.0), (1, 2.0), (2, 0.0)]
    assert tried[5][0] == (2, 1.0) or (2, 1.0) in [point for point, _ in tried[:6]]


def test_a_failure_is_worse_than_any_number_and_all_failures_end():
    tried = walk(request(budget=4, batch={"low": 1, "high": 100}), lambda batch: None if batch == 1 else 1e300)
    assert tried[2][0] == (62,)
    assert len(walk(request(budget=9, batch=(1, 2, 3)), lambda batch: None)) == 3


def test_ranges_have_whole_numbers_or_rounded_steps():
    assert request(batch={"low": 2, "high": 9, "step": 3}).axes == ((2, 5, 8),)
    assert request(**{"settings.cfg": {"low": 1, "high": 1.3, "step": 0.1}}).axes == ((1.0, 1.1, 1.2, 1.3),)


def tried(number: int, batch: int, *, k: int = 3, objective: str = "images/s", speed: float = 1.0, over=(1, 2, 4, 8),
          confirmation: bool = False, **options) -> Record:  # fmt: skip
    search = SearchRequest(
        objective=objective, over={"batch": over}, budget=k, number=number, tries=k, confirmation=confirmation
    )
    name = f"demo/var b{batch} search" + (" confirmation" if confirmation else "")
    options = {"weights": "demo", "number": number + 10 * confirmation, "case_id": name} | options
    return make.record("demo/var", search=search, batch=batch, speed=speed, **options)


THREE = (tried(1, 1, speed=1), tried(2, 8, speed=8), tried(3, 4, speed=0.5))


def test_the_best_is_computed_and_marked_with_k():
    (search,) = searches(THREE)
    assert search.best is THREE[2] and search.count == 3
    assert [search.mark(record) for record in THREE] == ["try 1 of 3", "try 2 of 3", "best of 3"]
    assert [r.case_id.partition(" · ")[2] for r in with_marks(THREE)] == ["try 1 of 3", "try 2 of 3", "best of 3"]
    plain = make.record(number=9)
    assert with_marks([plain]) == [plain] and marks([plain]) == {}


def test_of_equal_tries_the_first_is_the_best():
    same = [tried(number, batch, objective="memory", outcome=THREE[0].outcome) for number, batch in ((2, 8), (1, 1))]
    assert searches(same)[0].best.case.batch == 1


def test_lost_and_failed_tries_count_in_k():
    failed = tried(2, 8, outcome=make.failed(Status.OOM, "too little memory").outcome)
    (search,) = searches([THREE[0], failed, THREE[2]])
    assert search.count == 3 and search.mark(THREE[2]) == "best of 3" and search.mark(failed) == "try 2 of 3"
    (search,) = searches([THREE[2], failed])
    assert search.mark(THREE[2]) == "best of 3 (2 recorded)"


def test_a_confirmation_has_no_part_in_the_choice():
    again = tried(3, 4, speed=0.01, confirmation=True)
    other = tried(1, 1, speed=0.01, confirmation=True)
    (search,) = searches([*THREE, again, other])
    assert search.best is THREE[2] and search.count == 3 and search.confirmed is again
    assert search.mark(again) == "confirms best of 3" and search.mark(other) == "confirms try 1"


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("latency", lambda o: sorted(next(t for t in o.timings if t.scope == "images").samples_ns)[3] / 1e6),
        ("images/s", lambda o: 4e9 / sorted(next(t for t in o.timings if t.scope == "images").samples_ns)[3]),
        ("memory", lambda o: o.memory.peak_bytes / MIB),
        ("cache", lambda o: o.memory.cache_live_bytes / MIB),
        ("energy", lambda o: 3.0),
        ("fid", lambda o: next(q.value for q in o.quality if q.metric == "fid")),
        ("digits-cnn:fid", lambda o: None),
    ],
)
def test_every_objective_is_read_from_its_number(objective, expected):
    windows = tuple(
        EnergyWindow(kind=kind, duration_ns=10**9, images=images, counter_j=joules, power_j=None)
        for kind, images, joules in (("idle", 0, 10.0), ("work", 4, 22.0))
    )
    quality = make.quality_numbers(make.np.random.default_rng(0))
    record = make.record(batch=4, quality=quality)
    measured = record.outcome.model_copy(update={"energy": Energy(source="rapl", windows=windows)})
    record = record.model_copy(update={"outcome": measured})
    value = value_of(record, read_objective(objective))
    assert value == (pytest.approx(expected(record.outcome)) if expected(record.outcome) is not None else None)


def test_a_number_that_is_none_is_no_value():
    odd = make.quality_numbers(make.np.random.default_rng(0))[0].model_copy(update={"value": float("nan")})
    assert value_of(make.record(quality=(odd,)), read_objective("fid")) is None
    assert value_of(make.record(), read_objective("energy")) is None
    assert value_of(make.failed(Status.ERROR, "made up"), read_objective("latency")) is None


def test_of_a_file_the_newest_values_source_and_machine_make_the_search():
    longer = [tried(number, batch, k=2, over=(1, 2)) for number, batch in ((1, 1), (2, 2))]
    assert newest_of_each_case([*THREE, *longer]) == tuple(longer)
    newer = make.environment(source_sha256="00" * 32)
    again = tried(1, 1, environment=newer)
    assert newest_of_each_case([*THREE, again]) == (again,)
    elsewhere = tried(1, 1, environment=make.environment(cpu="another"))
    assert len(newest_of_each_case([*THREE, elsewhere])) == 4 and len(searches([*THREE, elsewhere])) == 2


def test_a_try_that_is_measured_again_replaces_its_record_alone():
    again = tried(2, 8, speed=0.001).model_copy(update={"record_id": "again"})
    kept = newest_of_each_case([*THREE, again])
    assert [record.record_id for record in kept] == [THREE[0].record_id, "again", THREE[2].record_id]
    assert searches(kept)[0].best is again


@pytest.mark.parametrize("hours", [-30, 30])
def test_the_order_of_tries_is_their_number_whatever_clocks_say(hours):
    """A search may go on on another machine of the same kind."""
    late = THREE[2].model_copy(update={"started": THREE[2].started + timedelta(hours=hours)})
    (search,) = searches([late, *THREE[:2]])
    assert [record.case.search.number for record in search.tries] == [1, 2, 3] and search.best is late


def test_a_record_of_a_try_is_read_as_it_was_written_and_others_do_not_change():
    text = THREE[0].model_dump_json()
    assert Record.model_validate_json(text) == THREE[0]
    assert "search" not in make.record().case.model_dump()
