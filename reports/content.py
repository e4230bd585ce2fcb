"""What a report says, before it is written: tables, figures, pictures and notices made from records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arvbench.reports import tables
from arvbench.reports.cases import (
    RANDOM_WEIGHTS,
    case_cell,
    case_names,
    group_by,
    has_random_weights,
    measured,
    processor,
    setup_of,
)
from arvbench.reports.figures import FIGURES
from arvbench.reports.numbers import plain
from arvbench.reports.reproduction import reproduction_commands, reproduction_suite
from arvbench.reports.samples import SamplePicture, load_picture
from arvbench.reports.svg import InlineFigure, inline_figure
from arvbench.reports.table import Table
from arvbench.results.records import RecordsFile, in_utc, newest_of_each_case
from arvbench.results.schema import Failed, Record, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A block of preformatted text under a heading: a traceback, a configuration."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page."""

    title: str
    facts: tuple[tuple[str, str], ...]
    """What was run, when and where: (label, text)."""
    notices: tuple[str, ...]
    """What a reader must know before comparing anything."""
    results: Table
    failures: Table
    failure_details: tuple[Passage, ...]
    figures: dict[str, InlineFigure]
    """By name, only those that the records have something for."""
    quality: Table
    findings: Table
    protocols: Table
    pictures: tuple[SamplePicture, ...]
    scopes: Table
    steps: tuple[Table, ...]
    cache: Table
    memory: Table
    settings: Table
    deviations: Table
    recipes: Table
    weights: Table
    correctness: Table
    environments: tuple[Table, ...]
    suite: str
    """YAML of a suite that asks for the same cases again."""
    commands: tuple[str, ...]
    """Shell commands that run that suite."""
    configurations: tuple[Passage, ...]


def shown_records(files: Sequence[RecordsFile]) -> dict[str, tuple[Record, Path]]:
    """Record id -> record and the folder it was read from: the newest of each case within each file.

    Files stand beside one another, so that two runs of a case can be compared; a record that was given twice counts
    once.
    """
    found: dict[str, tuple[Record, Path]] = {}
    for file in files:
        for record in newest_of_each_case(file.records):
            found.setdefault(record.record_id, (record, file.path.parent))
    return found


def make_report(files: Sequence[RecordsFile]) -> Report:
    """Make the content of a report from records files that together hold at least one record."""
    found = shown_records(files)
    records = [record for record, _ in found.values()]
    names = case_names(records)
    figures = {name: figure for name in FIGURES if (figure := inline_figure(name, records)) is not None}
    suites = list(dict.fromkeys(plain(record.suite) for record in records))
    return Report(
        title=f"arvbench report: {', '.join(suites)}",
        facts=_facts(records, suites),
        notices=_notices(files, records, names),
        results=tables.results_table(records),
        failures=tables.failures_table(records),
        failure_details=_failure_details(records, names),
        figures=figures,
        quality=tables.quality_table(records),
        findings=tables.findings_table(records),
        protocols=tables.protocols_table(records),
        pictures=tuple(
            load_picture(
                outcome.sample_sheet,
                folder=found[record.record_id][1],
                case=names[record.record_id],
                marks=case_cell(record, names).flags,
            )
            for record, outcome in measured(records)
            if outcome.sample_sheet is not None
        ),
        scopes=tables.scopes_table(records),
        steps=tuple(table for record in records if (table := tables.step_table(record, names))),
        cache=tables.cache_table(records),
        memory=tables.memory_table(records),
        settings=tables.settings_table(records),
        deviations=tables.deviations_table(records),
        recipes=tables.recipes_table(records),
        weights=tables.weights_table(records),
        correctness=tables.correctness_table(records),
        environments=tuple(tables.environment_tables(records)),
        suite=reproduction_suite(records),
        commands=reproduction_commands(records),
        configurations=tuple(
            Passage(heading=names[record.record_id], text=_lines(record.case.model_dump_json(indent=2)))
            for record in records
        ),
    )


