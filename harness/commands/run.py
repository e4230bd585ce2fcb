"""`arvbench run`: measure the cases of a suite, print their records and write the report."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arvbench.harness.commands.engines import (
    Accelerator,
    Address,
    Devices,
    Engine,
    EngineOptions,
    Retries,
    Share,
    Workers,
)
from arvbench.harness.commands.options import (
    CaseDevice,
    CaseModels,
    CaseWeights,
    ExtractorWeights,
    InceptionWeights,
    case_settings,
    comma_list,
    extractor_files,
)
from arvbench.harness.commands.plans import PlanOptions, print_plan
from arvbench.harness.commands.shares import draw_shares
from arvbench.harness.suites.built_in import built_in_suites
from arvbench.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from arvbench.harness.run.engines.engine import Engine as AnyEngine
    from arvbench.harness.run.store import RecordStore
    from arvbench.harness.suites.suite import Suite
    from arvbench.results.schema import Record

SUITE_HELP = f"Name of a built-in suite ({', '.join(built_in_suites())}), or a YAML file."
RUNS_FOLDER = Path("results") / "runs"
EXIT_FAILURES = 1


def run(
    suite: Annotated[str, typer.Argument(help=SUITE_HELP)],
    models: CaseModels = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the records.  [default: results/runs/SUITE]")
    ] = None,
    device: CaseDevice = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting for every case (batch=8, settings.cfg=2, quality.images=500); wins over the suite. A list "
            "(batch=[1,8]) makes one case per element; repeatable.",
        ),
    ] = None,
    weights: CaseWeights = None,
    inception_weights: InceptionWeights = None,
    extractor_weights: ExtractorWeights = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is already recorded.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Measure again what is not ok.")] = False,
    engine: Engine = None,
    workers: Workers = None,
    devices: Devices = None,
    retries: Retries = None,
    address: Address = None,
    accelerator: Accelerator = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="K/N", help="Only part K of N equal parts of the cases.")
    ] = None,
    share: Share = "cases",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be measured or reused, and what it took last; do nothing."),
    ] = False,
    predict: Annotated[
        bool, typer.Option("--predict", help="With --dry-run: predict memory and time of every case.")
    ] = False,
    control: Annotated[
        bool,
        typer.Option(
            "--control/--no-control",
            help="Time fixed work around the calls of every case (0.2 s), to tell a slower machine from slower code.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as a JSON list, nothing else.")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the HTML report.")] = True,
) -> None:
    """Measure the cases of SUITE, one process each, and write one record per case.

    A case with `launches: N` is measured in N processes and has N records; the tables show it in one row.

    A case that is already recorded for this machine and this source is not measured again: after an interruption, the
    same command does the rest. Exit code: 0 all cases ok, 1 finished with failures, 2 bad input, 3 this machine
    lacks something, 130 interrupted.

    Examples:

      arvbench run demo

      arvbench run imagenet256 --models 'var-d16,hmar-*' --weights ~/ckpts --inception-weights PATH

      arvbench run speed256 --models 'var-d16,var-d3*' --set batch=[1,64]

      arvbench run imagenet256 --dry-run

      arvbench run speed256 --shard 2/8 --out runs/2

      arvbench run my.yaml --weights ~/ckpts --device cuda:1 --json > records.json
    """
    measuring = EngineOptions(engine, workers, comma_list(devices), retries, address, accelerator, share)
    with measuring.begun(wanted=not dry_run and share == "cases") as early:
        chosen = _suite(suite, comma_list(models), case_settings(settings, device, weights))
        chosen, store = measuring.place(chosen, out or RUNS_FOLDER / chosen.name, shard)
        if dry_run:
            print_plan(chosen, store, PlanOptions(fresh, retry_failed, as_json, predict))
            return
        files = extractor_files(inception_weights, extractor_weights)
        if share == "images":
            draw_shares(chosen, measuring.rank(shard), store.folder, files)
            return
        options = {"fresh": fresh, "retry_failed": retry_failed, "extractor_files": files, "control": control}
        records = _measure(chosen, store, early or measuring.open(), measuring.attempts_more, options, report=report)
    _finish(records, store, as_json=as_json, report=report)


def _suite(name: str, models: tuple[str, ...], overrides: Mapping[str, Any]) -> Suite:
    from arvbench.harness.suites.suite import load_suite

    return load_suite(name, models=models, overrides=overrides)


def _finish(records: list[Record], store: RecordStore, *, as_json: bool, report: bool) -> None:
    """Print the records and write the report. Exit code 1 when a case is not ok."""
    from arvbench.results.schema import Status

    _print(records, as_json=as_json)
    if report:
        _write_report(store, to_stderr=as_json)
    if any(record.status is not Status.OK for record in records):
        raise typer.Exit(EXIT_FAILURES)


def _measure(
    suite: Suite, store: RecordStore, engine: AnyEngine, retries: int, options: Mapping[str, Any], *, report: bool
) -> list[Record]:
    """Run the suite under a progress bar; Ctrl-C ends with a line that says how to resume.

    What a `report` needs is imported before the first case, as the warm process imports then too.
    """
    from rich.console import Console

    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.run.leftovers import unreadable_results
    from arvbench.harness.run.ready import check_host
    from arvbench.harness.run.runner import RunOptions, run_suite

    chosen = RunOptions(**options, retries=retries)
    check_host(suite, engine, chosen.extractor_files)
    if not any(case.config.device.partition(":")[0] == "cpu" for case in suite.cases):
        engine.close()  # nothing that was begun is of use
    elif report:
        for name in ("arvbench.reports.build", "matplotlib.figure"):
            importlib.import_module(name)
    console = Console(stderr=True)
    for notice in [*store.prepare(), *unreadable_results(store)]:
        console.print(f"warning: {notice}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    try:
        with ProgressBar(console, cases=suite.cases) as listener:
            return run_suite(suite, store, engine, listener, options=chosen)
    except KeyboardInterrupt:
        console.print(
            f"interrupted; what is finished is kept: {len(store.records())} record(s) in {store.path}. Run the same "
            "command again to go on",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _print(records: list[Record], *, as_json: bool) -> None:
    from pydantic import ConfigDict, TypeAdapter
    from rich.console import Console

    from arvbench.reports.answer.answer import answer_of
    from arvbench.reports.tables.terminal import terminal_table
    from arvbench.reports.tables.terminal_answer import terminal_answer
    from arvbench.reports.tables.terminal_floors import step_floors
    from arvbench.results.launches import merge_launches
    from arvbench.results.schema import Record
    from arvbench.results.search import with_marks

    if as_json:
        # An infinite difference is a string, as in the records file: a bare Infinity is not JSON.
        as_recorded = TypeAdapter(list[Record], config=ConfigDict(ser_json_inf_nan="strings"))
        typer.echo(as_recorded.dump_json(records, indent=2).decode())
    else:
        console = Console()
        answer = answer_of(with_marks(merge_launches(records)))
        console.print(terminal_answer(answer, width=console.width))
        console.print(terminal_table(records, width=console.width), step_floors(records, width=console.width))


def _write_report(store: RecordStore, *, to_stderr: bool) -> None:
    from rich.console import Console

    from arvbench.reports.build import build_report

    summary = build_report([store.path], store.folder / "report.html")
    Console(stderr=to_stderr).print(f"report: {summary.html}", markup=False, highlight=False, soft_wrap=True)
