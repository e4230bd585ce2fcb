"""A whole check of head against a commit: both sides built, measured in turns in two stages, and judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from arvbench.errors import UserError
from arvbench.harness.check.control import machine_moved
from arvbench.harness.check.decide import conclude, decide_again, require_launches, screen, verdict_of
from arvbench.harness.check.engine import side_engines
from arvbench.harness.check.gated import Judgement, Series
from arvbench.harness.check.interleave import (
    SIDES,
    CheckRun,
    Interleaved,
    Lane,
    Stage,
    check_folder,
    new_run,
    open_finished,
    open_run,
    write_run,
)
from arvbench.harness.check.numbers import gated_numbers, other_cases
from arvbench.harness.check.rule import Rule, can_alarm, launches_needed, of_look
from arvbench.harness.check.sides import BuiltSide, built_sides
from arvbench.harness.jobs import EventListener
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.ready import check_host
from arvbench.harness.suites.suite import Case, Suite
from arvbench.results.comparison import hardware_class
from arvbench.results.schema import Record
from arvbench.results.verdict import EXIT_CODES, VERDICT_NAME, Change, Check, Look, Verdict, read_verdict

_LAUNCHES_OF_A_LAYOUT = 8
"""Launches, of all cases and both sides, that share a memory layout at least: its import is then a small part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """Request of a check."""

    against: str
    """Name of a commit: base."""
    head: str | None = None
    """Name of a commit; None is the working tree."""
    suite: Suite
    rule: Rule = field(default_factory=Rule)
    folder: Path
    """Folder of the records and the verdict."""
    command: str
    """Command that makes the check again."""
    more: int | None = None
    """Launches per side that another look at a finished check adds to what is inconclusive; None for a new check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """Outcome of the measurement."""

    changes: tuple[Change, ...]
    looks: tuple[Look, ...]
    machine: tuple[str, ...]
    unusable: tuple[str, ...]
    records: tuple[tuple[Record, ...], tuple[Record, ...]]
    """Records of base and of head behind the changes."""


def check_against(request: CheckRequest, listener: EventListener, say: Callable[[str], None]) -> Check:
    """Measure and judge; `say` gets what the user should know meanwhile, a line at a time.

    Raises UserError before anything is measured for a commit that is unknown or does not build, a folder that cannot be
    written, refused settings, too few launches, and for a check that takes no further look; HostError for what the
    machine lacks. What is measured when Ctrl-C or worse ends this call counts when the same check is made again.
    """
    _require_launches(of_look(request.rule, 1))
    with (
        built_sides(request.against, request.head) as (base, head),
        side_engines(base, head, least=_LAUNCHES_OF_A_LAYOUT) as engines,
    ):
        check_host(request.suite, engines[1], {})
        wanted = new_run(request.suite.name, identity_of(request.suite, engines[1]), base, head)
        hardware = hardware_class(engines[1].environment(request.suite.cases[0].config.device))
        with check_folder(request.folder) as stores:
            run, notice = _opened(request, wanted)
            for line in (notice, _described(base, head)):
                if line:
                    say(line)
            lanes = (
                Lane(name="base", built=base, store=stores["base"], engine=engines[0]),
                Lane(name="head", built=head, store=stores["head"], engine=engines[1]),
            )
            return _check(_measured(Interleaved(run, lanes, listener), run, request), run, hardware, request.command)


def _opened(request: CheckRequest, wanted: CheckRun) -> tuple[CheckRun, str]:
    if request.more is None:
        return open_run(request.folder, wanted)
    run, notice = open_finished(request.folder, wanted, request.more)
    looks = read_verdict(request.folder / VERDICT_NAME).looks
    if not looks or looks[0].launches != request.rule.launches:
        had = f"{looks[0].launches} launches per side: give --launches {looks[0].launches}" if looks else "no looks"
        raise UserError(f"the check in {request.folder} had {had}, or make a new one, without --more")
    return run, notice


def _require_launches(rule: Rule) -> None:
    if not can_alarm(rule.launches, rule.launches, 1, rule):
        raise UserError(
            f"{rule.launches} launches per side cannot blame anything at a level of {rule.level:.0%}: a single number "
            f"needs {launches_needed(1, rule)}, several need more (--launches)"
        )


def identity_of(suite: Suite, engine: Engine) -> dict[str, str]:
    """Return what else the launches of one run have in common."""
    files_and_machine = hashlib.sha256()
    for case in suite.cases:
        files_and_machine.update(fingerprint(case.config, engine.environment(case.config.device)).encode())
    return {"case, machine, library or file of weights": files_and_machine.hexdigest()}


def _described(base: BuiltSide, head: BuiltSide) -> str:
    same = base.side.source_sha256 == head.side.source_sha256
    note = "; their adapters and kernels are equal, so that only noise is compared" if same else ""
    return f"base is {base}, head is {head}{note}"


def _measured(interleaved: Interleaved, run: CheckRun, request: CheckRequest) -> _Findings:
    """Measure the first stage, then fresh launches of the cases that it suspects; judge them."""
    rule, cases = of_look(request.rule, 1), cases_of(request.suite)
    launches = range(1, 1 + rule.screen_launches)
    first = Stage(name="first look", cases=cases, launches=launches, seeded=[case.case_id for case in cases])
    # Refuses too few launches for this count of numbers after the first of them, before the others are made.
    screen(*_stage(interleaved, run, replace(first, launches=launches[:1])).series, rule)
    one = _stage(interleaved, run, first)
    screening = screen(*one.series, rule, machine=one.machine)
    suspected = {case for case, _ in screening.suspected}
    seeded = {case for (case, _), pair in screening.suspected.items() if pair.shown.judgement is Judgement.SEEDS}
    second = Stage(
        name="suspected cases",
        cases=[case for case in cases if case.case_id in suspected],
        launches=range(launches.stop, launches.stop + rule.launches),
        seeded=seeded,
        seeds=rule.quality_seeds,
    )
    two = _stage(interleaved, run, second)
    found = _Findings(
        changes=conclude(screening, *two.series, rule, machine=two.machine),
        looks=(Look(launches=rule.launches, level=rule.level),),
        machine=two.machine,
        unusable=(*interleaved.failures, *one.faults, *two.faults),
        records=((*one.records[0], *two.records[0]), (*one.records[1], *two.records[1])),
    )
    for _ in run.looks:
        found = _looked_again(interleaved, run, request, (screening.family, second), found)
    return found


def _looked_again(
    interleaved: Interleaved, run: CheckRun, request: CheckRequest, first: tuple[int, Stage], found: _Findings
) -> _Findings:
    """Make one more look: measure more launches of inconclusive numbers, and judge these by all their launches.

    `first` is the size of the family, and the stage that the first look judged.
    """
    family, second = first
    look = 1 + len(found.looks)
    rule, launches = of_look(request.rule, look), second.launches.stop + sum(run.looks[: look - 1])
    require_launches(launches - second.launches.start, family, rule)
    write_run(request.folder, run)
    undecided = {change.case for change in found.changes if change.verdict is Verdict.INCONCLUSIVE}
    of_quality = {c.case for c in found.changes if c.verdict is Verdict.INCONCLUSIVE and c.kind == "quality"}
    stage = Stage(
        name=f"look {look}",
        cases=[case for case in cases_of(request.suite) if case.case_id in undecided],
        launches=range(second.launches.start, launches),
        seeded=of_quality,
        seeds=len(second.launches) + sum(run.looks),
    )
    measured = _stage(interleaved, run, stage)
    base, head = (
        tuple({record.record_id: record for record in (*before, *now)}.values())
        for before, now in zip(found.records, measured.records, strict=True)
    )
    return _Findings(
        changes=decide_again(found.changes, family, measured.series, rule, machine=measured.machine),
        looks=(*found.looks, Look(launches=len(stage.launches), level=rule.level)),
        machine=tuple(dict.fromkeys((*found.machine, *measured.machine))),
        unusable=tuple(dict.fromkeys((*found.unusable, *interleaved.failures, *measured.faults))),
        records=(base, head),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A stage after its measurement."""

    records: tuple[tuple[Record, ...], tuple[Record, ...]]
    series: tuple[tuple[Series, ...], tuple[Series, ...]]
    machine: tuple[str, ...]
    faults: tuple[str, ...]


