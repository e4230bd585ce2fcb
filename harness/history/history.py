"""From records files to a history: read, order, join, judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from arvbench.harness.check.rule import Rule
from arvbench.harness.history.anchors import read_anchors, scope_of
from arvbench.harness.history.judge import judge
from arvbench.harness.history.order import ordered_commits
from arvbench.harness.history.read import read_usable
from arvbench.harness.history.series import series_of
from arvbench.results.history import History

_RULE: Final = Rule()


def history_of(
    paths: Sequence[Path], *, repository: Path | None = None, baselines: Sequence[Path] = (), rule: Rule = _RULE
) -> History:
    """Return the history of the records in `paths`.

    `repository` is the checkout that orders the commits; None tries the one around the working folder, and else takes
    the times. Raises UserError for files that cannot be read, fewer than two commits, and baselines that are none.
    """
    usable = read_usable(paths)
    commits, order = ordered_commits(usable.records, repository)
    series = list(series_of(usable.records, commits))
    numbers, tested = judge(series, rule)
    anchors, notices = read_anchors(baselines, series)
    return History(
        commits=tuple(commits),
        order=order,
        numbers=tuple(
            number.model_copy(update={"anchors": tuple(anchors.get(scope_of(one), ()))})
            for number, one in zip(numbers, series, strict=True)
        ),
        level=rule.level,
        tested=tested,
        least_change=rule.least_change,
        notices=(*usable.notices, *notices),
    )
