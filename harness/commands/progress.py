"""The progress bar of all verbs; for a suite also a line per finished speed and per finished case.

Units    _s seconds
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from arvbench.harness.commands.work import Work, in_minutes
from arvbench.harness.jobs import Event, Part
from arvbench.harness.suites.suite import Case
from arvbench.results.schema import Failed, Incorrect, Record, Status

_LONG_DETAIL = 30
"""Characters of a detail beside which the name of a case gives way."""


class ProgressBar(Progress):
    """One bar on `console` inside a `with` block: call it with the events of one job, or let it listen to a suite.

    Names from suites and records are printed literally, never as markup.
    """

    def __init__(self, console: Console, *, cases: Sequence[Case] | None = None) -> None:
        columns = [
            SpinnerColumn(),
            # A long name gives way, at its end; the numbers stay.
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=10),
            *([MofNCompleteColumn(table_column=Column(no_wrap=True))] if cases is None else []),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            *([TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True))] if cases is not None else []),
        ]
        super().__init__(*columns, console=console, transient=True, expand=True)
        self._cases = {case.title: place for place, case in enumerate(cases or (), start=1)}
        self._work = Work(cases or ())
        self._halves: dict[str, int] = {}
        """Case with a second part -> its number among them."""
        self._begun: dict[tuple[str, Part], float] = {}
        self._spent_s: dict[str, float] = {}
        total = None if cases is None else self._work.total
        self._bar = self.add_task("starting", total=total, left="")

    def __call__(self, event: Event) -> None:
        """Show the phase of one job."""
        phase = f"{event.phase}: {event.note}" if event.note else event.phase
        self.update(self._bar, description=phase, completed=event.done, total=event.total or None)

    def case_reused(self, case: Case, record: Record) -> None:
        self._work.skip(case)
        self._print(record.status, case, "already measured")

    def case_started(self, case: Case, part: Part) -> None:
        self._begun[case.title, part] = time.monotonic()
        self._work.begin(case, part)
        self._show(case, part, "starting")

    def case_event(self, case: Case, event: Event) -> None:
        part = Part.QUALITY if (case.title, Part.QUALITY) in self._begun else Part.SPEED
        self._work.advance(case, part, event)
        count = f" {event.done}/{event.total}" if event.total else ""
        self._show(case, part, event.phase.removeprefix("quality: ") + count)
        if event.note:
            self.console.print(Text(f"{'note':<11} {case.title}: {event.note}", style="yellow"))

    def case_half_finished(self, case: Case, seconds: float, *, reused: bool) -> None:
        self._halves[case.title] = len(self._halves) + 1
        self._spent_s[case.title] = seconds
        if reused:
            self._work.skip(case, Part.SPEED)
        else:
            self._work.end(case, Part.SPEED)
        detail = "already measured" if reused else f"{seconds:.1f} s"
        self._print("speed", case, detail, style="cyan")

    def case_finished(self, case: Case, record: Record) -> None:
        part = Part.QUALITY if (case.title, Part.QUALITY) in self._begun else Part.SPEED
        self._work.end(case, part)
        if part is Part.SPEED:
            self._work.skip(case, Part.QUALITY)
        began = self._begun.get((case.title, part), time.monotonic())
        seconds = self._spent_s.get(case.title, 0.0) + time.monotonic() - began
        self._print(record.status, case, f"{seconds:.1f} s {_reason(record)}".rstrip())

    def _show(self, case: Case, part: Part, doing: str) -> None:
        """Show the part, which of how many cases it is at, what it does, and the time that is left."""
        here = self._cases.setdefault(case.title, len(self._cases) + 1)
        number = self._halves.get(case.title, 0) if part is Part.QUALITY else here
        of = len(self._halves) if part is Part.QUALITY else len(self._cases) + self._work.coming
        left_s = self._work.left_s()
        self.update(
            self._bar,
            description=f"{part} {number}/{of} {doing}: {case.title}",
            completed=self._work.done,
            total=self._work.total,
            left="" if left_s is None else f"left {in_minutes(left_s)}",
        )

    def _print(self, word: str, case: Case, detail: str, *, style: str | None = None) -> None:
        """Print a line: on a terminal of its width where it can be, elsewhere whole and with what is left."""
        self.update(self._bar, completed=self._work.done, total=self._work.total)
        name, left_s = Text(case.title), self._work.left_s()
        if self.console.is_terminal and len(detail) <= _LONG_DETAIL:
            name.truncate(max(1, self.console.width - len(detail) - 14), overflow="ellipsis")
        elif not self.console.is_terminal and left_s:
            detail += f", left {in_minutes(left_s)}"
        line = Text(f"{word:<11} ", style=style or ("green" if word == Status.OK else "bold red"))
        line.append(name.plain + "  ", style="default")
        line.append(detail, style="dim")
        self.console.print(line, soft_wrap=not self.console.is_terminal)


def _reason(record: Record) -> str:
    match record.outcome:
        case Failed(reason=reason):
            return reason
        case Incorrect(correctness=check):
            largest = f"max |difference| {check.max_abs_diff:.2g} (allowed {check.tolerance:.2g})"
            if check.equal_tokens is None:
                return f"{largest}, of latents"
            return f"{largest}, equal tokens {check.equal_tokens:.3f} (required {check.required_equal_tokens:g})"
        case _:
            return ""