def _stage(interleaved: Interleaved, run: CheckRun, stage: Stage) -> _Measured:
    """Measure a stage; cases that failed have no part in the result."""
    interleaved.measure(stage)
    stage = replace(stage, cases=[case for case in stage.cases if case.case_id not in interleaved.failed])
    base, head = (tuple(interleaved.records(side, stage)) for side in SIDES)
    names = [case.case_id for case in stage.cases]
    of_base, of_head = (
        gated_numbers(records, side=side, cases=names, run_id=run.run_id)
        for side, records in zip(SIDES, (base, head), strict=True)
    )
    return _Measured(
        records=(base, head),
        series=(of_base.series, of_head.series),
        machine=tuple(machine_moved(base, head)),
        faults=(*of_base.faults, *of_head.faults, *other_cases(base, head)),
    )


def cases_of(suite: Suite) -> list[Case]:
    """Return each case of a suite once; the check has launches of its own."""
    first = {case.case_id: case for case in reversed(suite.cases)}
    once = [first[case_id] for case_id in dict.fromkeys(case.case_id for case in suite.cases)]
    return [case.model_copy(update={"config": case.config.model_copy(update={"launches": 1})}) for case in once]


def _check(found: _Findings, run: CheckRun, hardware: str, command: str) -> Check:
    verdict = verdict_of(found.changes, unusable=found.unusable)
    base, head = (
        side.model_copy(update={"record_ids": tuple(record.record_id for record in records)})
        for side, records in zip((run.base, run.head), found.records, strict=True)
    )
    return Check(
        run_id=run.run_id,
        suite=run.suite,
        started=run.started,
        finished=datetime.now(UTC),
        hardware=hardware,
        base=base,
        head=head,
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        machine=found.machine,
        unusable=found.unusable,
        changes=found.changes,
        command=command,
        looks=found.looks,
    )
