"""`arvbench claims`: published claims as experiments, what this machine can do about them, and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.harness.commands.options import comma_list
from arvbench.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from arvbench.results.claims import Experiment, Outcome

CLAIMS_FOLDER = Path("results") / "runs" / "claims"
EXIT_FAILURES = 1


def claims(
    run: Annotated[bool, typer.Option("--run", help="Run what this machine can, and keep the outcomes.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ID,...", help="Only these claims or experiments; patterns (hmar-*).")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="With --run: also time cases, which takes minutes.")
    ] = True,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of your outcomes and their records.")
    ] = CLAIMS_FOLDER,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="YAML", help="Other experiments than those of arvbench.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcomes as JSON, nothing else.")] = False,
) -> None:
    """List published claims with their verdict: reproduced, direction only, not reproduced, or what is missing.

    Your own outcomes in DIR win over those that come with arvbench. A verdict other than `needs weights`, `needs GPU`
    or `cannot be tested` comes from an outcome alone.

    Examples:

      arvbench claims

      arvbench claims --run --no-measure

      arvbench claims --run --only 'hmar-*'

      arvbench claims --only hack-70-memory --json
    """
    from arvbench.harness.claims.experiments import CLAIMS_FILE, choose, load_experiments

    chosen = choose(load_experiments(file or CLAIMS_FILE), comma_list(only))
    if run:
        _run(chosen, out, measure=measure)
    outcomes = _known(chosen, out)
    _print(outcomes, markdown=markdown, as_json=as_json)
    if run and any(outcome.note for outcome in outcomes):
        raise typer.Exit(EXIT_FAILURES)


def _known(experiments: Sequence[Experiment], folder: Path) -> tuple[Outcome, ...]:
    """Return the outcomes of the package, and over them those of the folder."""
    from arvbench.results.claims import OUTCOMES_NAME, SHIPPED_OUTCOMES, newest_outcomes, read_outcomes

    files = [path for path in (SHIPPED_OUTCOMES, folder / OUTCOMES_NAME) if path.exists()]
    return newest_outcomes(experiments, *map(read_outcomes, files))


def _run(experiments: Sequence[Experiment], folder: Path, *, measure: bool) -> None:
    """Run experiments and write their outcomes; those of the folder that were not run now stay."""
    from rich.console import Console

    from arvbench.harness.claims.run import prepare, run_experiments, write_outcomes
    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.run.store import RecordStore
    from arvbench.results.claims import OUTCOMES_NAME, read_outcomes

    path = folder / OUTCOMES_NAME
    before = read_outcomes(path).outcomes if path.exists() else ()
    suite = prepare(experiments, folder) if measure else None
    console = Console(stderr=True)
    try:
        with ProgressBar(console, cases=suite.cases if suite else ()) as listener:
            made = run_experiments(experiments, suite, RecordStore(folder), listener)
    except KeyboardInterrupt:
        typer.echo("interrupted; finished cases are kept: run the same command again to go on", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    kept = {outcome.experiment.id: outcome for outcome in before}
    # What was not run now does not take the place of what was run before.
    kept |= {each.experiment.id: each for each in made if each.provenance or each.experiment.id not in kept}
    write_outcomes(tuple(kept.values()), folder)
    console.print(f"outcomes: {path}", markup=False, highlight=False, soft_wrap=True)


def _print(outcomes: Sequence[Outcome], *, markdown: bool, as_json: bool) -> None:
    from rich.console import Console, Group

    from arvbench.reports.claims_page import claims_page, outcomes_json
    from arvbench.reports.numbers import plain
    from arvbench.reports.tables.claims import claims_table, verdict_counts
    from arvbench.reports.tables.rich_table import titled_table

    if as_json:
        typer.echo(outcomes_json(outcomes))
    elif markdown:
        typer.echo(claims_page(outcomes), nl=False)
    else:
        console = Console()
        title = "\n".join(["Claims", *filter(None, verdict_counts(outcomes))])
        console.print(Group(*titled_table(title, claims_table(outcomes), console.width, naming=1)))
        for outcome in outcomes:
            if outcome.note:
                text = f"{outcome.experiment.id}: {plain(outcome.note)}"
                console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)
