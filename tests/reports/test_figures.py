"""Contract of all figures in the sections, and properties of single figures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import records as make
from drifts import drift, latent_drift
from figure_records import of_tokens, sized
from figures import FIGURES
from matplotlib.backends.backend_agg import FigureCanvasAgg

from arvbench.reports.figures import quality_tokens, scaling
from arvbench.reports.figures.drawing import CSS_VARIABLES, MOST_ITEMS, MOST_PANELS, Drawing, first_of
from arvbench.reports.svg import draw_figure, figure_to_svg, inline_figure
from arvbench.results.memory import DEFINITIONS
from arvbench.results.records import read_records
from arvbench.results.schema import Record, Status

COMMITTED = Path(__file__).parent.parent / "golden" / "identities" / "records.jsonl"
FIDS = make.quality_numbers(np.random.default_rng(0))
HOSTILE = '<script>alert(1)</script>"><img onerror=x> $\\bad{ $ & _'


def drawn(name: str, records: list[Record]) -> Drawing:
    drawing = draw_figure(name, FIGURES[name], records)
    assert drawing is not None
    return drawing


def one_record(**options: Any) -> Record:
    made = {"weights": "demo", "quality": FIDS, "capacity": make.capacity(), "energy": make.ENERGY, "drift": drift()}
    return make.record("demo/var", **made, **options)


def fewest(name: str) -> list[Record]:
    """The fewest records that a figure is made of."""
    return [one_record(), *([one_record(number=1, batch=2)] if name == "scaling-batch" else [])]


@pytest.fixture(scope="module")
def drawing_of(records: list[Record]) -> Callable[[str, str], Drawing | None]:
    """Function that draws a figure of one record, many, those that are committed, or a sweep: each once."""

    def shown(name: str, of: str) -> list[Record]:
        if of == "one":
            return fewest(name)
        if of == "sweep" and name in ("drift", "energy"):
            return [one_record(number=n, batch=n + 1) for n in range(30)]
        return {"many": lambda: records, "committed": committed, "sweep": sweep}[of]()

    committed, sweep = cache(lambda: list(read_records(COMMITTED))), cache(lambda: make.sweep(80))
    return cache(lambda name, of: draw_figure(name, FIGURES[name], shown(name, of)))


@pytest.fixture(scope="module")
def svgs(records: list[Record]) -> dict[str, str]:
    """Every figure of many records."""
    return {name: inline_figure(name, FIGURES[name], records).svg for name in FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_show_is_no_figure(name: str) -> None:
    assert draw_figure(name, FIGURES[name], []) is None
    assert draw_figure(name, FIGURES[name], [make.failed(Status.ERROR, "no")]) is None


@pytest.mark.parametrize("count", ["one", "many"])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_title_axes_with_units_and_a_text_alternative(
    name: str, count: str, drawing_of: Callable[[str, str], Drawing | None]
) -> None:
    drawing = drawing_of(name, count)
    assert drawing is not None and drawing.title and drawing.caption
    assert len(drawing.alt) > 40 and re.search(r"\d", drawing.alt)
    for ax in drawing.figure.axes:
        labels = [ax.get_xlabel(), ax.get_ylabel()]
        assert any(re.search(r"\(.+\)", text) for text in labels), labels
        assert ax.get_title(loc="left")
    svg = figure_to_svg(drawing.figure, name=name, alt=drawing.alt)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") == drawing.alt


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_a_sweep_is_bounded_and_says_what_it_leaves_out(name: str) -> None:
    # One policy has a point in a figure, not one for each of its records.
    options = {"weights": "demo", "capacity": make.capacity(), "quality": FIDS, "energy": make.ENERGY, "drift": drift()}
    pairs = [(n, batch) for n in range(40) for batch in (1, 2)]
    many = [make.record(number=k, batch=b, cache=f"window:{n + 1}", **options) for k, (n, b) in enumerate(pairs)]
    policies = ("equal-memory", "energy", "drift", "scaling-batch")
    drawing = drawn(name, many if name in policies else make.sweep(80))
    axes = drawing.figure.axes
    assert len(axes) <= MOST_PANELS
    found = re.search(r"Drawn: the first (\d+) of (\d+) (?:cases|curves|points)", drawing.caption)
    assert found is not None and int(found[1]) <= MOST_ITEMS < int(found[2])
    (legend,) = drawing.figure.legends
    assert len(legend.get_texts()) <= MOST_ITEMS
    in_rows = name in ("memory", "memory-definitions")
    shown = sum(len(ax.get_yticks()) for ax in axes) if in_rows else int(found[1])
    assert shown == int(found[1])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_few_records_shows_all(name: str, drawing_of: Callable[[str, str], Drawing | None]) -> None:
    drawing = drawing_of(name, "many")
    assert drawing is not None and "Drawn:" not in drawing.caption


def test_panels_are_shown_whole_until_there_is_no_room() -> None:
    few = {"a": [1, 2], "b": [3]}
    assert first_of(few, "cases") == (few, "")
    wide = {"a": [*range(MOST_ITEMS + 3)], "b": [0]}
    shown, words = first_of(wide, "cases")
    assert shown == {"a": [*range(MOST_ITEMS)]}
    assert words == f" Drawn: the first {MOST_ITEMS} of {MOST_ITEMS + 4} cases and 1 of 2 panels; the tables have all."
    full, half, quarter = MOST_PANELS, MOST_PANELS // 2, MOST_PANELS // 4
    for count, most in {
        full + 1: full,
        2 * full - 1: full,
        2 * full: half,
        8 * full - 1: half,
        8 * full: quarter,
    }.items():
        shown, words = first_of({place: [place] for place in range(count)}, "points")
        assert [*shown] == [*range(most)] and f"{most} of {count} points" in words
    assert first_of({"a": [*range(MOST_ITEMS + 1)]}, "cases")[1].endswith("cases; the tables have all.")
    many = 8 * MOST_ITEMS
    for count, share in ((many - 1, 1), (many, 2), (4 * many - 1, 2), (4 * many, 4)):
        assert first_of({"a": [*range(count)]}, "cases")[0] == {"a": [*range(MOST_ITEMS // share)]}
    assert first_of({"a": [*range(24)]}, "curves", cases=4 * many)[0] == {"a": [*range(MOST_ITEMS // 4)]}
    pairs = {place: [place] for place in range(MOST_PANELS)}
    for cases, most in {many - 1: full, many: half, 4 * many: quarter}.items():
        assert len(first_of(pairs, "points", cases=cases)[0]) == most
    small = [*range(MOST_ITEMS // 2)]
    assert first_of({"a": small, "b": [*range(4 * many)]}, "cases")[0] == {"a": small}


@pytest.mark.parametrize("of", ["one", "many", "committed", "sweep"])
@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_a_panel_reaches_into_another_panel_or_out_of_the_figure(
    name: str, of: str, drawing_of: Callable[[str, str], Drawing | None]
) -> None:
    drawing = drawing_of(name, of)
    if of == "committed" and drawing is None:
        return  # of numbers that those records, of an earlier version, do not have
    assert drawing is not None
    assert drawing.figure.get_layout_engine() is None
    renderer = FigureCanvasAgg(drawing.figure).get_renderer()
    boxes = [ax.get_tightbbox(renderer).padded(-1) for ax in drawing.figure.axes]
    boxes += [legend.get_window_extent(renderer).padded(-1) for legend in drawing.figure.legends]
    width, height = renderer.get_canvas_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    for place, box in enumerate(boxes):
        assert not [other for other in boxes[:place] if box.overlaps(other)], f"panel {place}"


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_records_give_the_same_bytes(name: str, svgs: dict[str, str], records: list[Record]) -> None:
    assert inline_figure(name, FIGURES[name], records).svg == svgs[name]


def test_ids_of_figures_on_one_page_are_distinct_and_every_reference_is_met(svgs: dict[str, str]) -> None:
    seen: set[str] = set()
    for svg in svgs.values():
        ids = re.findall(r' id="([^"]+)"', svg)
        assert len(ids) == len(set(ids)) and not seen & set(ids)
        assert not [name for name in ids if re.search(r"[0-9a-f]{10}", name)], (
            "a hash of bits that the layout leaves open"
        )
        seen |= set(ids)
        references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
        assert references and {a or b for a, b in references} <= set(ids)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_loads_nothing_and_has_no_color_of_its_own(name: str, svgs: dict[str, str]) -> None:
    svg = svgs[name]
    assert not re.search(r"https?:|<style|<metadata|@import", svg)
    assert not [color for color in CSS_VARIABLES if color in svg]
    assert "var(--ink)" in svg


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_text_in_a_figure_not_markup_and_not_mathematics(name: str) -> None:
    quality = tuple(q.model_copy(update={"protocol_id": HOSTILE}) for q in FIDS)
    options = {"weights": "demo", "cache": HOSTILE, "case_id": HOSTILE, "environment": make.environment(cpu=HOSTILE)}
    found = {"quality": quality, "energy": make.ENERGY, "drift": drift()}
    pair = [make.record(HOSTILE, number=n, batch=1 + n, **options, **found) for n in (0, 1)]
    svg = inline_figure(name, FIGURES[name], pair).svg
    tags = {element.tag for element in ElementTree.fromstring(svg).iter()}
    assert "script" not in tags and "img" not in tags
    assert "&lt;script&gt;" in svg


def test_a_name_that_starts_with_an_underscore_is_in_the_legend() -> None:
    assert "_hidden" in inline_figure("step-latency", FIGURES["step-latency"], [make.record(case_id="_hidden")]).svg


def test_only_rows_of_one_protocol_and_one_machine_share_a_quality_plot() -> None:
    rng = np.random.default_rng(0)
    a, b = make.quality_numbers(rng, "a"), make.quality_numbers(rng, "b")
    trained = {"weights": "demo"}
    records = [
        make.record(number=0, quality=a, **trained),
        make.record(number=1, quality=a, cache="grow", **trained),
        make.record(number=2, quality=b, **trained),
        make.record(number=3, quality=a, batch=8, **trained),
        make.record(number=4, quality=a, gpu=make.GPU, **trained),
    ]
    axes = drawn("quality-throughput", records).figure.axes
    points = [[line for line in ax.lines if len(line.get_xdata()) == 1] for ax in axes]
    assert [len(found) for found in points] == [2, 1, 1, 1]


def test_unlike_conditions_never_share_a_latency_plot() -> None:
    records = [make.record(number=0), make.record(number=1, batch=8), make.record(number=2, dtype="float16")]
    axes = drawn("step-latency", records).figure.axes
    assert [len(ax.lines) for ax in axes] == [1, 1, 1]


def test_steps_are_named_below_the_axis_and_numbered_where_curves_differ() -> None:
    one = make.record(number=0)
    (ax,) = drawn("step-latency", [one]).figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()][-1] == "16x16"
    plan = tuple(step.model_copy(update={"name": f"mask {step.index}"}) for step in one.outcome.setup.plan)
    setup = one.outcome.setup.model_copy(update={"plan": plan})
    (ax,) = drawn("step-latency", [one, make.record(number=1, setup=setup)]).figure.axes
    assert ax.get_xlabel() == "Step (index)"


def test_the_latency_curve_is_the_medians_in_milliseconds() -> None:
    record = make.record(batch=2)
    (ax,) = drawn("step-latency", [record]).figure.axes
    expected = [np.median(t.samples_ns) / 1e6 for t in record.outcome.timings if t.scope.startswith("step")]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)


def test_the_cache_plot_holds_plan_live_and_allocated_of_every_policy() -> None:
    records = [make.record(number=0, cache="grow"), make.record(number=1, cache="static")]
    (ax,) = drawn("kv-cache", records).figure.axes
    assert len(ax.lines) == 5
    peak = records[0].outcome.memory.cache_planned_bytes / 2**20
    assert max(line.get_ydata()[-1] for line in ax.lines) == pytest.approx(peak)
    flat = [line for line in ax.lines if len(set(line.get_ydata())) == 1]
    assert len(flat) == 1, "only the storage of the static policy is constant"


def test_memory_bars_add_up_to_the_memory_in_use() -> None:
    record = make.record(batch=2)
    memory = record.outcome.memory
    (ax,) = drawn("memory", [record]).figure.axes
    ends = sorted({round(bar.get_x() + bar.get_width(), 3) for bar in ax.patches})
    held = (memory.weights_bytes + memory.decode_peak_bytes) / 2**20
    assert ends[-1] == pytest.approx(held, abs=1e-2)
    assert any(abs(end - (memory.weights_bytes + memory.tokens_peak_bytes) / 2**20) < 1e-2 for end in ends)


def test_every_definition_that_a_machine_has_is_a_marker_at_its_size() -> None:
    records = [make.record(number=0), make.record(number=1, gpu=make.GPU)]
    on_cpu, on_gpu = drawn("memory-definitions", records).figure.axes
    for ax, record in ((on_cpu, records[0]), (on_gpu, records[1])):
        sizes = [size for kind in DEFINITIONS if (size := kind.of(record.outcome.memory)) is not None]
        markers = [line for line in ax.lines if len(line.get_xdata()) == 1]
        assert [line.get_xdata()[0] for line in markers] == pytest.approx([size / 2**20 for size in sizes])
        (between,) = [line for line in ax.lines if len(line.get_xdata()) == 2]
        assert list(between.get_xdata()) == pytest.approx([min(sizes) / 2**20, max(sizes) / 2**20])
    labels = [text.get_text() for text in on_cpu.figure.legends[0].get_texts()]
    assert labels == [kind.label for kind in DEFINITIONS], "what one machine lacks, the other has"


def test_a_curve_joins_cases_that_differ_in_their_batch_alone() -> None:
    records = [make.record(number=n, batch=batch, speed=1 + n) for n, batch in enumerate((4, 1, 2))]
    records.append(make.record(number=3, batch=8, cache="grow"))
    (ax,) = drawn("scaling-batch", records).figure.axes
    (line,) = ax.lines
    assert list(line.get_xdata()) == [1, 2, 4]
    timings = {record.case.batch: record.outcome.timings[-1].samples_ns for record in records}
    expected = [batch / np.median(timings[batch]) * 1e9 for batch in (1, 2, 4)]
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_the_curve_of_drift_is_the_share_on_the_path_of_the_exact_case() -> None:
    (step,) = drift().steps
    shares = ((0.9, 0.4), (0.5, 0.1))
    steps = tuple(
        step.model_copy(update={"step": place, "forced_agreement": forced, "free_agreement": free})
        for place, (forced, free) in enumerate(shares)
    )
    (line,) = drawn("drift", [make.record(drift=drift(steps=steps))]).figure.axes[0].lines
    assert list(line.get_xdata()) == [0, 1] and list(line.get_ydata()) == pytest.approx([90, 50])


def test_few_places_have_a_tick_each_and_of_many_those_at_powers_of_two() -> None:
    for batches, ticks in (((1, 3, 6), [1, 3, 6]), (range(1, 10), [1, 2, 4, 8])):
        records = [make.record(number=number, batch=batch) for number, batch in enumerate(batches)]
        (ax,) = drawn("scaling-batch", records).figure.axes
        low, high = ax.get_xlim()
        assert [tick for tick in ax.get_xticks() if low <= tick <= high] == ticks


def test_a_curve_joins_the_sizes_of_image_of_one_model() -> None:
    records = [sized(0, "a", 512, scales=[1, 2]), sized(1, "a", 256, scales=[1]), sized(2, "b", 256)]
    # Fewer tokens make a smaller image of another quality, and another guidance is another case.
    records += [sized(3, "a", 128, tokens=8), sized(4, "a", 64, scales=[1], cfg=3.0)]
    drawing = draw_figure("scaling-size", scaling.draw_size, records)
    assert drawing is not None and draw_figure("scaling-size", scaling.draw_size, records[1:]) is None
    (line,) = drawing.figure.axes[0].lines
    assert list(line.get_xdata()) == [256, 512]
    assert [row[0] for row in drawing.data.rows] == [records[1].record_id, records[0].record_id]


def test_quality_is_drawn_against_the_number_of_tokens_of_cases_that_differ_in_nothing_else() -> None:
    rng = np.random.default_rng(1)
    records = [
        *(of_tokens(n, tokens, make.quality_numbers(rng)) for n, tokens in enumerate((16, 4, 8))),
        of_tokens(3, 4, make.quality_numbers(rng), cache="grow"),  # the only one of its kind
        of_tokens(4, None, make.quality_numbers(rng)),  # draws all tokens, and does not say how many
        of_tokens(5, 8, make.quality_numbers(rng, "another protocol")),
        of_tokens(6, 4, make.quality_numbers(rng, "another protocol")),
        of_tokens(7, 32, make.quality_numbers(rng), cfg=3.0),  # another guidance
    ]
    drawing = draw_figure("quality-tokens", quality_tokens.draw, records)
    assert drawing is not None and drawing.title and len(drawing.alt) > 40
    lines = [line for ax in drawing.figure.axes for line in ax.lines]
    assert [list(line.get_xdata()) for line in lines] == [[4, 8, 16], [4, 8]]
    fids = [record.outcome.quality[0].value for record in records]
    assert [list(line.get_ydata()) for line in lines] == [[fids[1], fids[2], fids[0]], [fids[6], fids[5]]]
    assert [row[0] for row in drawing.data.rows] == [records[n].record_id for n in (1, 2, 0, 6, 5)]
    assert drawing.data.headings[2:5] == ("Protocol", "Dtype", "Tokens of an image")
    assert all(re.search(r"\(.+\)", text) for ax in drawing.figure.axes for text in (ax.get_xlabel(), ax.get_ylabel()))
    for few in ([], records[:1], records[4:5]):
        assert draw_figure("quality-tokens", quality_tokens.draw, few) is None


def test_energy_is_drawn_net_and_gross_beside_throughput() -> None:
    (ax,) = drawn("energy", [one_record()]).figure.axes
    points = [(line.get_xdata()[0], *line.get_ydata()) for line in ax.lines[1:]]
    assert [y for _, y in points] == pytest.approx([100.0, 75.0]) and points[0][0] == points[1][0]


def test_drift_is_drawn_along_the_path_of_the_exact_case() -> None:
    (ax,) = drawn("drift", [one_record()]).figure.axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[100]]


def test_drift_of_latents_has_no_tokens_to_draw() -> None:
    record = make.record("demo/var", weights="demo", drift=latent_drift())
    assert draw_figure("drift", FIGURES["drift"], [record]) is None
