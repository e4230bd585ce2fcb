"""HTML writer: one self-contained page, whose content policy forbids every request.

Text from records goes through the template's escaping. Trusted markup comes from this package alone: its style sheet,
its script, words of `blocks.Text`, and figures whose texts the SVG writer has escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from arvbench.reports.content import Report
from arvbench.reports.table import Cell

TEMPLATES = Path(__file__).parent / "templates"
_INLINE = (
    (r"`([^`]+)`", r"<code>\1</code>"),
    (r"\*([^*]+)\*", r"<em>\1</em>"),
    (r"\^([^^]+)\^", r"<sup>\1</sup>"),
    (r"\[([^]]+)\]\((#[a-z0-9-]+)\)", r'<a href="\2">\1</a>'),
)


def to_html(report: Report) -> str:
    """Write a report as a page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(sort_key=sort_key, anchor=anchor, marked_up=marked_up)
    environment.filters["kind"] = lambda block: type(block).__name__
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        report=report,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def sort_key(cell: Cell) -> str | None:
    """Return the sort key as the page's script reads it; None for a cell that sorts behind all others."""
    key = cell.sort
    if isinstance(key, float | int):
        return None if math.isnan(key) else repr(float(key)).replace("inf", "Infinity")
    return key


def anchor(text: str) -> str:
    """Turn a heading into the id of its section."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def marked_up(words: str) -> Markup:
    """Turn the markup of a `Text` into HTML: `code`, *emphasis*, ^superscripts^ and [links](#section)."""
    html = str(escape(words))
    for pattern, element in _INLINE:
        html = re.sub(pattern, element, html)
    return Markup(html)
