"""Two runs compared: pairs, verdicts and causes; machines told apart; few launches; what a comparison refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import records as make
from runs import launch, launches, run

from arvbench.errors import UserError
from arvbench.harness import cli
from arvbench.harness.check.compare import Comparison, compare_runs
from arvbench.harness.check.pairing import pair_cases
from arvbench.results.schema import Record, Status
from arvbench.results.verdict import Cause, Change, Check, Verdict

EDITED = {"source_sha256": "77" * 32}
OTHER_HARNESS = EDITED | {"method_sha256": "bb" * 32}


def compared(tmp_path: Path, base: list, head: list) -> Comparison:
    return compare_runs(run(tmp_path / "a", base), run(tmp_path / "b", head), command="arvbench compare a b")


def number(comparison: Comparison, name: str = "images") -> Change:
    (found,) = [change for change in comparison.check.changes if change.number == name]
    return found


def test_a_slower_commit_is_a_regression_caused_by_code(tmp_path: Path) -> None:
    found = compared(tmp_path, launches(), launches(speed=1.1, environment=EDITED))
    change = number(found)
    assert (change.verdict, change.cause) == (Verdict.REGRESSION, Cause.CODE)
    assert change.ratio == pytest.approx(1.1, abs=0.01) and change.interval and change.interval[0] > 1.08
    assert change.smallest_detectable and change.smallest_detectable < 0.1
    assert found.check.exit_code == 1 and len(change.base) == 8


def test_a_faster_commit_is_an_improvement_and_passes(tmp_path: Path) -> None:
    found = compared(tmp_path, launches(), launches(speed=0.8, environment=EDITED))
    assert number(found).verdict is Verdict.IMPROVEMENT and number(found).cause is Cause.CODE
    assert found.check.exit_code == 0


def test_one_source_twice_is_noise(tmp_path: Path) -> None:
    found = compared(tmp_path, launches(), launches(speed=1.004))
    assert number(found).verdict is Verdict.PASS and number(found).cause is Cause.NOISE
    equal = number(found, "weights_bytes")
    assert (equal.ratio, equal.cause, equal.verdict) == (1.0, None, Verdict.PASS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"environment": OTHER_HARNESS}, "harness"),
        ({"environment": EDITED | {"libraries": {"torch": "2.15.0"}}}, "libraries"),
        ({"environment": EDITED | {"python": "3.12.1"}}, "Python"),
        ({"environment": EDITED, "repeats": 9}, "repeats"),
        ({"environment": EDITED, "max_warmup": 3}, "warm-up"),
    ],
)
def test_a_change_beside_another_method_is_blamed_on_the_method(tmp_path: Path, changes: dict, named: str) -> None:
    change = number(compared(tmp_path, launches(), launches(speed=1.2, **changes)))
    assert (change.verdict, change.cause) == (Verdict.REGRESSION, Cause.METHOD)
    assert change.reason.endswith(f"Different: {named}.")


@pytest.mark.parametrize("environment", [{}, {"source_sha256": "77" * 32, "method_sha256": None}])
def test_a_change_without_a_known_difference_has_an_unknown_cause(tmp_path: Path, environment: dict) -> None:
    before = {"method_sha256": None} if environment else {}
    found = compared(tmp_path, launches(environment=before), launches(speed=1.2, environment=environment))
    assert (number(found).verdict, number(found).cause) == (Verdict.REGRESSION, Cause.UNKNOWN)


def test_a_control_that_moved_too_is_the_machine(tmp_path: Path) -> None:
    found = compared(tmp_path, launches(), launches(speed=1.2, controlled=1.2, environment=EDITED))
    assert (number(found).verdict, number(found).cause) == (Verdict.MACHINE, Cause.MACHINE)
    assert found.check.exit_code == 4 and any("which no commit changes" in text for text in found.check.machine)


def test_another_machine_is_told_and_no_code_is_blamed(tmp_path: Path) -> None:
    there = EDITED | {"cpu": "Intel Xeon 8480"}
    found = compared(tmp_path, launches(), launches(speed=1.5, environment=there))
    change = number(found)
    assert (change.verdict, change.cause, change.interval) == (Verdict.MACHINE, Cause.MACHINE, None)
    assert "AMD EPYC 9554, 64 cores and Intel Xeon 8480, 64 cores" in change.reason
    assert found.check.hardware == "AMD EPYC 9554, 64 cores; Intel Xeon 8480, 64 cores" and found.check.exit_code == 4


def test_each_machine_is_compared_with_itself(tmp_path: Path) -> None:
    there = {"cpu": "Intel Xeon 8480"}
    base = [*launches(environment=there, speed=3), *launches()]
    head = [*launches(environment=EDITED), *launches(environment=there | EDITED, speed=3.6)]
    changes = [change for change in compared(tmp_path, base, head).check.changes if change.number == "images"]
    assert sorted((change.verdict, change.case.endswith("cores)")) for change in changes) == [
        (Verdict.PASS, False),
        (Verdict.REGRESSION, True),
    ]


def test_one_launch_each_is_within_one_process_and_says_so(tmp_path: Path) -> None:
    found = compared(tmp_path, [launch(1, speed=1)], [launch(1, speed=1.3, environment=EDITED)])
    change = number(found)
    assert (change.verdict, change.cause) == (Verdict.INCONCLUSIVE, Cause.UNKNOWN)
    assert change.interval is not None and change.interval[0] > 1.2, "seven calls on each side have an interval"
    assert "within one process" in change.reason and "per side are needed" in change.reason
    assert change.base == (change.base[0],) and found.check.exit_code == 5
    assert number(found, "weights_bytes").verdict is Verdict.PASS, "bytes are exact and need no launches"


def test_few_launches_have_no_interval_and_say_how_many_are_needed(tmp_path: Path) -> None:
    change = number(compared(tmp_path, launches(3), launches(3, speed=1.3)))
    assert change.verdict is Verdict.INCONCLUSIVE and change.interval is None
    assert change.reason.startswith("3 and 3 launches are too few to blame anything; ")


def test_the_launches_that_are_needed_suffice_beside_numbers_that_have_enough(tmp_path: Path) -> None:
    def changes(count: int) -> list[Change]:
        sides = [[*launches(20, **side), *launches(count, batch=4, **side)] for side in ({}, {"speed": 1.3})]
        return [change for change in compared(tmp_path, *sides).check.changes if "b4" in change.case]

    few = [change for change in changes(3) if "are too few" in change.reason]
    (needed,) = {int(change.reason.split("; ")[1].split()[0]) for change in few}
    assert not any("are too few" in change.reason for change in changes(needed))
    assert any("are too few" in change.reason for change in changes(needed - 1))


def test_more_bytes_are_a_regression_even_of_one_launch(tmp_path: Path) -> None:
    record = launch(1, speed=1, environment=EDITED)
    memory = record.outcome.memory.model_copy(update={"cache_allocated_bytes": 2**30})
    grown = record.model_copy(update={"outcome": record.outcome.model_copy(update={"memory": memory})})
    change = number(compared(tmp_path, [launch(1, speed=1)], [grown]), "cache_allocated_bytes")
    assert (change.verdict, change.cause) == (Verdict.REGRESSION, Cause.CODE)


def test_a_case_that_vanished_is_unusable_and_a_new_one_is_told(tmp_path: Path) -> None:
    found = compared(tmp_path, [*launches(), *launches(batch=4)], [*launches(environment=EDITED), *launches(batch=16)])
    assert found.check.verdict is Verdict.UNUSABLE and found.check.exit_code == 6
    assert any("b4" in text and "only" in text for text in found.check.unusable)
    assert len(found.notices) == 1 and "b16" in found.notices[0]


def test_a_case_that_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    failed = make.failed(Status.OOM, "out of memory: needs 9 GiB more", number=9)
    found = compared(tmp_path, launches(), [failed])
    assert found.check.verdict is Verdict.UNUSABLE
    assert any("out of memory: needs 9 GiB more" in text for text in found.check.unusable)
    assert number(found).verdict is Verdict.UNUSABLE


def test_settings_make_different_cases(tmp_path: Path) -> None:
    found = compared(tmp_path, launches(), launches(settings={"cfg": 4.0}))
    assert found.check.changes == () and "no case is in both runs" in found.check.unusable


@pytest.mark.parametrize("value", [0, -5])
def test_a_value_that_is_no_time_is_unusable(tmp_path: Path, value: int) -> None:
    broken = []
    for record in launches(environment=EDITED):
        timings = tuple(t.model_copy(update={"samples_ns": (value,) * 7}) for t in record.outcome.timings)
        broken.append(record.model_copy(update={"outcome": record.outcome.model_copy(update={"timings": timings})}))
    change = number(compared(tmp_path, launches(), broken))
    assert change.verdict is Verdict.UNUSABLE and "which is no measurement" in change.reason


def test_runs_that_are_missing_empty_or_damaged_are_bad_input(tmp_path: Path) -> None:
    good = run(tmp_path / "good", launches())
    for name, content in (("empty", b""), ("damaged", b"{}\n{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").write_bytes(content)
    for bad in ("missing", "empty", "damaged"):
        for paths in ((good, tmp_path / bad), (tmp_path / bad, good)):
            with pytest.raises(UserError, match=bad):
                compare_runs(*paths, command="")


def test_the_verb_prints_the_table_and_ends_with_the_code_of_the_verdict(tmp_path: Path, capsys) -> None:
    a, b = run(tmp_path / "a", launches()), run(tmp_path / "b", launches(speed=1.1, environment=EDITED))
    assert cli.main(["compare", str(a), str(b), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "regression" in printed and "var-d16" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"verdict.json", "junit.xml", "verdict.md"}
    assert cli.main(["compare", str(b), str(b), "--json"]) == 0
    check = Check.model_validate_json(capsys.readouterr().out)
    assert check.command == f"arvbench compare {b} {b}" and json.loads(check.model_dump_json())["exit_code"] == 0


def test_inconclusive_may_be_allowed(tmp_path: Path, capsys) -> None:
    a, b = run(tmp_path / "a", launches(1)), run(tmp_path / "b", launches(1, speed=1.02))
    assert cli.main(["compare", str(a), str(b)]) == 5
    assert cli.main(["compare", str(a), str(b), "--allow-inconclusive"]) == 0
    assert cli.main(["compare", str(a), str(tmp_path / "none")]) == 2


def test_many_cases_are_paired_by_key_then_by_name_in_order() -> None:
    def case(name: str, batch: int, *, fails: bool = False, cpu: str = "a") -> Record:
        record = launch(1, speed=1.0, batch=batch, case_id=name, environment={"cpu": cpu})
        return record.model_copy(update={"outcome": make.failed(Status.ERROR, "no").outcome}) if fails else record

    count = 300
    base = [case(f"old {i}", i + 1) for i in range(count)] + [
        case("x", 1, fails=True),
        case("x", 2, fails=True, cpu="b"),
    ]
    head = [case(f"new {i}", i + 1) for i in reversed(range(count))] + [case("x", 900), case("y", 901, fails=True)]
    pairing = pair_cases(base, head)
    named = [(pair.base.name, pair.head.name) for pair in pairing.pairs]
    assert named == [(f"old {i}", f"new {i}") for i in reversed(range(count))] + [("x", "x")]
    assert pairing.pairs[-1].one_machine
    assert [str(case.name) for case in pairing.only_base] == ["x"] and pairing.only_base[0].hardware.startswith("b")
    assert [case.name for case in pairing.only_head] == ["y"]


def test_a_method_and_chosen_kernels_are_another_case() -> None:
    base = [launch(1, speed=1.0, case_id="model"), launch(1, speed=1.0, case_id="with", method="fastvar")]
    head = [launch(1, speed=1.0, case_id=name, method="fastvar") for name in ("with", "and more")]
    head.append(launch(1, speed=1.0, case_id="kernels", kernels={"adaln": "torch"}))
    pairing = pair_cases(base, head)
    assert [(pair.base.name, pair.head.name) for pair in pairing.pairs] == [("with", "with")]
    assert [case.name for case in pairing.only_head] == ["and more", "kernels"]


def test_a_launch_of_a_thousand_calls_is_compared(tmp_path: Path) -> None:
    calls = tuple(10**8 + 1000 * i for i in range(1000))
    record = launch(1, speed=1.0)
    timings = tuple(timing.model_copy(update={"samples_ns": calls}) for timing in record.outcome.timings)
    record = record.model_copy(update={"outcome": record.outcome.model_copy(update={"timings": timings})})
    change = number(compared(tmp_path, [record], [record]))
    assert change.interval and change.interval[0] < 1 < change.interval[1] and "one process" in change.reason
