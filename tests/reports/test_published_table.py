"""Measured beside published: a deviation, in table and figure, only where the two are alike, else the reasons."""

from __future__ import annotations

import pytest
from figure_records import official
from matplotlib.backends.backend_agg import FigureCanvasAgg
from records import GPU, record

from arvbench.reports.blocks import FoldedTables, Text
from arvbench.reports.figures import published
from arvbench.reports.svg import draw_figure, inline_figure
from arvbench.reports.tables.published import published_blocks
from arvbench.results.published.beside import pairs_of


def pairs(made, name="fid"):
    return [pair for pair in pairs_of(made, made.outcome) if pair.name == name]


def test_like_numbers_have_a_deviation_and_agree_within_rounding_and_interval():
    (zoo,) = [pair for pair in pairs(official()) if pair.seen == "first-hand"]
    assert (
        zoo.published_text == "3.55"
        and zoo.published == 3.55
        and zoo.unlike == ()
        and zoo.deviation == pytest.approx(0)
        and zoo.agrees
    )
    assert zoo.likely is None and "FoundationVision/VAR" in zoo.source
    (off,) = [p for p in pairs(official(changes={"value": 4.2, "interval": (4.1, 4.3)})) if p.seen == "first-hand"]
    assert off.deviation == pytest.approx(4.2 / 3.55 - 1) and not off.agrees and off.likely == "reference"


@pytest.mark.parametrize(("value", "agrees"), [(3.5549, True), (3.5451, True), (3.5551, False), (3.5449, False)])
def test_without_an_interval_a_number_agrees_within_half_of_the_last_printed_digit(value, agrees):
    changes = {"value": value, "interval": None}
    (pair,) = [pair for pair in pairs(official(changes=changes)) if pair.seen == "first-hand"]
    assert pair.agrees == agrees


def test_of_unlike_numbers_the_most_alike_come_first():
    records = [
        official(settings={"cfg": 4.0}, changes={"n_samples": 5000}),
        official(number=2, changes={"n_samples": 9}),
    ]
    (folded,) = [block for block in published_blocks(records) if isinstance(block, FoldedTables)]
    (table,) = folded.tables
    place = next(place for place, column in enumerate(table.columns) if column.label == "Unlike in")
    counts = [row[place].text.count(",") for row in table.rows]
    assert counts == sorted(counts) and len(set(counts)) > 1


@pytest.mark.parametrize(
    ("options", "changes", "cause"),
    [
        ({"weights": "random:0"}, {}, "weights"),
        ({"settings": {"cfg": 4.0}}, {}, "cfg"),
        ({"settings": {"top_k": 10}}, {}, "settings"),
        ({"recipe": None}, {}, "settings"),
        ({}, {"n_samples": 5_000}, "samples"),
        ({}, {"protocol_name": "clean-fid"}, "protocol"),
    ],
)
def test_unlike_numbers_name_the_difference_and_have_no_deviation(options, changes, cause):
    found = pairs(official(changes=changes, **options))
    assert all(pair.unlike and pair.deviation is None and pair.likely is None for pair in found)
    assert [cause in pair.unlike for pair in found if pair.seen == "first-hand"] == [True]


def test_those_that_may_be_compared_can_be_asked_for_alone():
    gpu = GPU.model_copy(update={"name": "NVIDIA L20"})
    for made in (official(), official(recipe=None), record("var-d24", gpu=gpu, batch=64, dtype="float16")):
        every = list(pairs_of(made, made.outcome))
        alike = list(pairs_of(made, made.outcome, only_alike=True))
        assert every and alike == [pair for pair in every if not pair.unlike]


def test_times_are_compared_on_the_same_gpu_batch_and_dtype_alone():
    made = record("var-d24", number=2, gpu=GPU.model_copy(update={"name": "NVIDIA L20"}), batch=64, dtype="float16")
    (latency,) = [pair for pair in pairs(made, "latency per batch") if "2411.17787" in pair.source]
    assert (
        latency.published == pytest.approx(2070)
        and latency.published_text == "2070"
        and latency.unlike == ("autocast",)
    )
    on_cpu = record("var-d24", number=3, batch=1)
    assert all("hardware" in pair.unlike for pair in pairs_of(on_cpu, on_cpu.outcome))


