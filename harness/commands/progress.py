"""The progress bar of all verbs; for a suite also one line per finished case."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from arvbench.harness.jobs import Event
from arvbench.harness.suites.suite import Case
from arvbench.results.schema import Failed, Incorrect, Record, Status

_LEFT = (
    TextColumn("left", table_column=Column(no_wrap=True)),
    TimeRemainingColumn(table_column=Column(no_wrap=True)),
)


class ProgressBar(Progress):
    """One bar on `console` inside a `with` block: call it with the events of one job, or let it listen to a suite.

    Names from suites and records are printed literally, never as markup.
    """

    def __init__(self, console: Console, *, cases: int | None = None) -> None:
        super().__init__(
            SpinnerColumn(),
            # A long name gives way, at its end; the numbers stay.
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=10),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            *(_LEFT if cases is not None else ()),
            console=console,
            transient=True,
            expand=True,
        )
        self._bar = self.add_task("starting", total=cases)

    def __call__(self, event: Event) -> None:
        """Show the phase of one job."""
        phase = f"{event.phase}: {event.note}" if event.note else event.phase
        self.update(self._bar, description=phase, completed=event.done, total=event.total or None)

    def case_reused(self, case: Case, record: Record) -> None:
        self._print_outcome(case, record.status, "already measured")

    def case_started(self, case: Case) -> None:
        self.update(self._bar, description=f"starting {case.title}")

    def case_event(self, case: Case, event: Event) -> None:
        count = f" {event.done}/{event.total}" if event.total else ""
        self.update(self._bar, description=f"{event.phase}{count}: {case.title}")
        if event.note:
            self.console.print(Text(f"{'note':<11} {case.title}: {event.note}", style="yellow"))

    def case_finished(self, case: Case, record: Record) -> None:
        seconds = (record.finished - record.started).total_seconds()
        self._print_outcome(case, record.status, f"{seconds:.1f} s {_reason(record)}".rstrip())

    def _print_outcome(self, case: Case, status: Status, detail: str) -> None:
        line = Text(f"{status.value:<11} ", style="green" if status is Status.OK else "bold red")
        line.append(f"{case.title}  ", style="default")
        line.append(detail, style="dim")
        self.console.print(line)
        self.advance(self._bar)


def _reason(record: Record) -> str:
    match record.outcome:
        case Failed(reason=reason):
            return reason
        case Incorrect(correctness=check):
            return (
                f"max |difference| {check.max_abs_diff:.2g} (allowed {check.tolerance:.2g}), "
                f"equal tokens {check.equal_tokens:.3f} (required {check.required_equal_tokens:g})"
            )
        case _:
            return ""
