"""Inline SVG of matplotlib figures: no outside reference, no clash of ids, colours that follow the page.

The bytes depend on the figure alone: no date, no random ids.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arvbench.reports.data import Data, Download, download
from arvbench.reports.figures.drawing import CSS_VARIABLES, RC, Drawing
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_URL = "url(#"
"""Sign of a reference: few values have one, and to look for it is cheaper than to replace none."""
_HASHED_ID = re.compile(r"[a-z][0-9a-f]{10}")
_COLOR = re.compile("|".join(CSS_VARIABLES))
_DECIMALS = re.compile(r"(?<=\.\d\d)\d+")
"""Digits beyond a hundredth of a point, which no screen shows."""
# Inline, matplotlib's style sheet would apply to the whole page, whose own sheet already has its one rule.
_DROPPED = ("metadata", "style")
_COORDINATES = ("d", "x", "y", "transform", "width", "height")


Draw = Callable[[Sequence[Record]], Drawing | None]
"""Function that draws a figure; None when the records have no data for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFigure:
    """Figure as SVG, with its data."""

    name: str
    title: str
    caption: str
    svg: str
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineFigure(DrawnFigure):
    """Figure that is ready for the page."""

    download: Download
    """Link to the data."""


def draw_figure(name: str, draw: Draw, records: Sequence[Record]) -> Drawing | None:
    """Call `draw` in the report's style."""
    with _style():
        return draw(records)


def drawn_figures(draws: Mapping[str, Draw], records: Sequence[Record]) -> Iterator[tuple[str, DrawnFigure | None]]:
    """Draw figures one after another; yield the name and SVG of each, None where the records have no data for it."""
    with _style():
        for name, draw in draws.items():
            drawing = draw(records)
            yield name, None if drawing is None else _drawn(name, drawing)


def with_link(drawn: DrawnFigure) -> InlineFigure:
    """Make the data of a figure a link."""
    return InlineFigure(
        name=drawn.name,
        title=drawn.title,
        caption=drawn.caption,
        svg=drawn.svg,
        data=drawn.data,
        download=download(f"figure-{drawn.name}", drawn.data),
    )


def inline_figure(name: str, draw: Draw, records: Sequence[Record]) -> InlineFigure | None:
    """Draw one figure and write it as SVG; None when the records have no data for it."""
    ((_, drawn),) = drawn_figures({name: draw}, records)
    return None if drawn is None else with_link(drawn)


def _drawn(name: str, drawing: Drawing) -> DrawnFigure:
    svg = _write_svg(drawing.figure, name=name, alt=drawing.alt)
    return DrawnFigure(name=name, title=drawing.title, caption=drawing.caption, svg=svg, data=drawing.data)


def figure_to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """Write `figure` as one <svg> element.

    `name` (letters, digits, hyphens) keeps its ids apart from those of other figures on the page.
    """
    with _style():
        return _write_svg(figure, name=name, alt=alt)


def _write_svg(figure: Figure, *, name: str, alt: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The text stays text: the reader's fonts have glyphs that the measuring font may lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _number_ids(root)
    _drop_unused_ids(root)
    _clean(root, prefix=f"{name}-")
    width_pt, height_pt = (float(size) for size in root.attrib["viewBox"].split()[2:])
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": f"0 0 {width_pt:g} {height_pt:g}", "role": "img", "aria-label": alt, "class": "plot"}
    )
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _number_ids(root: ElementTree.Element) -> None:
    """Replace matplotlib's hashed ids by numbers in order of appearance.

    They hash coordinates, whose last bits may differ from machine to machine; the written, rounded coordinates do not.
    """
    hashes = [name for element in root.iter() if _HASHED_ID.fullmatch(name := element.get("id", ""))]
    numbers = {name: f"{name[0]}{number}" for number, name in enumerate(hashes, start=1)}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, numbers.get(value, value))
            elif _local(key) == "href" and value.startswith("#"):
                element.set(key, f"#{numbers.get(value[1:], value[1:])}")
            elif _URL in value:
                element.set(key, _REFERENCE.sub(lambda match: f"url(#{numbers.get(match[1], match[1])})", value))


def _drop_unused_ids(root: ElementTree.Element) -> None:
    """Drop the ids that nothing refers to, except those of the panels."""
    values = [value for element in root.iter() for key, value in element.attrib.items() if key != "id"]
    used = {value[1:] for value in values if value.startswith("#")}
    used |= {name for value in values if _URL in value for name in _REFERENCE.findall(value)}
    for element in root.iter():
        if (name := element.get("id")) is not None and name not in used and not name.startswith("axes_"):
            del element.attrib["id"]


@contextmanager
def _style() -> Iterator[None]:
    """Apply matplotlib's defaults and the report's settings, regardless of the user's style.

    It takes as long as a small figure, so that all figures of a page are drawn within one.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def _clean(element: ElementTree.Element, *, prefix: str) -> None:
    """Drop namespaces, metadata, style sheets, indents and long fractions; prefix ids and references; turn colours into
    variables.
    """
    element.tag = _local(element.tag)
    if element.text is not None and not element.text.strip():
        element.text = None
    if element.tail is not None and not element.tail.strip():
        element.tail = None
    for child in list(element):
        if _local(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _clean(child, prefix=prefix)
    attributes = {_local(key): value for key, value in element.attrib.items()}
    # Hatches have their colours outside `style`, the one place where a variable surely works.
    colors = [f"{key}: {attributes.pop(key)}" for key in ("fill", "stroke") if attributes.get(key) in CSS_VARIABLES]
    if colors:
        attributes["style"] = "; ".join([*colors, *filter(None, [attributes.get("style")])])
    element.attrib.clear()
    for key, value in attributes.items():
        element.set(key, _clean_value(key, value, prefix))


def _clean_value(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return prefix + value
    if key == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    if key in _COORDINATES:
        return _DECIMALS.sub("", " ".join(value.split()))
    if _URL in value:
        value = _REFERENCE.sub(rf"url(#{prefix}\1)", value)
    return _COLOR.sub(lambda match: f"var({CSS_VARIABLES[match[0]]})", value) if key == "style" else value


def _local(name: str) -> str:
    """Strip the namespace of a tag or attribute."""
    return name.rpartition("}")[2]