def test_a_method_a_lossy_cache_and_a_demo_model_have_nothing_beside_them():
    for made in (record("var-d16", method="skip:2"), record("demo/var")):
        assert list(pairs_of(made, made.outcome)) == []


def test_the_section_has_the_comparable_numbers_first_and_marks_second_hand_ones():
    text, alike, folded = published_blocks([official(), record("var-d16", number=5)])
    assert isinstance(text, Text) and isinstance(folded, FoldedTables)
    headings = [column.label for column in alike.columns]
    assert "Deviation" in headings and "Unlike in" not in headings
    (unlike,) = folded.tables
    assert len(unlike.rows) <= 30 and "Deviation" not in [column.label for column in unlike.columns]
    flags = {flag for row in (*alike.rows, *unlike.rows) for cell in row for flag in cell.flags}
    assert "second-hand" in flags
    assert published_blocks([record("demo/var")]) == [] and published_blocks([]) == []


def test_names_hold_what_differs_within_the_table():
    records = [record("demo/var", number=1), record("var-d16", number=2), record("var-d16", number=3, batch=2)]
    (folded,) = published_blocks(records)[1:]
    assert {row[0].text for row in folded.tables[0].rows} <= {"var-d16 b1", "var-d16 b2"}
    (alone,) = published_blocks(records[:2])[1:]
    assert {row[0].text for row in alone.tables[0].rows} == {"var-d16"}


def drawing(*records):
    return draw_figure("published", published.draw, list(records))


def test_deviations_are_drawn_with_interval_rounding_and_likely_cause():
    records = [official(), official(number=2, changes={"value": 4.2, "interval": (4.1, 4.3)}, batch=2)]
    made = drawing(*records)
    (ax,) = made.figure.axes
    agreeing, off = (pair for record in records for pair in pairs(record) if pair.seen == "first-hand")
    points = [line for line in ax.lines if len(line.get_xdata()) == 1 and line.get_marker() in ("o", "s")]
    drawn = {line.get_ydata()[0]: line.get_xdata()[0] for line in points}
    assert min(map(abs, drawn.values())) < 1e-9
    assert len(drawn) == len(ax.get_yticks()) == len(made.data.rows)
    row = next(place for place, x in drawn.items() if x == pytest.approx(100 * off.deviation))
    ends = [100 * (end / 3.55 - 1) for end in off.interval]
    assert any(
        list(line.get_xdata()) == pytest.approx(ends) for line in ax.lines if list(line.get_ydata()) == [row] * 2
    )
    assert {text.get_text() for text in ax.texts} == {"likely: reference"} and ax.get_xlabel().endswith("(%)")
    assert [bar.get_width() for bar in ax.patches][row] == pytest.approx(200 * off.rounding / off.published)
    labels = [text.get_text() for text in made.figure.legends[0].get_texts()]
    assert labels == ["agrees, within rounding and interval", "deviates"]
    causes = {made.data.rows[place][made.data.headings.index("Likely cause")] for place in range(len(drawn))}
    assert causes == {None, "reference"} and "likely cause reference" in made.alt and agreeing.agrees


def test_numbers_that_are_unlike_are_not_drawn():
    assert drawing() is None and drawing(record("demo/var"), official(recipe=None)) is None


def test_many_deviations_are_bounded_and_stay_within_the_figure():
    records = [official(number=n, batch=1 + n) for n in range(30)]
    made = drawing(*records)
    assert "Drawn: the first 24 of" in made.caption and len(made.data.rows) >= 30
    renderer = FigureCanvasAgg(made.figure).get_renderer()
    width, height = renderer.get_canvas_width_height()
    boxes = [ax.get_tightbbox(renderer).padded(-1) for ax in made.figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    svg = inline_figure("published", published.draw, records).svg
    assert svg == inline_figure("published", published.draw, records).svg and "var(--series-3)" in svg
