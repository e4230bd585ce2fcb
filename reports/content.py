"""Content of a report before it is written: facts, notices and filled sections made from records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arvbench.reports.answer.answer import Answer, answer_of
from arvbench.reports.answer.strip import sample_strip
from arvbench.reports.blocks import Block, FilledSection, Findings, Pictures, Terms, Text
from arvbench.reports.cases import (
    RANDOM_WEIGHTS,
    case_cell,
    group_by,
    has_random_weights,
    prepared,
    processor,
    warnings_of,
)
from arvbench.reports.claims import claim_blocks, load_outcomes
from arvbench.reports.drawn_apart import Drawn, drawn_apart
from arvbench.reports.history import history_blocks
from arvbench.reports.names import short_names
from arvbench.reports.numbers import plain
from arvbench.reports.samples import load_picture
from arvbench.reports.sections import (
    SECTIONS,
    AnswerFindings,
    AnswerTables,
    Claims,
    Figure,
    Histories,
    SampleSheets,
    SampleStrip,
    Section,
    Verdicts,
    WrittenPart,
)
from arvbench.reports.steadiness import unsteady_records, unsteady_text
from arvbench.reports.table import Table
from arvbench.reports.tables.history import notices_of
from arvbench.reports.verdicts import load_verdicts, verdict_blocks
from arvbench.results.history import History
from arvbench.results.launches import launches_of, merge_launches, several_launches
from arvbench.results.moments import in_utc
from arvbench.results.records import RecordsFile, newest_of_each_case
from arvbench.results.schema import Measured, Record, Status
from arvbench.results.search import with_marks

_Beside = Mapping[type[Verdicts] | type[Claims] | type[Histories], Sequence[Block]]
"""Blocks of what is not in the records shown: files beside them, and records of other commits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page."""

    records: tuple[Record, ...]
    """Those shown: the newest of each case within a file, its launches as one."""
    title: str
    facts: tuple[tuple[str, str], ...]
    """Suite, cases, time, machine and versions: (label, text)."""
    notices: tuple[str, ...]
    """Warnings to read before any comparison."""
    sections: tuple[FilledSection, ...]
    answer: Answer


def _shown_records(files: Sequence[RecordsFile]) -> dict[str, tuple[Record, Path]]:
    """Map record ids to records and their folders: the newest record of each case within each file, launches merged.

    Two files may both show a case, which compares runs; a record in both files counts once.
    """
    shown: dict[str, tuple[Record, Path]] = {}
    for file in files:
        for record in with_marks(merge_launches(_in_order(newest_of_each_case(file.records)))):
            shown.setdefault(record.record_id, (record, file.path.parent))
    return shown


def _in_order(records: Sequence[Record]) -> list[Record]:
    """Order the cases of each suite by their begin: those that ran side by side lie in the file as they ended."""
    suites = list(dict.fromkeys(record.suite for record in records))
    return sorted(records, key=lambda record: (suites.index(record.suite), in_utc(record.started)))


def make_report(
    files: Sequence[RecordsFile],
    sections: Sequence[Section] = SECTIONS,
    history: History | None = None,
    *,
    meanwhile: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Make the content of a report from records files that together hold at least one record.

    `meanwhile` is called once, with the report as far as it is made while its figures are still drawn.
    """
    shown = _shown_records(files)
    records = [record for record, _ in shown.values()]
    figures = [part for section in sections for part in section.parts if isinstance(part, Figure)]
    names = short_names(records)  # before the fork: figures and tables name the same cases
    with drawn_apart(figures, records) as finished:
        suites = list(dict.fromkeys(plain(record.suite) for record in records))
        checks, complaints = load_verdicts(files)
        outcomes, damaged = load_outcomes([file.path.parent for file in files])
        beside: _Beside = {
            Verdicts: verdict_blocks(checks),
            Claims: claim_blocks(outcomes),
            Histories: history_blocks(history),
        }
        complaints += [] if history is None else [f"History: {text}." for text in notices_of(history)]
        answer = answer_of(records)
        made = [
            [part if isinstance(part, Figure) else _blocks(part, shown, beside, answer) for part in section.parts]
            for section in sections
        ]
        report = Report(
            records=tuple(records),
            title=f"arvbench report: {', '.join(suites)}",
            facts=_facts(records, suites),
            notices=(*_notices(files, records, names), *map(plain, [*complaints, *damaged])),
            sections=_filled(sections, made, {}),
            answer=answer,
        )
        meanwhile(report)
        return replace(report, sections=_filled(sections, made, finished()))


def _filled(
    sections: Sequence[Section], made: Sequence[Sequence[Figure | Sequence[Block]]], drawn: Drawn
) -> tuple[FilledSection, ...]:
    """Fill sections with the blocks of each part and the figures that are `drawn`; leave out those with words alone."""
    filled = [
        FilledSection(
            heading=section.heading,
            blocks=tuple(
                block
                for part in parts
                for block in ([drawn.get(part.name)] if isinstance(part, Figure) else part)
                if block is not None
            ),
        )
        for section, parts in zip(sections, made, strict=True)
    ]
    return tuple(section for section in filled if not all(isinstance(block, Text) for block in section.blocks))


