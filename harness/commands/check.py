"""`arvbench check`: measure head and a commit in turns, or head alone against a baseline; judge, write and print."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.errors import UserError
from arvbench.harness.commands.options import (
    CaseDevice,
    CaseModels,
    CaseSettings,
    CaseWeights,
    case_settings,
    comma_list,
)
from arvbench.harness.commands.run import RUNS_FOLDER, SUITE_HELP
from arvbench.harness.commands.verdicts import AllowInconclusive, VerdictJson, conclude
from arvbench.interrupts import EXIT_INTERRUPTED
from arvbench.paths import printable

if TYPE_CHECKING:
    from arvbench.harness.check.rule import Rule
    from arvbench.harness.jobs import Event, EventListener
    from arvbench.harness.suites.suite import Suite
    from arvbench.results.verdict import Check


def check(
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="REF", help="Branch, tag or commit of this checkout to compare with."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Stored baseline of this machine to compare with, instead."),
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", metavar="REF", help="Commit to check.  [default: the working tree as it is]")
    ] = None,
    suite: Annotated[str, typer.Option("--suite", metavar="SUITE", help=SUITE_HELP)] = "gate",
    models: CaseModels = None,
    launches: Annotated[
        int | None,
        typer.Option(
            "--launches",
            metavar="N",
            min=1,
            max=1000,
            help="Fresh launches per side of suspected cases, beside 4 of every case.  [default: 10]",
        ),
    ] = None,
    more: Annotated[
        int | None,
        typer.Option(
            "--more",
            metavar="N",
            min=1,
            max=50,
            help="Continue a finished check that is inconclusive, with N more launches per side of what it left open.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the check.  [default: results/runs/check-SUITE]"),
    ] = None,
    device: CaseDevice = None,
    settings: CaseSettings = None,
    weights: CaseWeights = None,
    allow_inconclusive: AllowInconclusive = False,
    as_json: VerdictJson = False,
) -> None:
    """Compare the checkout that arvbench runs from with commit REF of it, and say whether it is slower or worse.

    Base has the samplers, kernels and demo weights of REF, head those of the working tree, uncommitted changes
    included; the harness of the working tree measures both, in turns, each launch in a process of its own. REF lies
    in a git worktree in a scratch folder, with an environment of its own only where its dependencies differ; both are
    gone at the end. After an interruption, the same command goes on. DIR gets the records, verdict.json, verdict.md and
    junit.xml. With --baseline only head is measured, in a single stage (`arvbench baseline --help`).

    Examples:

      arvbench check --against main

      arvbench check --against main --more 10

      arvbench check --against HEAD~1 --models demo/var

      arvbench check --baseline results/baselines/h200.json --device cuda

      arvbench check --against v1.2 --suite speed256 --device cuda --weights ~/ckpts
    """
    from arvbench.harness.check.rule import Rule
    from arvbench.harness.suites.searches import refuse_searches
    from arvbench.harness.suites.suite import load_suite

    chosen = load_suite(suite, models=comma_list(models), overrides=case_settings(settings, device, weights))
    refuse_searches(chosen, "two sides would try different points: name the point that you mean")
    rule = Rule() if launches is None else Rule(launches=launches)
    given = {"models": models, "launches": launches, "device": device, "set": settings, "weights": weights, "out": out}
    command = _command({"against": against, "baseline": baseline, "head": head, "suite": suite, **given})
    request = _Request(
        suite=chosen, rule=rule, folder=out or RUNS_FOLDER / f"check-{chosen.name}", command=command, more=more
    )
    verdict = _check(_maker(request, against, baseline, head), request.folder)
    conclude(verdict, as_json=as_json, allow_inconclusive=allow_inconclusive)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """Options that both kinds of check share."""

    suite: Suite
    rule: Rule
    folder: Path
    command: str
    more: int | None


_Maker = Callable[["EventListener", Callable[[str], None]], "Check"]


def _maker(request: _Request, against: str | None, baseline: Path | None, head: str | None) -> _Maker:
    """Return the function that makes the check. Raises UserError unless there is one thing to compare with."""
    from arvbench.harness.check.against import CheckRequest, check_against
    from arvbench.harness.check.alone import LaunchRequest
    from arvbench.harness.check.baseline import BaselineCheck, check_baseline

    if against is not None and baseline is None:
        return partial(
            check_against,
            CheckRequest(
                against=against,
                head=head,
                suite=request.suite,
                rule=request.rule,
                folder=request.folder,
                command=request.command,
                more=request.more,
            ),
        )
    if baseline is None or against is not None or head is not None:
        raise UserError("say what to compare with: --against REF, with --head REF or without, or --baseline FILE")
    if request.more is not None:
        raise UserError("--more continues a check with --against; one with --baseline is made again with --launches")
    launches = LaunchRequest(
        suite=request.suite, launches=request.rule.launches, folder=request.folder, rule=request.rule
    )
    return partial(check_baseline, BaselineCheck(path=baseline, launches=launches, command=request.command))


def _command(options: dict[str, object]) -> str:
    """Return the command line of these options, for a shell."""
    words = ["arvbench", "check"]
    for name, value in options.items():
        for element in value if isinstance(value, list) else [value]:
            if element is not None:
                words += [f"--{name}", printable(str(element))]
    return shlex.join(words)


def _check(make: _Maker, folder: Path) -> Check:
    """Make a check under a progress bar, and write its files."""
    from rich.console import Console

    from arvbench.harness.check.outputs.write import write_outputs
    from arvbench.harness.commands.progress import ProgressBar

    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with contextlib.ExitStack() as stack:
        bars: list[ProgressBar] = []

        def show(event: Event) -> None:
            # Not before the first launch: bad input is one line.
            if not bars:
                bars.append(stack.enter_context(ProgressBar(console)))
            bars[0](event)

        try:
            verdict = make(show, say)
        except KeyboardInterrupt:
            say("interrupted; what is measured is kept: run the same command again to go on")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    for warning in write_outputs(verdict, folder):
        say(f"warning: {warning}")
    say(f"{verdict.verdict.value}: see {printable(folder)}/verdict.json")
    return verdict
