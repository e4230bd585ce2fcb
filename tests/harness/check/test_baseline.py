"""Stored baselines: calibrated, accepted on purpose, checked against, and refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import made_up_checks
import pytest
import records as make
from made_up_checks import MACHINE, Launches
from runs import launches, run
from warm_program import Programs

from arvbench.errors import UnusableError, UserError
from arvbench.harness import cli
from arvbench.harness.check import alone
from arvbench.harness.check.alone import LaunchRequest, OwnLaunches
from arvbench.harness.check.baseline import BaselineCheck, accept, audit_of, calibrate, judge_against
from arvbench.harness.check.engine import SideEngine
from arvbench.harness.check.interleave import CheckRun
from arvbench.harness.check.rule import Rule
from arvbench.harness.suites.suite import Case, Suite
from arvbench.results.baselines import Baseline, read_baseline
from arvbench.results.schema import CaseConfig, Record, Status
from arvbench.results.verdict import Change, Check, Side, Verdict, read_verdict

RULE = Rule()
RUN = "0123456789abcdef"
EDITED = {"source_sha256": "77" * 32}
SUITE = Suite(
    name="imagenet256",
    description="",
    cases=(Case(case_id="var-d16", config=CaseConfig(model="var-d16", weights="random:0")),),
)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("calibrated") / "b.json"
    calibrate(path, "imagenet256", launches(20), RULE)
    return path.read_bytes()


@pytest.fixture
def path(calibrated: bytes, tmp_path: Path) -> Path:
    """A baseline file of twenty launches."""
    (tmp_path / "b.json").write_bytes(calibrated)
    return tmp_path / "b.json"


def judged(path: Path, head: Sequence[Record], *, failures: tuple[str, ...] = (), run_id: str = RUN) -> Check:
    """Judge launches as those that a check against the file measured."""
    request = BaselineCheck(
        path=path, launches=LaunchRequest(suite=SUITE, launches=10, folder=path.parent / "c"), command="arvbench check"
    )
    mine = [record.model_copy(update={"record_id": run_id + record.record_id}) for record in head]
    side = Side(name="working tree")
    check_run = CheckRun(
        run_id=RUN, started=datetime(2026, 3, 2, tzinfo=UTC), suite="imagenet256", identity={}, base=side, head=side
    )
    measured = OwnLaunches(run=check_run, records=tuple(mine), failures=failures, hardware="AMD EPYC 9554, 64 cores")
    return judge_against(read_baseline(path), measured, request)


def number(check: Check, name: str = "images") -> Change:
    (found,) = [change for change in check.changes if change.number == name]
    return found


def changed(records: list[Record], **memory: Any) -> list[Record]:
    """Records with other fields of their memory."""
    return [
        record.model_copy(
            update={
                "outcome": record.outcome.model_copy(update={"memory": record.outcome.memory.model_copy(update=memory)})
            }
        )
        for record in records
    ]


def timed(records: list[Record], change: Callable[[Any], Any]) -> list[Record]:
    """Records with other timings; None removes one."""
    return [
        record.model_copy(
            update={
                "outcome": record.outcome.model_copy(
                    update={"timings": tuple(new for old in record.outcome.timings if (new := change(old)) is not None)}
                )
            }
        )
        for record in records
    ]


def test_a_calibration_stores_noise_and_accepts_its_launches_once(path: Path) -> None:
    first = read_baseline(path)
    (images,) = [one for one in first.calibration.noise if one.number == "images"]
    assert images.between_cv == pytest.approx(0.0035, rel=0.2) and images.modes == 1
    assert images.within_cv and 0.005 < images.within_cv < 0.02, "calls differ by up to 3 %"
    assert images.mde and 0.03 < images.mde < 0.1
    assert first.accepted == first.release and first.accepted.reason == "first calibration"
    calibrate(path, "imagenet256", launches(20, speed=1.02), RULE)
    again = read_baseline(path)
    assert again.accepted == first.accepted and again.calibration.launches != first.calibration.launches


def test_two_modes_and_exact_numbers_are_told_in_the_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [*launches(10), *[record.model_copy(update={"launch": 10 + record.launch, "record_id": f"slow{n}"})
                                for n, record in enumerate(launches(10, speed=1.12))]]  # fmt: skip
    made = calibrate(tmp_path / "b.json", "imagenet256", records, RULE)
    noise = {one.number: one for one in made.calibration.noise}
    assert noise["images"].modes == 2 and noise["weights_bytes"].mde is None
    assert cli.main(["baseline", "show", str(tmp_path / "b.json")]) == 0
    assert "6 of 7 numbers that vary have an MDE above 10%" in " ".join(capsys.readouterr().out.split())


def test_equal_code_passes_and_slower_code_is_a_regression(path: Path) -> None:
    same = judged(path, launches(10, speed=1.003, environment=EDITED))
    assert same.verdict is Verdict.PASS and same.exit_code == 0 and number(same).smallest_detectable
    slower = judged(path, launches(10, speed=1.1, environment=EDITED))
    assert number(slower).verdict is Verdict.REGRESSION and slower.exit_code == 1
    assert slower.base.name.startswith(str(path)) and len(slower.base.record_ids) == 20


def test_the_noise_of_the_calibration_counts_where_it_is_larger(path: Path) -> None:
    baseline = read_baseline(path)
    wide = tuple(one.model_copy(update={"between_cv": 0.1}) for one in baseline.calibration.noise)
    calibration = baseline.calibration.model_copy(update={"noise": wide})
    path.write_text(baseline.model_copy(update={"calibration": calibration}).model_dump_json())
    check = judged(path, launches(10))
    assert number(check).verdict is Verdict.INCONCLUSIVE and check.exit_code == 5


def test_a_machine_that_moved_since_is_not_blamed_on_the_code(path: Path) -> None:
    check = judged(path, launches(10, speed=1.2, controlled=1.2))
    assert number(check).verdict is Verdict.MACHINE and check.exit_code == 4 and check.machine


def test_small_steps_add_up_against_the_release(path: Path) -> None:
    for step, speed in enumerate((1.02, 1.04)):
        accept(path, launches(10, speed=speed), reason=f"step {step}", release=False, rule=RULE)
    check = judged(path, launches(10, speed=1.06, environment=EDITED))
    assert number(check).verdict is Verdict.PASS
    assert number(check, "images since release").verdict is Verdict.REGRESSION and check.exit_code == 1
    accept(path, launches(10, speed=1.06), reason="v2", release=True, rule=RULE)
    assert not any("release" in change.number for change in judged(path, launches(10, speed=1.06)).changes)


def test_an_update_moves_the_release_only_when_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_baseline(path)
    monkeypatch.setattr("os.environ", {"GITHUB_ACTOR": "ada", "GITHUB_SERVER_URL": "https://git.example",
                                       "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"})  # fmt: skip
    after = accept(path, launches(10, speed=1.3), reason=" wider cache ", release=False, rule=RULE)
    assert after.release == before.release and after.accepted.reason == "wider cache"
    assert read_baseline(path) == after and len(after.records) == 30
    moved = accept(path, launches(10, speed=1.3), reason="v2", release=True, rule=RULE)
    assert moved.release == moved.accepted and len(moved.records) == 30


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_an_update_needs_a_reason(path: Path, reason: str) -> None:
    with pytest.raises(UserError, match="--reason"):
        accept(path, launches(10), reason=reason, release=False, rule=RULE)


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        (launches(10, environment={"cpu": "Intel Xeon 8480"}), UserError, "is a baseline of AMD EPYC 9554, 64 cores"),
        (launches(10, suite="other"), UserError, "is a baseline of suite imagenet256, not of other"),
        (launches(3), UserError, "numbers that vary need [0-9]+ launches on each side"),
        ([*launches(9), make.failed(Status.OOM, "no room", number=3)], UnusableError, "has no numbers: oom"),
        ([], UnusableError, "no launches"),
        (timed(launches(10), lambda t: None if t.scope == "decode" else t), UnusableError, "decode of var-d16"),
    ],
    ids=["machine", "suite", "few", "failed", "none", "fewer numbers"],
)
def test_launches_that_do_not_fit_are_not_accepted(
    path: Path, records: list[Record], error: type[Exception], message: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        accept(path, records, reason="why not", release=False, rule=RULE)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("head", "number_of", "reason"),
    [
        (timed(launches(10), lambda t: None if t.scope == "decode" else t), "decode", "head does not have this number"),
        (timed(launches(10), lambda t: t.model_copy(update={"images": 2})), "images", "the scope changed"),
        (timed(launches(10), lambda t: t.model_copy(update={"clock": "cuda-event"})), "images", "the scope changed"),
        (changed(launches(10), source="cuda-allocator"), "weights_bytes", "the scope changed"),
        (timed(launches(10), lambda t: t.model_copy(update={"samples_ns": (0,) * 7})), "images", "no measurement"),
        (timed(launches(10), lambda t: t.model_copy(update={"samples_ns": (-3,) * 7})), "images", "no measurement"),
    ],
    ids=["fewer numbers", "images", "clock", "source", "zero", "negative"],
)
def test_numbers_that_are_missing_or_changed_their_meaning_are_unusable(
    path: Path, head: list[Record], number_of: str, reason: str
) -> None:
    check = judged(path, head)
    assert number(check, number_of).verdict is Verdict.UNUSABLE and reason in number(check, number_of).reason.lower()
    assert check.verdict is Verdict.UNUSABLE and check.exit_code == 6


def test_a_case_of_the_baseline_that_head_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    calibrate(path, "imagenet256", [*launches(10), *launches(10, batch=4)], RULE)
    check = judged(path, launches(10))
    assert any("b4" in text for text in check.unusable) and check.exit_code == 6


def test_a_new_case_of_head_is_not_judged(path: Path) -> None:
    check = judged(path, [*launches(10), *launches(10, batch=4)])
    assert not any("b4" in change.case for change in check.changes) and check.exit_code == 0


def test_records_of_another_run_and_a_failed_launch_are_unusable(path: Path) -> None:
    other = judged(path, launches(10), run_id="fedcba9876543210")
    assert other.exit_code == 6 and any("another run" in text for text in other.unusable)
    failed = judged(path, launches(9), failures=("head has no numbers for var-d16: oom",))
    assert failed.exit_code == 6 and "head has no numbers for var-d16: oom" in failed.unusable


def test_an_audit_replays_the_rule_on_the_calibration(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = audit_of(read_baseline(path), splits=200)
    assert found.launches == 10 and found.regression.value <= 0.02 and found.regression.high < 0.05
    assert cli.main(["baseline", "audit", str(path), "--splits", "200"]) == 0
    assert "200 random splits into 10 + 10 launches" in capsys.readouterr().out
    assert cli.main(["baseline", "audit", str(path), "--splits", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == 200


def test_an_audit_of_few_launches_says_how_many_it_needs(tmp_path: Path) -> None:
    calibrate(tmp_path / "b.json", "imagenet256", launches(4), RULE)
    assert cli.main(["baseline", "audit", str(tmp_path / "b.json")]) == 2


def test_a_baseline_is_shown_in_80_columns_and_as_json(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["baseline", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1]) and any(line.startswith("accepted:") for line in lines)
    assert any("images" in line and "%" in line for line in lines)
    assert cli.main(["baseline", "show", str(path), "--json"]) == 0
    assert Baseline.model_validate_json(capsys.readouterr().out) == read_baseline(path)


def test_an_update_from_a_run_folder_and_the_default_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = run(tmp_path / "run", launches(10, speed=1.3))
    options = ["--from", str(source), "--file", str(path)]
    assert cli.main(["baseline", "update", "--reason", "top-k is exact now", *options]) == 0
    assert "top-k is exact now" in capsys.readouterr().out
    assert cli.main(["baseline", "update", *options]) == 2, "a reason is required"
    assert cli.main(["baseline", "update", "--reason", "", *options]) == 2
    monkeypatch.chdir(tmp_path)
    for verb in ("show", "audit"):
        assert cli.main(["baseline", verb]) == 2
    assert "arvbench baseline calibrate" in capsys.readouterr().err


class Program:
    """The command line in a folder of its own, with made-up launches of demo/var in place of workers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.launches = Launches()
        monkeypatch.setattr(SideEngine, "run", lambda engine, job, listener: self.launches(engine, job, listener))
        monkeypatch.setattr(alone, "hardware_of_device", lambda device: MACHINE)

    def __call__(self, verb: str, *options: str, launches: Launches | None = None) -> int:
        self.launches = launches or Launches()
        return cli.main(self.words(verb, *options))

    def words(self, verb: str, *options: str) -> list[str]:
        cases = [] if "--suite" in options else ["--models", "demo/var", "--set", "batch=1"]
        return [*verb.split(), *options, *cases, "--out", str(self.folder / verb.split()[0])]

    @property
    def file(self) -> str:
        return str(self.folder / "b.json")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(tmp_path, monkeypatch)


