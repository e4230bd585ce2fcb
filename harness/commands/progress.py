"""What a person sees while something runs: a progress bar; of a suite, also one line per finished case."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from arvbench.harness.jobs import Event
from arvbench.harness.suites.suite import Case
from arvbench.results.schema import Failed, Incorrect, Record, Status


class ProgressListener:
    """Draws on `console` while inside `with`. Names from suites and records are shown as they are, never as markup."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=total)

    def __enter__(self) -> ProgressListener:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def case_reused(self, case: Case, record: Record) -> None:
        self._say(record.status, case, "already measured")
        self._progress.advance(self._task)

    def case_started(self, case: Case) -> None:
        self._progress.update(self._task, description=f"{case.case_id}: starting")

    def case_event(self, case: Case, event: Event) -> None:
        counted = f" {event.done}/{event.total}" if event.total else ""
        self._progress.update(self._task, description=f"{case.case_id}: {event.phase}{counted}")
        if event.note:
            self._console.print(Text(f"{'note':<11} {case.case_id}: {event.note}", style="yellow"))

    def case_finished(self, case: Case, record: Record) -> None:
        seconds = (record.finished - record.started).total_seconds()
        self._say(record.status, case, " ".join(part for part in (f"{seconds:.1f} s", _reason(record)) if part))
        self._progress.advance(self._task)

    def _say(self, status: Status, case: Case, what: str) -> None:
        line = Text(f"{status.value:<11} ", style="green" if status is Status.OK else "bold red")
        line.append(f"{case.case_id}  ", style="default")
        line.append(what, style="dim")
        self._console.print(line)


class PhaseProgress:
    """One bar for the phases of one job, on `console` while inside `with`; itself the listener."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> PhaseProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        said = f"{event.phase}: {event.note}" if event.note else event.phase
        self._progress.update(self._task, description=said, completed=event.done, total=event.total or None)


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
