"""Stored baselines: calibrated, accepted on purpose, and checked against.

A check against a baseline measures head alone, on a machine whose noise the calibration knows. The accepted launches
are base; where the release anchor has others, every number is compared with these too, under the name "NUMBER since
release", so that small steps add up. Each of the two comparisons has the level of the rule.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from arvbench.disk import cannot_write
from arvbench.errors import UnusableError, UserError
from arvbench.files import hidden, locked
from arvbench.harness.check.alone import LaunchRequest, OwnLaunches, hardware_of, measure_alone
from arvbench.harness.check.audit import Audit, audit
from arvbench.harness.check.control import machine_moved
from arvbench.harness.check.decide import decide, verdict_of
from arvbench.harness.check.gated import Judgement, Series, keep
from arvbench.harness.check.noise import noise_of
from arvbench.harness.check.numbers import SideNumbers, calibrated, gated_numbers, other_cases
from arvbench.harness.check.rule import Rule, can_alarm, launches_needed
from arvbench.harness.jobs import EventListener
from arvbench.paths import printable
from arvbench.results.baselines import Anchor, Baseline, Calibration, make_baseline, read_baseline, write_baseline
from arvbench.results.comparison import hardware_class
from arvbench.results.schema import Record, Status
from arvbench.results.verdict import EXIT_CODES, Change, Check, Side

SINCE_RELEASE: Final = " since release"


def calibrate(path: Path, suite: str, records: Sequence[Record], rule: Rule) -> Baseline:
    """Store launches of one commit as the calibration of a baseline file; a new file also accepts them.

    Raises UserError when the file is of another suite or machine, or cannot be written, UnusableError for launches that
    failed.
    """
    with _changing(path):
        return _calibrated(path, suite, records, rule)


def _calibrated(path: Path, suite: str, records: Sequence[Record], rule: Rule) -> Baseline:
    _require_ok(records)
    ids = tuple(record.record_id for record in records)
    calibration = Calibration(at=datetime.now(UTC), launches=ids, noise=noise_of(records, rule))
    if path.exists():
        old = read_baseline(path)
        _require_same(old, suite, records, path)
        accepted, release = old.accepted, old.release
        records = (*old.records, *records)
    else:
        accepted = release = _anchor(records, "first calibration")
    baseline = make_baseline(suite=suite, calibration=calibration, accepted=accepted, release=release, records=records)
    write_baseline(path, baseline)
    return baseline


def accept(path: Path, records: Sequence[Record], *, reason: str, release: bool, rule: Rule) -> Baseline:
    """Make launches the accepted anchor of a baseline file, and with `release` the release anchor too.

    Raises UserError for an empty reason, and for launches of another suite or machine or too few of them,
    UnusableError for launches that failed and for fewer numbers than the file has.
    """
    if not reason.strip():
        raise UserError("give the reason why these launches are accepted: --reason TEXT")
    _require_ok(records)
    with _changing(path):
        return _accepted(path, records, reason=reason.strip(), release=release, rule=rule)


def _accepted(path: Path, records: Sequence[Record], *, reason: str, release: bool, rule: Rule) -> Baseline:
    old = read_baseline(path)
    _require_same(old, records[0].suite, records, path)
    before = gated_numbers(old.records_of(old.accepted), side="baseline").series
    now = gated_numbers(records, side="the new launches").series
    if gone := {one.key for one in before} - {one.key for one in now}:
        raise UnusableError(f"the new launches do not have {_listed(gone)}, which {printable(path)} has")
    _require_launches(now, rule.launches, rule)
    anchor = _anchor(records, reason)
    baseline = make_baseline(
        suite=old.suite,
        calibration=old.calibration,
        accepted=anchor,
        release=anchor if release else old.release,
        records=(*old.records, *records),
    )
    write_baseline(path, baseline)
    return baseline


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Hold the lock of a baseline file from its reading to its writing: of two changes at once, none is lost."""
    with contextlib.ExitStack() as stack:
        try:
            if path.parent.is_dir():
                stack.enter_context(locked(hidden(path, "lock")))
        except OSError as error:
            raise cannot_write(path, error) from error
        yield


def audit_of(baseline: Baseline, *, splits: int, rule: Rule | None = None) -> Audit:
    """Replay the rule on random halves of the launches of the calibration. Raises UserError for too few of them."""
    series = gated_numbers(baseline.records_of(baseline.calibration), side="calibration").series
    return audit(series, rule or Rule(), splits=splits)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineCheck:
    """Request of a check against a baseline."""

    path: Path
    launches: LaunchRequest
    command: str
    """Command that makes the check again."""


def check_baseline(request: BaselineCheck, listener: EventListener, say: Callable[[str], None]) -> Check:
    """Measure head and judge it against a baseline.

    Raises UserError before anything is measured for a baseline that cannot be read, of another machine or suite, or
    with too few launches.
    """
    baseline = read_baseline(request.path)
    suite, rule = request.launches.suite, request.launches.rule
    require_machine(baseline, hardware_of(suite), request.path)
    if suite.name != baseline.suite:
        raise UserError(f"{printable(request.path)} is a baseline of suite {baseline.suite}, not of {suite.name}")
    for anchor in (baseline.accepted, baseline.release):
        series = gated_numbers(baseline.records_of(anchor), side="baseline").series
        _require_launches(series, request.launches.launches, rule)
    measured = measure_alone(request.launches, listener, say)
    known = {one.key for one in gated_numbers(baseline.records_of(baseline.accepted), side="baseline").series}
    if new := {one.key for one in gated_numbers(measured.records, side="head").series} - known:
        say(f"not judged, since the baseline does not have them: {_listed(new)}")
    return judge_against(baseline, measured, request)