def _blocks(
    part: WrittenPart,
    shown: Mapping[str, tuple[Record, Path]],
    beside: _Beside,
    answer: Answer,
) -> Sequence[Block]:
    """Make the blocks of a part that is no figure; empty when the records have no data for it."""
    records = [record for record, _ in shown.values()]
    match part:
        case Text() | Terms():
            return [part]
        case AnswerFindings():
            return [_findings(answer)]
        case AnswerTables():
            return list(filter(None, answer.tables))
        case SampleStrip():
            return sample_strip(answer, {record_id: folder for record_id, (_, folder) in shown.items()})
        case SampleSheets():
            return _pictures(shown)
        case Verdicts() | Claims() | Histories():
            return beside[type(part)]
    result = part(records)
    blocks = result if isinstance(result, Sequence) else [result]
    return [block for block in blocks if not isinstance(block, Table) or block]


def _findings(answer: Answer) -> Findings:
    return Findings(
        sentence=answer.sentence,
        statements=answer.shown,
        left_out=len(answer.statements) - len(answer.shown),
        cautions=answer.cautions,
    )


MOST_SHEETS = 24
"""Sample sheets on a page; each may have a megabyte."""


def _pictures(shown: Mapping[str, tuple[Record, Path]]) -> list[Block]:
    names = short_names([record for record, _ in shown.values()])
    with_sheet = [
        (record, record.outcome.sample_sheet, folder)
        for record, folder in shown.values()
        if isinstance(record.outcome, Measured) and record.outcome.sample_sheet is not None
    ]
    pictures = [
        load_picture(
            sheet,
            folder=folder,
            case=names[record.record_id],
            marks=case_cell(record, names[record.record_id]).flags,
        )
        for record, sheet, folder in with_sheet[:MOST_SHEETS]
    ]
    if not pictures:
        return []
    left_out = f"Shown: the first {MOST_SHEETS} of {len(with_sheet):,} sheets; all lie beside the records."
    return [Pictures(tuple(pictures)), *([Text(left_out)] if len(with_sheet) > MOST_SHEETS else [])]


def count_by_status(records: Sequence[Record]) -> dict[Status, int]:
    """Count cases by status, in the order of `Status`; statuses without cases are left out."""
    counts = Counter(record.status for record in records)
    return {status: counts[status] for status in Status if counts[status]}


def _facts(records: Sequence[Record], suites: Sequence[str]) -> tuple[tuple[str, str], ...]:
    counts = ", ".join(f"{count} {status.value}" for status, count in count_by_status(records).items())
    begin = min(in_utc(record.started) for record in records)
    end = max(in_utc(record.finished) for record in records)
    environments = [launch.environment for record in records for launch in launches_of(record)]
    versions = dict.fromkeys(
        f"arvbench {plain(e.arvbench_version)}" + (f" at {plain(e.git_commit)[:12]}" if e.git_commit else "")
        for e in environments
    )
    torch = dict.fromkeys(f"torch {plain(e.libraries['torch'])}" for e in environments if "torch" in e.libraries)
    return (
        ("Suite", ", ".join(suites)),
        ("Cases", f"{len(records)}: {counts}{_launches(records)}"),
        ("Ran", f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"),
        ("On", "; ".join(dict.fromkeys(processor(record) for record in records))),
        ("With", "; ".join([*versions, *torch])),
    )


def _notices(files: Sequence[RecordsFile], records: Sequence[Record], names: dict[str, str]) -> tuple[str, ...]:
    notices: list[str] = []
    shown = {launch.record_id for record in records for launch in launches_of(record)}
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
    if unsteady := unsteady_records(records):
        notices.append(f"{_cases(len(unsteady))} had unsteady times, which may be too long: {unsteady_text(unsteady)}.")
    if deviating := sum(bool(setup.settings_deviations or setup.recipe_deviations) for _, setup in prepared(records)):
        notices.append(f"{_cases(deviating)} ran with settings that differ from the official ones: see Settings.")
    notices.extend(_warnings(records, names))
    if throttled := sum(any(map(_throttled, launches_of(record))) for record in records):
        notices.append(f"The GPU reported throttling in {_cases(throttled)}: see Environment.")
    if dirty := sum(bool(record.environment.git_dirty) for record in records):
        notices.append(f"{_cases(dirty)} ran from a checkout with local changes: its commit alone is not what ran.")
    notices.extend(f"Skipped a damaged line: {plain(line)}." for file in files for line in file.damaged_lines)
    return tuple(notices)


def _launches(records: Sequence[Record]) -> str:
    """Say how many launches are behind the cases; "" when each has one."""
    count = sum(len(launches_of(record)) for record in records)
    return f" (in {count} launches)" if several_launches(records) else ""


def _throttled(record: Record) -> bool:
    return bool(record.environment.gpu and record.environment.gpu.throttle_reasons)


def _warnings(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    """Write one notice for each kind of warning about samples, with the text of the first affected case."""
    notices = []
    for members in group_by(warnings_of(records), lambda warning: warning[1].code).values():
        (first, finding), *others = members
        more = len({record.record_id for record, _ in others} - {first.record_id})
        also = f" ({_cases(more)} more with such a warning: see Quality)" if more else ""
        notices.append(f"{names[first.record_id]}: {plain(finding.text)}{also}")
    return notices


def _cases(count: int) -> str:
    return f"{count} case{'s' if count != 1 else ''}"