def count_by_status(records: Sequence[Record]) -> dict[Status, int]:
    """How many cases ended in each status, in the order of `Status`; statuses that none ended in are left out."""
    counts = Counter(record.status for record in records)
    return {status: counts[status] for status in Status if counts[status]}


def _facts(records: Sequence[Record], suites: Sequence[str]) -> tuple[tuple[str, str], ...]:
    counts = ", ".join(f"{count} {status.value}" for status, count in count_by_status(records).items())
    begin = min(in_utc(record.started) for record in records)
    end = max(in_utc(record.finished) for record in records)
    environments = [record.environment for record in records]
    versions = dict.fromkeys(
        f"arvbench {plain(e.arvbench_version)}" + (f" at {plain(e.git_commit)[:12]}" if e.git_commit else "")
        for e in environments
    )
    torch = dict.fromkeys(f"torch {plain(e.libraries['torch'])}" for e in environments if "torch" in e.libraries)
    return (
        ("Suite", ", ".join(suites)),
        ("Cases", f"{len(records)}: {counts}"),
        ("Ran", f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"),
        ("On", "; ".join(dict.fromkeys(processor(record) for record in records))),
        ("With", "; ".join([*versions, *torch])),
    )


def _notices(files: Sequence[RecordsFile], records: Sequence[Record], names: dict[str, str]) -> tuple[str, ...]:
    notices: list[str] = []
    shown = {record.record_id for record in records}
    if older := len({record.record_id for file in files for record in file.records} - shown):
        notices.append(
            f"{older} older record{'s' if older > 1 else ''} of the same cases {'are' if older > 1 else 'is'} in the "
            "files and not shown: of each case, only the newest record of a file is."
        )
    if random := sum(has_random_weights(record) for record in records):
        notices.append(
            f"{_cases(random)} ran with random weights and {'are' if random > 1 else 'is'} marked “{RANDOM_WEIGHTS}”: "
            "speed and memory are real, quality is absent."
        )
    if unsteady := sum(not outcome.warmup.steady for _, outcome in measured(records)):
        notices.append(f"{_cases(unsteady)} did not reach steady times in warm-up; the times may be too long.")
    setups = [setup for record in records if (setup := setup_of(record))]
    if deviating := sum(bool(setup.settings_deviations or setup.recipe_deviations) for setup in setups):
        notices.append(f"{_cases(deviating)} ran with settings that differ from the official ones: see Settings.")
    notices.extend(_warnings(records, names))
    if throttled := sum(bool(r.environment.gpu and r.environment.gpu.throttle_reasons) for r in records):
        notices.append(f"The GPU reported throttling in {_cases(throttled)}: see Environment.")
    if dirty := sum(bool(record.environment.git_dirty) for record in records):
        notices.append(f"{_cases(dirty)} ran from a checkout with local changes: its commit alone is not what ran.")
    notices.extend(f"Skipped a damaged line: {plain(line)}." for file in files for line in file.damaged_lines)
    return tuple(notices)


def _warnings(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    """One notice for each kind of warning about samples, in the words of the first case that has it."""
    warnings = [
        (record, finding)
        for record, outcome in measured(records)
        for finding in outcome.findings
        if finding.severity == "warning"
    ]
    notices = []
    for members in group_by(warnings, lambda warning: warning[1].code).values():
        (first, finding), *others = members
        more = len({record.record_id for record, _ in others} - {first.record_id})
        also = f" ({_cases(more)} more with such a warning: see Quality)" if more else ""
        notices.append(f"{names[first.record_id]}: {plain(finding.text)}{also}")
    return notices


def _cases(count: int) -> str:
    return f"{count} case{'s' if count != 1 else ''}"


def _failure_details(records: Sequence[Record], names: dict[str, str]) -> tuple[Passage, ...]:
    """Tracebacks and the ends of workers' output."""
    return tuple(
        Passage(heading=f"{names[record.record_id]} ({record.status.value})", text=_lines(record.outcome.detail))
        for record in records
        if isinstance(record.outcome, Failed) and record.outcome.detail.strip()
    )


def _lines(text: str) -> str:
    """Text of several lines, each without control or direction characters."""
    return "\n".join(plain(line) for line in text.splitlines())
