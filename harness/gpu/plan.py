"""Order and budgets of a session.

Units    _s seconds
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PartName = Literal["ceilings before", "contract", "fixtures", "dtypes", "goals", "kernels", "ceilings after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a session. A part that ends early leaves its time to the later ones."""

    name: PartName
    share: float
    """Part of the whole budget that it may take."""


PARTS: tuple[Part, ...] = (
    Part(name="ceilings before", share=0.04),
    Part(name="contract", share=0.2),
    Part(name="fixtures", share=0.14),
    Part(name="dtypes", share=0.1),
    Part(name="goals", share=0.34),
    Part(name="kernels", share=0.14),
    Part(name="ceilings after", share=0.04),
)
BUDGET_S = 9 * 60.0
DRY_BUDGET_S = 240.0


def deadlines(budget_s: float) -> dict[PartName, float]:
    """Return, by part, the second of the session at which it is stopped."""
    ends: dict[PartName, float] = {}
    end = 0.0
    for part in PARTS:
        end += part.share * budget_s
        ends[part.name] = end
    return ends
