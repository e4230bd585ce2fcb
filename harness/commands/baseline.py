"""`arvbench baseline`: the stored baselines of a machine, calibrated, audited and accepted on purpose."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.harness.commands.options import CaseDevice, CaseModels, CaseSettings, case_settings, comma_list
from arvbench.harness.commands.run import RUNS_FOLDER, SUITE_HELP
from arvbench.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from arvbench.harness.check.rule import Rule
    from arvbench.harness.suites.suite import Suite
    from arvbench.results.baselines import Baseline
    from arvbench.results.schema import Record

BASELINES_FOLDER = Path("results") / "baselines"
GROUP_HELP = """Stored baselines of a machine: calibrate, audit, update, show.

  Examples:

    arvbench baseline calibrate --launches 20

    arvbench baseline audit

    arvbench baseline update --reason "wider cache"

    arvbench baseline show
"""
SuiteOption = Annotated[str, typer.Option("--suite", metavar="SUITE", help=SUITE_HELP)]
File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Baseline file.  [default: that of this machine in results/baselines]"),
]
OnlyFile = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="Baseline file.  [default: that of this machine in results/baselines]"),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of the launches.  [default: results/runs/baseline-SUITE]"),
]


def calibrate(
    launches: Annotated[
        int, typer.Option("--launches", metavar="N", min=2, max=1000, help="Launches of every case.")
    ] = 20,
    suite: SuiteOption = "gate",
    models: CaseModels = None,
    device: CaseDevice = None,
    settings: CaseSettings = None,
    file: File = None,
    out: Out = None,
) -> None:
    """Measure launches of one commit on this machine; store them with their noise and the smallest detectable changes.

    The first calibration also accepts its launches as the baseline. A later one changes neither anchor.

    Examples:

      arvbench baseline calibrate --launches 20
    """
    from arvbench.harness.check.baseline import calibrate as store
    from arvbench.harness.check.rule import Rule

    chosen = _suite(suite, models, device, settings)
    path = file or _default_file(chosen.cases[0].config.device)
    records = _measured(chosen, launches, out, Rule())
    _show(store(path, chosen.name, records, Rule()), path)


def audit(
    file: OnlyFile = None,
    splits: Annotated[int, typer.Option(min=10, max=100_000, help="Random splits into base and head.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the audit as JSON, nothing else.")] = False,
) -> None:
    """Replay the rule on random halves of the launches of the calibration: every alarm is a false one.

    Examples:

      arvbench baseline audit

      arvbench baseline audit results/baselines/h200.json --splits 5000
    """
    import json
    from dataclasses import asdict

    from arvbench.harness.check.baseline import audit_of
    from arvbench.harness.check.outputs.baselines import audit_sentences
    from arvbench.results.baselines import read_baseline

    found = audit_of(read_baseline(file or _only_file()), splits=splits)
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else "\n".join(audit_sentences(found)))


def update(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Reason why the change is accepted.")],
    release: Annotated[bool, typer.Option("--release", help="Move the release anchor too.")] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Accept the launches of this run folder or records file; none are measured."
        ),
    ] = None,
    launches: Annotated[
        int | None,
        typer.Option("--launches", metavar="N", min=2, max=1000, help="Launches of every case.  [default: 10]"),
    ] = None,
    suite: SuiteOption = "gate",
    models: CaseModels = None,
    device: CaseDevice = None,
    settings: CaseSettings = None,
    file: File = None,
    out: Out = None,
) -> None:
    """Accept launches of the working tree as the baseline, with the reason. The release anchor stays.

    Examples:

      arvbench baseline update --reason "top-k is exact now"

      arvbench baseline update --reason "v1.3" --release --from results/runs/check-gate/head
    """
    from arvbench.harness.check.baseline import accept
    from arvbench.harness.check.pairing import read_run
    from arvbench.harness.check.rule import Rule

    rule = Rule()
    chosen = _suite(suite, models, device, settings)
    path = file or _default_file(chosen.cases[0].config.device)
    count = launches or rule.launches
    records = list(read_run(source)) if source else _measured(chosen, count, out, rule)
    _show(accept(path, records, reason=reason, release=release, rule=rule), path)


def show(
    file: OnlyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the baseline as JSON, nothing else.")] = False,
) -> None:
    """Print what a baseline holds: its anchors, and the noise of every number.

    Examples:

      arvbench baseline show

      arvbench baseline show results/baselines/h200.json
    """
    from arvbench.results.baselines import read_baseline

    path = file or _only_file()
    baseline = read_baseline(path)
    if as_json:
        typer.echo(baseline.model_dump_json(indent=2))
    else:
        _show(baseline, path)


def _suite(name: str, models: list[str] | None, device: str | None, settings: list[str] | None) -> Suite:
    from arvbench.harness.suites.searches import refuse_searches
    from arvbench.harness.suites.suite import load_suite

    chosen = load_suite(name, models=comma_list(models), overrides=case_settings(settings, device, None))
    refuse_searches(chosen, "two runs would try different points: name the point that you mean")
    return chosen


def _default_file(device: str) -> Path:
    """Return the file of this machine; of its GPU for a CUDA device."""
    from arvbench.harness.check.alone import hardware_of_device
    from arvbench.results.baselines import baseline_name

    return BASELINES_FOLDER / baseline_name(hardware_of_device(device))


def _only_file() -> Path:
    """Return the one baseline file of this machine, its CPU's or its GPU's.

    Raises UserError when there is none, or one of each.
    """
    from arvbench.errors import HostError, UserError

    found = []
    for device in ("cpu", "cuda"):
        with contextlib.suppress(HostError):
            if (path := _default_file(device)).exists():
                found.append(path)
    if not found:
        raise UserError(
            f"no baseline of this machine in {BASELINES_FOLDER}: make one with `arvbench baseline calibrate`"
        )
    if len(found) > 1:
        raise UserError(f"this machine has two baselines, {found[0]} and {found[1]}: name one")
    return found[0]


def _measured(suite: Suite, launches: int, out: Path | None, rule: Rule) -> list[Record]:
    """Measure launches under a progress bar; the folder's run is over then."""
    from rich.console import Console

    from arvbench.harness.check.alone import LaunchRequest, close_run, measure_alone, require_all
    from arvbench.harness.commands.progress import ProgressBar

    console = Console(stderr=True)
    folder = out or RUNS_FOLDER / f"baseline-{suite.name}"
    request = LaunchRequest(suite=suite, launches=launches, folder=folder, rule=rule)
    try:
        with ProgressBar(console) as bar:
            measured = measure_alone(request, bar, lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        typer.echo("interrupted; what is measured is kept: run the same command again to go on", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    close_run(folder)
    return list(require_all(measured))


def _show(baseline: Baseline, path: Path) -> None:
    from rich.console import Console

    from arvbench.harness.check.outputs.baselines import baseline_table

    console = Console()
    console.print(baseline_table(baseline, width=console.width))
    console.print(f"baseline: {path}", markup=False, highlight=False, soft_wrap=True)
