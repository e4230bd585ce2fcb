"""The rule of the gate: its constants, and the launches that it needs.

docs/gate.md says it in words and has the table of what it does to five kinds of noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import Final

_MOST_WAYS: Final = 10**15
"""Ways to share launches among the sides beyond which there are always enough; more would not fit into a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Constants of the rule. Shares and relative changes are fractions: 0.03 is 3 %."""

    level: float = 0.01
    """Probability that a run without any change blames a number, over all its numbers (Holm)."""
    least_change: float = 0.03
    """Relative change of the medians below which nothing is a regression or an improvement."""
    share_of_detectable: float = 0.55
    """Part of the smallest detectable change that the medians have to differ by as well."""
    superiority: float = 0.9
    """Least probability that a launch of one side is slower than one of the other, among the pairs seen."""
    blind: float = 0.10
    """Smallest detectable change beyond which a number is inconclusive, and never passes."""
    power: float = 0.95
    """Probability with which the smallest detectable change is found."""
    exact_change: float = 0.001
    """Relative change of an exact number of bytes that counts."""
    quality_change: float = 0.01
    """Relative change of the mean of a quality number that counts, when it lies outside the window of the seeds."""
    quality_seeds: int = 5
    """Least run seeds per side of a quality number that moves with the seed."""
    screen_launches: int = 4
    """Launches per side of the first stage, which only says what the second looks at."""
    screen_change: float = 0.02
    screen_p: float = 0.1
    """A number is suspected when its medians differ by more than `screen_change`, or its p is below `screen_p`."""
    launches: int = 10
    """Fresh launches per side of the second stage, which alone decides."""
    gap: float = 1.0
    gap_change: float = 0.03
    """Launches have two modes when the largest gap between neighbours is more than `gap` ranges of either side of it,
    and more than `gap_change` of the value."""
    floor_launches: int = 10
    """Launches per side from which two modes are judged by their second-fastest launches."""


def of_look(rule: Rule, look: int) -> Rule:
    """Return the rule of one look at the launches of a check, 1 for the first: a part of the level is spent by each.

    The first one spends nine tenths, each later one half of what is left: 5 %, 2.5 %, ... of the level. However many
    looks there are, their parts together are at most the level.
    """
    return replace(rule, level=rule.level * (0.9 if look == 1 else 0.1 * 0.5 ** (look - 1)))


def launches_needed(numbers: int, rule: Rule) -> int:
    """Return the fewest launches per side with which one of `numbers` >= 1 gated numbers can be blamed at all.

    Even when every launch of one side is slower than all of the other, n + n launches have an exact p of
    1 / binomial(2n, n), and Holm compares the smallest p with level / numbers.
    """
    launches = 2
    while not can_alarm(launches, launches, numbers, rule):
        launches += 1
    return launches


def can_alarm(base: int, head: int, numbers: int, rule: Rule) -> bool:
    """Return whether `base` and `head` launches suffice to blame one of `numbers` gated numbers."""
    return min(base, head) >= 2 and numbers <= rule.level * min(comb(base + head, base), _MOST_WAYS)
