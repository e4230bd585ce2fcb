"""Figures of all sections of a report, by name."""

from __future__ import annotations

from arvbench.reports.sections import SECTIONS, Figure

FIGURES = {part.name: part.draw for section in SECTIONS for part in section.parts if isinstance(part, Figure)}
