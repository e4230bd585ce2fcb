"""Figures of all sections of a report, by name."""

from __future__ import annotations

from arvbench.reports.sections import SECTIONS, Figure

_OWN_RECORDS = ("scaling-size", "published", "quality-tokens")
"""Figures of records that no ordinary run has: tests of their own make them."""
FIGURES = {
    part.name: part.draw
    for section in SECTIONS
    for part in section.parts
    if isinstance(part, Figure) and part.name not in _OWN_RECORDS
}
