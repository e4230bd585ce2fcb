"""`arvbench run`: measure the cases of a suite and show what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ConfigDict, TypeAdapter

from arvbench.errors import UserError
from arvbench.harness.suites.suite import Suite, built_in_suites, check_cases, load_suite
from arvbench.harness.suites.yaml_files import parse_value
from arvbench.results.schema import Record, Status

if TYPE_CHECKING:
    from rich.console import Console

    from arvbench.harness.run.runner import RunOptions
    from arvbench.harness.run.store import RecordStore

SUITE_HELP = f"Name of a built-in suite ({', '.join(built_in_suites())}), or a YAML file."
RUNS_FOLDER = Path("results") / "runs"
EXIT_FAILURES, EXIT_INTERRUPTED = 1, 130


Models = Annotated[
    list[str] | None,
    typer.Option("--models", metavar="PATTERN", help="Only these models, such as 'var-*,demo/var'; repeatable."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the records.  [default: results/runs/SUITE]")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Setting for every case (batch=8, settings.cfg=2, quality.images=500); wins over the suite. A list "
        "(batch=[1,8]) makes one case per element; repeatable.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="DIR", help="Folder of official files, or demo, hub, random:SEED."),
]
InceptionWeights = Annotated[
    Path | None, typer.Option("--inception-weights", metavar="PATH", help="Weights of the Inception networks.")
]
ExtractorWeights = Annotated[
    list[str] | None,
    typer.Option("--extractor-weights", metavar="NAME=PATH", help="Weights of another extractor; repeatable."),
]


def run(
    suite: Annotated[str, typer.Argument(help=SUITE_HELP)],
    models: Models = None,
    out: Out = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, for every case.")] = None,
    settings: Settings = None,
    weights: Weights = None,
    inception_weights: InceptionWeights = None,
    extractor_weights: ExtractorWeights = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is already recorded.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Measure again what is not ok.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as a JSON list, nothing else.")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the HTML report.")] = True,
) -> None:
    """Measure the cases of SUITE, one process each, and write one record per case.

    A case that is already recorded for this machine and this source is not measured again, so that the same command
    goes on where it was interrupted. Exit code: 0 all cases ok, 1 finished with failures, 2 bad input, 3 this machine
    lacks something, 130 interrupted.

    Examples:

      arvbench run demo

      arvbench run imagenet256 --models 'var-d16,hmar-*' --weights ~/ckpts --inception-weights PATH

      arvbench run speed256 --models 'var-d16,var-d3*' --set batch=[1,64]

      arvbench run my.yaml --weights ~/ckpts --device cuda:1 --json > records.json
    """
    from rich.console import Console

    from arvbench.harness.run.runner import RunOptions
    from arvbench.harness.run.store import RecordStore

    chosen = load_suite(suite, models=_patterns(models), overrides=_overrides(settings, device, weights))
    extractor_files = _extractor_files(inception_weights, extractor_weights)
    _check_host(chosen, extractor_files)
    store = RecordStore(out or RUNS_FOLDER / chosen.name)
    errors = Console(stderr=True)
    for notice in store.prepare():
        errors.print(f"warning: {notice}", style="yellow", markup=False, highlight=False)
    options = RunOptions(fresh=fresh, retry_failed=retry_failed, extractor_files=extractor_files)
    records = _measure(chosen, store, options, errors)
    if as_json:
        # An infinite difference is a string, as in the records file: json.dumps would write a bare Infinity, no JSON.
        as_recorded = TypeAdapter(list[Record], config=ConfigDict(ser_json_inf_nan="strings"))
        typer.echo(as_recorded.dump_json(records, indent=2).decode())
    else:
        _show(records)
    if report:
        _report(store, errors if as_json else Console())
    if any(record.status is not Status.OK for record in records):
        raise typer.Exit(EXIT_FAILURES)


def _patterns(models: Sequence[str] | None) -> list[str]:
    return [pattern.strip() for group in models or () for pattern in group.split(",") if pattern.strip()]


def _overrides(settings: Sequence[str] | None, device: str | None, weights: str | None) -> dict[str, Any]:
    """Command-line settings by key; --device and --weights are short for --set."""
    overrides: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise UserError(f"--set {setting!r}: write KEY=VALUE, such as --set batch=8")
        overrides[key] = parse_value(text)
    given = {"device": device, "weights": weights}
    return overrides | {key: value for key, value in given.items() if value is not None}


def _extractor_files(inception: Path | None, others: Sequence[str] | None) -> dict[str, Path]:
    """Weights of extractors that the command line names."""
    if inception is None and not others:
        return {}
    from arvbench.harness.quality.extractors.weights import named_files

    return named_files(inception, others or ())


def _check_host(suite: Suite, extractor_files: Mapping[str, Path]) -> None:
    """Fail now, not in every case: settings that a model refuses, a device or a file that is not here."""
    from arvbench.adapters.loading import usable_device
    from arvbench.harness.run.fingerprint import quality_files

    check_cases(suite.cases)
    for device in dict.fromkeys(case.config.device for case in suite.cases):
        usable_device(device)
    for quality in dict.fromkeys(case.config.quality for case in suite.cases if case.config.quality):
        quality_files(quality, extractor_files)


def _measure(suite: Suite, store: RecordStore, options: RunOptions, errors: Console) -> list[Record]:
    """Run the suite under a progress bar; Ctrl-C ends with a line that says how to go on."""
    from arvbench.harness.commands.progress import ProgressListener
    from arvbench.harness.run.engines import ENGINES
    from arvbench.harness.run.runner import run_suite

    try:
        with ProgressListener(errors, total=len(suite.cases)) as listener:
            return run_suite(suite, store, ENGINES["local"](), listener, options=options)
    except KeyboardInterrupt:
        errors.print(
            f"interrupted; what is finished is kept: {len(store.records())} record(s) in {store.path}. Run the same "
            "command again to go on",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _show(records: Sequence[Record]) -> None:
    from rich.console import Console

    from arvbench.reports.tables import terminal_table

    Console().print(terminal_table(records))


def _report(store: RecordStore, console: Console) -> None:
    from arvbench.reports.build import build_report

    summary = build_report([store.path], store.folder / "report.html")
    console.print(f"report: {summary.html}", markup=False, highlight=False, soft_wrap=True)