def test_a_machine_is_calibrated_checked_and_updated(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("baseline calibrate", "--launches", "8", "--file", program.file) == 0
    assert len(program.launches.jobs) == 8 and "first calibration" in capsys.readouterr().out
    assert program("check", "--baseline", program.file) == 0
    assert len(program.launches.jobs) == 10 and {side for side, _ in program.launches.jobs} == {"head"}
    assert read_verdict(program.folder / "check" / "verdict.json").base.name.startswith(program.file)
    assert program("check", "--baseline", program.file, launches=Launches({("head", "demo"): 1.1})) == 1
    assert "regression" in capsys.readouterr().out
    slower = Launches({("head", "demo"): 1.1})
    assert program("baseline update", "--reason", "slower, and right", "--file", program.file, launches=slower) == 0
    again = Launches({("head", "demo"): 1.1})
    assert program("check", "--baseline", program.file, launches=again) == 1, "the release anchor is where it was"
    assert "since release" in capsys.readouterr().out
    release = ["--reason", "v2", "--release", "--file", program.file, "--launches", "9"]
    assert program("baseline update", *release, launches=Launches({("head", "demo"): 1.1})) == 0
    assert program("check", "--baseline", program.file, launches=Launches({("head", "demo"): 1.1})) == 0


class Interrupted(Launches):
    """Stops at the fifth launch, as Ctrl-C would."""

    def __call__(self, *arguments: Any) -> Any:
        if len(self.jobs) == 4:
            raise KeyboardInterrupt
        return super().__call__(*arguments)


@pytest.mark.parametrize("verb", ["baseline calibrate", "check"])
def test_an_interrupted_measurement_goes_on_and_a_finished_one_begins_anew(program: Program, verb: str) -> None:
    options = ["--launches", "8", "--file", program.file]
    assert program("baseline calibrate", *options) == 0
    if verb == "check":
        options = ["--launches", "8", "--baseline", program.file]
    assert program(verb, *options, launches=Interrupted()) == 130
    assert program(verb, *options) == 0
    assert [job.launch for _, job in program.launches.jobs] == [5, 6, 7, 8]
    assert program(verb, *options) == 0
    assert len(program.launches.jobs) == 8


@pytest.fixture
def kill_at(programs: Programs) -> Callable[[str, list[str]], None]:
    """Runs a command in a process of its own, and kills it where it stops."""

    def killed(stop: str, words: list[str]) -> None:
        process = programs.start(made_up_checks.__file__, "alone", stop, *words)
        assert process.stdout.readline() == "stopped\n"
        process.kill()
        process.communicate()

    return killed


@pytest.mark.parametrize("verb", ["baseline calibrate", "check"])
def test_kill_9_in_the_middle_of_launches_and_the_same_command_goes_on(
    program: Program, kill_at: Callable[[str, list[str]], None], verb: str
) -> None:
    options = ["--launches", "8", "--file", program.file]
    if verb == "check":
        assert program("baseline calibrate", *options) == 0
        options = ["--launches", "8", "--baseline", program.file]
    before = Path(program.file).read_bytes() if verb == "check" else None
    kill_at("4", program.words(verb, *options))
    assert (Path(program.file).read_bytes() if Path(program.file).exists() else None) == before
    assert program(verb, *options) == 0
    assert [job.launch for _, job in program.launches.jobs] == [5, 6, 7, 8]
    left = [path.name for path in program.folder.rglob("*") if path.name.startswith(".")]
    assert left == []


def test_kill_9_in_the_middle_of_an_audit_changes_nothing(
    program: Program, kill_at: Callable[[str, list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("baseline calibrate", "--launches", "20", "--file", program.file) == 0
    before = {path: path.read_bytes() for path in program.folder.rglob("*") if path.is_file()}
    kill_at("audit", ["baseline", "audit", program.file])
    assert {path: path.read_bytes() for path in program.folder.rglob("*") if path.is_file()} == before
    assert cli.main(["baseline", "audit", program.file, "--splits", "100"]) == 0
    assert "100 random splits into 10 + 10 launches" in capsys.readouterr().out


def test_launches_that_fail_are_neither_a_calibration_nor_a_pass(program: Program) -> None:
    broken = Launches()
    broken.fail["head"] = "no room"
    assert program("baseline calibrate", "--launches", "8", "--file", program.file, launches=broken) == 6
    assert not Path(program.file).exists()
    assert program("baseline calibrate", "--launches", "8", "--file", program.file) == 0
    assert program("check", "--baseline", program.file, launches=broken) == 6


def test_a_baseline_that_does_not_fit_is_refused_before_anything_is_measured(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("baseline calibrate", "--launches", "8", "--file", program.file) == 0
    refused = {
        "is a baseline of suite gate, not of demo": ["--baseline", program.file, "--suite", "demo"],
        "launches on each side": ["--baseline", program.file, "--launches", "2"],
        "say what to compare with": ["--baseline", program.file, "--against", "main"],
        "cannot read": ["--baseline", str(program.folder / "none.json")],
        "--head REF or without": ["--baseline", program.file, "--head", "main"],
        "--against REF": [],
    }
    for message, options in refused.items():
        capsys.readouterr()
        assert program("check", *options) == 2
        assert message in capsys.readouterr().err and program.launches.jobs == []
    program.patch.setattr(alone, "hardware_of_device", lambda device: "NVIDIA H200, 140 GiB, driver 575")
    assert program("check", "--baseline", program.file) == 2
    assert "is a baseline of AMD EPYC 9554, 64 cores; this machine is NVIDIA H200" in capsys.readouterr().err
    Path(program.file).write_text("")
    assert program("check", "--baseline", program.file) == 2
