"""Order of commits: that of the checkout that knows them all, else that of their first measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arvbench.errors import HostError, UserError
from arvbench.harness.check.git import checkout_at
from arvbench.harness.history.read import Dated


def ordered_commits(records: Sequence[Dated], repository: Path | None) -> tuple[list[str], str]:
    """Return the commits of records, the oldest first, and the source of that order in words.

    Raises UserError when `repository` was named and does not know them all; the working folder is tried without a word.
    """
    first: dict[str, Dated] = {}
    for dated in records:
        commit = str(dated.record.environment.git_commit)
        if commit not in first or dated.at < first[commit].at:
            first[commit] = dated
    by_time = sorted(first, key=lambda commit: first[commit].at)
    try:
        order = checkout_at(repository or Path()).order_of(by_time)
    except (UserError, HostError):
        if repository is not None:
            raise
        return by_time, "by their first measurements: no checkout here knows all of these commits"
    return order, "by the checkout"
