"""Figures of all sections of a report, by name."""

from __future__ import annotations

from arvbench.reports.sections import SECTIONS, Figure

_OWN_RECORDS = ("scaling-size", "published", "quality-tokens")
"""Figures of records that no ordinary run has: tests of their own make them."""
EVERY_FIGURE = {part.name: part.draw for section in SECTIONS for part in section.parts if isinstance(part, Figure)}
FIGURES = {name: draw for name, draw in EVERY_FIGURE.items() if name not in _OWN_RECORDS}
