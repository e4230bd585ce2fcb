"""Table of a stored baseline for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from arvbench.harness.check.audit import Audit, Share
from arvbench.harness.check.rule import Rule
from arvbench.reports.numbers import plain, shorten
from arvbench.reports.table import NOTHING, Cell, Column, make_table
from arvbench.reports.tables.changes import percent, short_names
from arvbench.reports.tables.rich_table import titled_table
from arvbench.results.baselines import Anchor, Baseline, Noise

if TYPE_CHECKING:
    from rich.console import RenderableType

_RULE: Final = Rule()


def baseline_table(baseline: Baseline, *, width: int = 80) -> RenderableType:
    """Make a Rich table of the noise of every number, with the anchors above."""
    from rich.console import Group
    from rich.text import Text

    noise = baseline.calibration.noise
    shared, cases, numbers = short_names([(one.case, one.number) for one in noise], width)
    columns: list[Column[Noise]] = [
        Column("Case", cell=lambda one: Cell(text=cases[one.case])),
        Column("Number", cell=lambda one: Cell(text=numbers[one.number])),
        Column("MDE", cell=lambda one: _share(one.mde), numeric=True),
        Column("Between", note="launches", cell=lambda one: _share(one.between_cv), numeric=True),
        Column("Within", note="a launch", cell=lambda one: _share(one.within_cv), numeric=True),
        Column("Modes", cell=lambda one: Cell(text=str(one.modes), tone="warn" if one.modes > 1 else "plain")),
    ]
    one_case = len(cases) == 1
    table = make_table("Noise", columns[one_case:], noise)
    title = f"Noise of {len(baseline.calibration.launches)} launches, {baseline.calibration.at:%Y-%m-%d}"
    return Group(
        Text(f"suite {plain(baseline.suite)} on {plain(baseline.hardware)}", style="bold"),
        Text(f"accepted: {_anchor(baseline, baseline.accepted)}"),
        Text(f"release:  {_anchor(baseline, baseline.release)}"),
        Text(),
        *titled_table(f"{title}: {shared}" if shared else title, table, width, naming=1 if one_case else 2),
        Text("MDE: smallest change that a check would show, with 95 % power", style="dim"),
        *([Text(_blind(noise), style="yellow")] if _blind(noise) else []),
    )


def _blind(noise: Sequence[Noise]) -> str:
    """Say of how many numbers a check on this machine could say nothing; "" for none."""
    known = [one for one in noise if one.mde is not None]
    blind = [one for one in known if one.mde is not None and one.mde > _RULE.blind]
    if not blind:
        return ""
    return (
        f"{len(blind)} of {len(known)} numbers that vary have an MDE above {_RULE.blind:.0%}: with this noise a check "
        "is inconclusive about them"
    )


def audit_sentences(audit: Audit) -> list[str]:
    """Say what an audit found, one sentence per line."""
    return [
        f"{audit.splits:,} random splits into {audit.launches} + {audit.launches} launches of one commit, "
        f"{audit.numbers} numbers that vary.",
        f"False alarms: a regression in {_share_text(audit.regression)} of the splits, an improvement in "
        f"{_share_text(audit.improvement)}.",
        f"Inconclusive: a number in {_share_text(audit.inconclusive)} of the splits.",
        "The intervals hold the luck of the splits, not that of the launches: another day may differ by more.",
    ]


def _share_text(share: Share) -> str:
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _anchor(baseline: Baseline, anchor: Anchor) -> str:
    commits = {record.environment.git_commit for record in baseline.records_of(anchor)}
    commit = (commits.pop() or "no commit")[:12] if len(commits) == 1 else f"{len(commits)} commits"
    return f"{anchor.at:%Y-%m-%d} by {shorten(anchor.by, 40)}, {plain(commit)}: {shorten(anchor.reason, 200)}"


def _share(value: float | None) -> Cell:
    return NOTHING if value is None else Cell(text=percent(value, sign=""), sort=value)
