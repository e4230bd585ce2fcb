"""`arvbench records`: list, show, merge and prune the records of run folders."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.errors import UserError
from arvbench.harness.commands.options import comma_list

if TYPE_CHECKING:
    from arvbench.results.schema import Record
    from arvbench.results.select import Filter

GROUP_HELP = """List, show, merge and prune records.

Examples:

  arvbench records ls results/runs/demo --status ok

  arvbench records merge runs/1 runs/2 --out runs/all
"""
Paths = Annotated[list[Path], typer.Argument(help="Run folders or records files.", show_default=False)]
OnePath = Annotated[Path, typer.Argument(help="Run folder or records file.", show_default=False)]
Models = Annotated[
    list[str] | None, typer.Option("--models", metavar="PATTERN", help="Only records of these models; repeatable.")
]
Suites = Annotated[list[str] | None, typer.Option("--suites", metavar="PATTERN", help="Only those of these suites.")]
Statuses = Annotated[list[str] | None, typer.Option("--status", metavar="NAMES", help="Only these, such as ok,oom.")]
Before = Annotated[datetime | None, typer.Option(help="Only those begun before this time (UTC).")]


def ls(
    paths: Paths,
    models: Models = None,
    suites: Suites = None,
    status: Statuses = None,
    before: Before = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write them as a Parquet table.")] = None,
) -> None:
    """List records, one line each: id, begin, status, launch, suite and case, machine.

    Examples:

      arvbench records ls results/runs/demo --status error,oom

      arvbench records ls results/runs/* --models 'var-*' --parquet all.parquet
    """
    from arvbench.results.frames import write_parquet
    from arvbench.results.records import newest_of_each_case, read_records
    from arvbench.results.search import marks

    chosen = []
    for path in paths:
        found = read_records(path)
        # Of all records of the folder: a choice among them makes no search shorter.
        what = marks(newest_of_each_case(found))
        for record in _filter(models, suites, status, before).choose(found):
            chosen.append(record)
            typer.echo(_line(record) + (f", {what[record.record_id]}" if record.record_id in what else ""))
    if parquet is not None:
        write_parquet(chosen, parquet)


def show(
    path: OnePath, record_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a record, or its begin.")]
) -> None:
    """Print one record as JSON.

    Examples:

      arvbench records show results/runs/demo 3f2a
    """
    from arvbench.results.records import read_records
    from arvbench.results.select import record_of

    typer.echo(record_of(read_records(path), record_id).model_dump_json(indent=2))


def merge(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder that gets the records.")],
    models: Models = None,
    suites: Suites = None,
    status: Statuses = None,
    before: Before = None,
) -> None:
    """Add the records of several run folders to one, each once, with their sample sheets.

    Records keep their order, whatever the clocks of their machines say: of one case, the last counts. Those of other
    machines and other suites stay apart in reports, and the suites are named. Shards of an evaluation are merged by
    `arvbench merge`.

    Examples:

      arvbench records merge runs/1 runs/2 --out runs/all
    """
    from arvbench.harness.run.gather import gather
    from arvbench.harness.run.store import RecordStore

    store = RecordStore(out)
    for notice in store.prepare():
        typer.echo(f"warning: {notice}", err=True)
    added, again = gather(paths, store, _filter(models, suites, status, before))
    by_suite = Counter(record.suite for record in store.records())
    if len(by_suite) > 1:
        counts = ", ".join(f"{suite} ({count})" for suite, count in by_suite.items())
        typer.echo(f"note: records of {len(by_suite)} suites: {counts}; reports keep them apart", err=True)
    typer.echo(f"{added} record(s) added to {store.path}, {again} already there")


def prune(
    path: OnePath,
    ids: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Id or its begin; repeatable.")] = None,
    models: Models = None,
    suites: Suites = None,
    status: Statuses = None,
    before: Before = None,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Of those, only records that a later one of the same launch replaces.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go; remove nothing.")] = False,
) -> None:
    """Move records out of a run folder, to records.pruned.jsonl beside them.

    Examples:

      arvbench records prune results/runs/demo --superseded

      arvbench records prune results/runs/demo --status error --dry-run
    """
    from arvbench.harness.run.store import RecordStore

    chosen = _filter(models, suites, status, before, comma_list(ids))
    store = RecordStore(path if path.is_dir() else path.parent)
    gone = _to_prune(store.path, chosen, superseded=superseded)
    for record in gone:
        typer.echo(_line(record))
    removed = 0 if dry_run or not gone else store.remove({record.record_id for record in gone})
    typer.echo(f"{removed} record(s) moved out of {store.path}")


def _to_prune(path: Path, chosen: Filter, *, superseded: bool) -> list[Record]:
    """Return the records to move out. Raises UserError where nothing says which."""
    from arvbench.results.records import newest_of_each_case, read_records

    if not chosen and not superseded:
        raise UserError("say which records: --superseded, --id, --models, --suites, --status or --before")
    records = read_records(path).records
    newest = {record.record_id for record in newest_of_each_case(records)} if superseded else set()
    return [record for record in chosen.choose(records) if record.record_id not in newest]


def _filter(
    models: list[str] | None,
    suites: list[str] | None,
    status: list[str] | None,
    before: datetime | None,
    ids: tuple[str, ...] = (),
) -> Filter:
    """Make the filter of a command line. Raises UserError for a status that is none."""
    from arvbench.errors import UnknownName
    from arvbench.results.schema import Status
    from arvbench.results.select import Filter

    statuses = comma_list(status)
    for name in statuses:
        if name not in list(Status):
            raise UnknownName("status", name, list(Status))
    return Filter(ids=ids, models=comma_list(models), suites=comma_list(suites), statuses=statuses, before=before)


def _line(record: Record) -> str:
    environment = record.environment
    machine = environment.gpu.name if environment.gpu else environment.cpu
    launch = f", launch {record.launch}" if record.case.launches > 1 else ""
    return (
        f"{record.record_id[:12]:<12} {record.started:%Y-%m-%d %H:%M:%S} {record.status:<11} "
        f"{record.suite}: {record.case_id}{launch}  [{machine}]"
    )