def judge_against(baseline: Baseline, measured: OwnLaunches, request: BaselineCheck) -> Check:
    """Judge launches of head against the anchors of a baseline."""
    rule, run = request.launches.rule, measured.run
    accepted = baseline.records_of(baseline.accepted)
    base, of_head = _base_series(baseline, accepted), _head_numbers(baseline, measured)
    machine = machine_moved(accepted, measured.records)
    changes = list(decide(base, keep(of_head.series, [one.key for one in base]), rule, machine=machine))
    if set(baseline.release.launches) != set(baseline.accepted.launches):
        release = baseline.records_of(baseline.release)
        since, signs = _since_release(baseline, release, of_head.series, measured.records, rule)
        changes += since
        machine = list(dict.fromkeys([*machine, *signs]))
    unusable = (
        *measured.failures,
        *of_head.faults,
        *other_cases(accepted, measured.records),
    )
    verdict = verdict_of(changes, unusable=unusable)
    return Check(
        run_id=run.run_id,
        suite=run.suite,
        started=run.started,
        finished=datetime.now(UTC),
        hardware=measured.hardware,
        base=Side(
            name=f"{printable(request.path)}, accepted {baseline.accepted.at:%Y-%m-%d}",
            commit=_commit(accepted),
            record_ids=baseline.accepted.launches,
        ),
        head=run.head.model_copy(update={"record_ids": tuple(record.record_id for record in measured.records)}),
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        machine=tuple(machine),
        unusable=unusable,
        changes=tuple(changes),
        command=request.command,
    )


def require_machine(baseline: Baseline, hardware: str, path: Path) -> None:
    """Raise UserError unless a baseline is of this hardware class."""
    if hardware != baseline.hardware:
        raise UserError(f"{printable(path)} is a baseline of {baseline.hardware}; this machine is {hardware}")


def _head_numbers(baseline: Baseline, measured: OwnLaunches) -> SideNumbers:
    """Return head's numbers; a case of the baseline that it lacks is a fault."""
    names = list(dict.fromkeys(record.case_id for record in baseline.records_of(baseline.accepted)))
    return gated_numbers(measured.records, side="head", cases=names, run_id=measured.run.run_id)


def _base_series(baseline: Baseline, records: Sequence[Record]) -> tuple[Series, ...]:
    """Return an anchor's numbers, with the scatter that the calibration found."""
    noise = baseline.calibration.noise
    scatter = {(one.case, one.number): one.between_cv for one in noise if one.between_cv is not None}
    return calibrated(gated_numbers(records, side="baseline").series, scatter)


def _since_release(
    baseline: Baseline, release: Sequence[Record], head: Sequence[Series], measured: Sequence[Record], rule: Rule
) -> tuple[list[Change], list[str]]:
    """Judge the numbers that the release has as well, and name the signs that the machine moved since."""
    signs = machine_moved(release, measured)
    base = _base_series(baseline, release)
    common = {one.key for one in base} & {one.key for one in head}
    changes = decide(keep(base, common), keep(head, common), rule, machine=signs) if common else ()
    return [change.model_copy(update={"number": change.number + SINCE_RELEASE}) for change in changes], signs


def _require_ok(records: Sequence[Record]) -> None:
    if not records:
        raise UnusableError("there are no launches")
    if failed := [record for record in records if record.status is not Status.OK]:
        raise UnusableError(f"a launch of {failed[0].case_id} has no numbers: {failed[0].status}")


def _require_same(old: Baseline, suite: str, records: Sequence[Record], path: Path) -> None:
    if suite != old.suite:
        raise UserError(f"{printable(path)} is a baseline of suite {old.suite}, not of {suite}: choose another --file")
    for record in records:
        require_machine(old, hardware_class(record.environment), path)


def _require_launches(series: Sequence[Series], head: int, rule: Rule) -> None:
    """Raise UserError when no launch of head could be blamed, whatever it takes."""
    varying = [one for one in series if one.judgement is Judgement.LAUNCHES]
    base = max((len(one.values) for one in varying), default=0)
    if varying and not can_alarm(base, head, len(varying), rule):
        needed = launches_needed(len(varying), rule)
        raise UserError(
            f"{len(varying)} numbers that vary need {needed} launches on each side before any can be blamed; the "
            f"baseline has {base} and head {head}"
        )


def _anchor(records: Sequence[Record], reason: str, environment: Mapping[str, str] = os.environ) -> Anchor:
    """Make an anchor; inside a GitHub job it names the actor and links the run."""
    job = [environment.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    return Anchor(
        by=environment.get("GITHUB_ACTOR") or _user(),
        reason=reason,
        at=datetime.now(UTC),
        run_url=f"{job[0]}/{job[1]}/actions/runs/{job[2]}" if all(job) else None,
        launches=tuple(record.record_id for record in records),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return f"user {os.getuid()}"


def _commit(records: Sequence[Record]) -> str | None:
    commits = {record.environment.git_commit for record in records}
    return commits.pop() if len(commits) == 1 else None


def _listed(keys: set[tuple[str, str]]) -> str:
    names = sorted(f"{number} of {case}" for case, number in keys)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
