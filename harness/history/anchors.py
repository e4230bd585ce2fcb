"""The two anchors of the gate in a history: launches accepted last, and those of the last release.

They are lines of a series where machine, harness, case and scope are equal; others say nothing about its points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Literal

from arvbench.harness.check.gated import Judgement
from arvbench.harness.check.numbers import gated_numbers
from arvbench.harness.history.series import Measured, group_of
from arvbench.paths import printable
from arvbench.results.baselines import Baseline, read_baseline
from arvbench.results.history import Anchor
from arvbench.results.schema import Record

Scope = tuple[tuple[str, ...], str, str, str]
"""(group, number, unit, basis)."""
_NAMES: tuple[Literal["accepted", "release"], ...] = ("accepted", "release")


def read_anchors(paths: Sequence[Path], series: Sequence[Measured]) -> tuple[dict[Scope, list[Anchor]], list[str]]:
    """Read the anchors of baseline files that are of these series, and say which files have none.

    Raises UserError for a file that is no baseline.
    """
    scopes = {scope_of(one) for one in series}
    found: dict[Scope, list[Anchor]] = defaultdict(list)
    notices = []
    for path in paths:
        shared = [(scope, anchor) for scope, anchor in _anchors(read_baseline(path)) if scope in scopes]
        for scope, anchor in shared:
            found[scope].append(anchor)
        if not shared:
            notices.append(f"{printable(path)}: its launches are of another machine, harness or case than every series")
    return found, notices


def scope_of(one: Measured) -> Scope:
    """Return what a series and an anchor must share."""
    return one.key, one.history.number, one.history.unit, one.history.basis


def _anchors(baseline: Baseline) -> Iterator[tuple[Scope, Anchor]]:
    for name in _NAMES:
        anchor = getattr(baseline, name)
        groups: Mapping[tuple[str, ...], list[Record]] = defaultdict(list)
        for record in baseline.records_of(anchor):
            groups[group_of(record)].append(record)
        for key, records in groups.items():
            commits = {record.environment.git_commit for record in records}
            for one in gated_numbers(records, side="baseline").series:
                if one.values:
                    value = (fmean if one.judgement is Judgement.SEEDS else median)(one.values)
                    commit = commits.copy().pop() if len(commits) == 1 else None
                    yield (
                        (key, one.number, one.unit, one.basis),
                        Anchor(name=name, value=value, at=anchor.at, commit=commit),
                    )
