"""Quality in a report: intervals, protocols, findings, recipes; in tables, on the page, in Markdown and a terminal."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
import records as make
from figures import FIGURES
from report_text import column, in_terminal

from arvbench.reports.content import make_report
from arvbench.reports.html import to_html
from arvbench.reports.markdown import to_tables
from arvbench.reports.numbers import significant
from arvbench.reports.svg import draw_figure
from arvbench.reports.table import NOTHING
from arvbench.reports.tables.provenance import deviations_table, recipes_table
from arvbench.reports.tables.quality import findings_table, interval_text, protocols_table, quality_table, value_text
from arvbench.reports.tables.results import results_table
from arvbench.results.records import RecordsFile
from arvbench.results.schema import CaseConfig, Finding, Quality, QualityRequest, Record

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


def number(**changes: object) -> Quality:
    fields = {
        "metric": "fid", "value": 2.3123, "protocol": "adm-v1: fid (adm-inception, pool) against r.npz, arvbench",
        "protocol_id": "0123456789ab", "n_samples": 50_000,
    }  # fmt: skip
    return Quality(**(fields | changes))


def report_of(tmp_path, *records: Record) -> tuple[str, str]:
    """(page, Markdown)."""
    report = make_report([RecordsFile(path=tmp_path / "records.jsonl", records=records, damaged_lines=())])
    return to_html(report), to_tables(report)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (None, ""),
        ((2.271, 2.3584), "[2.271, 2.358]"),
        ((2.31231, 2.31234), "[2.31231, 2.31234]"),
        ((0.0, 0.0), "[0, 0]"),
    ],
)
def test_an_interval_has_digits_enough_to_tell_its_ends_apart(interval, text: str) -> None:
    assert interval_text(number(interval=interval)) == text
    assert value_text(number()) == "2.312"


def test_a_quality_number_stands_with_interval_spread_and_count() -> None:
    record = make.record(weights="demo", quality=(number(interval=(2.27, 2.36), spread=0.05),))
    (cell,) = column(quality_table([record]), "FID")
    assert (cell.text, cell.detail) == ("2.312", "[2.270, 2.360], ± 0.0500, n = 50,000")
    (cell,) = column(results_table([record]), "FID")
    assert cell.detail == "[2.270, 2.360], ± 0.0500"
    assert "2.31 [2.27, 2.36]" in in_terminal(record)


def test_a_metric_without_a_label_is_shown_under_its_own_name() -> None:
    quality = (number(metric="brand-new", protocol_id="beef"), number())
    record = make.record(weights="demo", quality=quality)
    assert [c.label for c in quality_table([record]).columns] == ["Case", "FID", "brand-new"]
    table = protocols_table([record])
    assert [cell.text for cell in column(table, "Metric")] == ["FID", "brand-new"]
    assert [cell.text for cell in column(table, "Better")] == ["lower", NOTHING.text]


@pytest.mark.parametrize(
    ("metric", "label", "better"),
    [
        ("sfid", "sFID", "lower"),
        ("is-shuffled", "IS, shuffled", "higher"),
        ("fid-infinity", "FID∞", "lower"),
        ("precision-fp32", "Precision, fp32", "higher"),
        ("coverage", "Coverage", "higher"),
        ("cmmd", "CMMD", "lower"),
        ("per-class-fid", "FID by class, mean", "lower"),
    ],
)
def test_new_metrics_are_written_as_the_field_writes_them(metric: str, label: str, better: str) -> None:
    table = protocols_table([make.record(weights="demo", quality=(number(metric=metric),))])
    assert [cell.text for cell in column(table, "Metric")] == [label]
    assert [cell.text for cell in column(table, "Better")] == [better]


def test_a_column_names_its_protocol_and_older_words_leave_the_id_alone() -> None:
    old = number(protocol="fid (digits-cnn) against digits, torch-fidelity 0.4.0", protocol_id="beef")
    table = quality_table([make.record(weights="demo", quality=(number(), old))])
    assert [c.note for c in table.columns if c.label == "FID"] == ["adm-v1 0123456789ab", "beef"]


def test_the_name_of_a_protocol_is_read_from_its_own_field() -> None:
    named = number(protocol="words that begin otherwise", protocol_name="adm-v2")
    table = quality_table([make.record(weights="demo", quality=(named,))])
    assert [c.note for c in table.columns if c.label == "FID"] == ["adm-v2 0123456789ab"]


def test_parameters_of_a_protocol_are_shown() -> None:
    quality = number(metric="precision", detail={"parameters": {"neighbours": 3}, "other": [1]})
    table = protocols_table([make.record(weights="demo", quality=(quality,))])
    assert [cell.text for cell in column(table, "Parameters")] == ["neighbours=3"]


def test_fids_of_several_protocols_have_a_panel_each() -> None:
    quality = (number(interval=(2.2, 2.4)), number(protocol="clip-fid: fid", protocol_id="ffff", value=9.0))
    record = make.record(weights="demo", quality=quality)
    axes = draw_figure("quality-throughput", FIGURES["quality-throughput"], [record]).figure.axes
    protocols = [ax.get_title(loc="left").rpartition(", ")[2] for ax in axes]
    assert protocols == ["adm-v1 0123456789ab", "clip-fid ffff"]
    assert [2.2, 2.4] in [list(line.get_ydata()) for line in axes[0].lines]
    assert axes[0].get_ylim()[1] > 2.4


def test_columns_of_a_terminal_are_told_apart_by_protocol_or_else_by_id() -> None:
    other = number(protocol="clip-fid: fid", protocol_id="ffffeeee1111")
    text = in_terminal(make.record(weights="demo", quality=(number(), other)))
    head = text.split("Quality")[1].split("──")[0]
    assert "clip-fid" in head and "adm-v1" in head and "0123" not in head
    assert "FID: protocol adm-v1 0123456789ab" in text
    text = in_terminal(make.record(weights="demo", quality=(number(), number(protocol_id="ffffeeee1111"))))
    assert "ffffee" in text.split("Quality")[1].split("──")[0] and "ffffeeee1111" in text


def test_a_terminal_leaves_room_for_names_and_counts_the_columns_left_out() -> None:
    quality = tuple(number(protocol=f"p{i}: fid", protocol_id=f"{i}", value=i) for i in range(7))
    text = in_terminal(make.record(weights="demo", quality=quality), width=36)
    assert "left to the report, for want of room: FID p5, FID p6" in " ".join(text.split())
    head = text.split("Quality")[1].split("──")[0]
    assert "p4" in head and "p5" not in head


def test_findings_are_listed_with_warnings_first() -> None:
    table = findings_table([make.record(findings=make.FINDINGS)])
    assert [(cell.text, cell.detail, cell.tone) for cell in column(table, "Severity")] == [
        ("warning", "label-histogram", "warn"), ("note", "few-samples", "plain"),
    ]  # fmt: skip
    assert "28 to 77" in column(table, "What was found")[0].text
    assert not findings_table([make.record()])


def test_warnings_are_notices_and_notes_are_not(tmp_path) -> None:
    quality = make.quality_numbers(np.random.default_rng(0))
    records = [make.record(number=n, case_id=f"c{n}", quality=quality, findings=make.FINDINGS) for n in range(3)]
    page, markdown = report_of(tmp_path, *records)
    for text in (page, markdown):
        notices = text.split("What to know about the samples")[0]
        assert "c0: classes have 28 to 77" in notices
        assert "(2 cases more with such a warning: see Quality)" in notices.replace("\\", "")
        assert "biased upwards by about" not in notices.replace("\\", "")
    assert markdown.count("28 to 77") == 4
    assert in_terminal(*records, width=200).count("warning: classes have 28 to 77") == 3


def test_findings_without_numbers_still_have_their_section(tmp_path) -> None:
    page, markdown = report_of(tmp_path, make.record(findings=make.FINDINGS))
    assert 'id="quality"' in page and "biased upwards" in page and "## Quality" in markdown


def test_hostile_findings_and_recipes_are_text(tmp_path) -> None:
    finding = Finding(code=HOSTILE, severity="warning", text=HOSTILE + "\n# heading | cell")
    setup = make.record(recipe="official").outcome.setup.model_copy(
        update={
            "recipe": HOSTILE,
            "recipe_notes": (HOSTILE,),
            "recipe_deviations": {HOSTILE: {"used": HOSTILE, "official": HOSTILE}, "odd": HOSTILE, "more": {"a": 1}},
        }
    )
    quality = (number(protocol=f"adm-v1: {HOSTILE}", detail={"parameters": {HOSTILE: HOSTILE}}),)
    record = make.record(weights="demo", setup=setup, findings=(finding,), quality=quality)
    page, markdown = report_of(tmp_path, record)
    assert "alert(1)" in page and "<script>alert" not in page and "<img src=x" not in page
    assert "<script>" not in markdown and "\n# heading" not in markdown
    assert HOSTILE in in_terminal(record, width=300)


def by_recipe(**changes: object) -> Record:
    return make.record(weights="hub", recipe="official", **changes)


def test_deviations_from_a_recipe_stand_with_the_official_value() -> None:
    record = by_recipe(settings={"cfg": 2.0})
    setup = record.outcome.setup
    more = {
        "quality.labels": {"used": "balanced", "official": "uniform"},
        "quality.resize": {"used": None, "official": "x"},
    }
    changed = setup.model_copy(update={"recipe_deviations": setup.recipe_deviations | more})
    table = deviations_table(
        [record.model_copy(update={"outcome": record.outcome.model_copy(update={"setup": changed})})]
    )
    assert [tuple(cell.text for cell in row[1:]) for row in table.rows] == [
        ("quality.labels", "balanced", "uniform"), ("quality.resize", "none", "x"), ("cfg", "2.0", "1.5"),
    ]  # fmt: skip


def test_a_recipe_lists_changes_and_unavoidable_differences(tmp_path) -> None:
    kept, changed = by_recipe(number=0, case_id="kept"), by_recipe(number=1, settings={"cfg": 2.0})
    table = recipes_table([kept, changed, make.record(number=2)])
    assert [(cell.text, cell.tone) for cell in column(table, "Changed")] == [("nothing", "good"), ("cfg", "warn")]
    assert column(table, "What differs whatever is set")[0].text.startswith("seeds: officially")
    page, markdown = report_of(tmp_path, kept, changed)
    for text in (page, markdown):
        assert "1 case ran with settings that differ from the official ones" in text
        assert "Official recipes" in text
    assert "not the recipe: cfg=2.0 (official: 1.5)" in " ".join(in_terminal(kept, changed).split())
    assert "not the recipe" not in in_terminal(kept)


def test_the_suite_of_a_report_repeats_changes_that_are_a_fields_default(tmp_path) -> None:
    from arvbench.harness.suites.recipes import recipe_for
    from arvbench.harness.suites.suite import load_suite
    from arvbench.reports.reproduction import reproduction_suite

    layer = recipe_for("llamagen-b-384").layer()
    quality = QualityRequest(protocols=("adm-v1",), **(layer["quality"] | {"labels": "balanced", "resize": None}))
    case = CaseConfig(
        model="llamagen-b-384",
        weights="hub",
        recipe="official",
        dtype="float32",
        settings=layer["settings"],
        quality=quality,
    )
    record = make.record().model_copy(update={"case": case})
    (tmp_path / "again.yaml").write_text(reproduction_suite([record]))
    assert [again.config for again in load_suite(str(tmp_path / "again.yaml")).cases] == [case]


@pytest.mark.parametrize(
    "changes",
    [
        {"value": nan},
        {"value": inf},
        {"value": -inf, "spread": nan},
        {"interval": (nan, inf)},
        {"interval": (-inf, 3.0)},
        {"metric": "label-accuracy", "value": nan},
    ],
    ids=repr,
)
def test_a_number_that_is_not_one_is_said_and_left_out_of_figures(tmp_path, changes) -> None:
    whole = make.record("demo/var", number=0, weights="demo", quality=(number(),))
    broken = make.record("demo/mvar", number=1, weights="demo", quality=(number(**changes),))
    page, markdown = report_of(tmp_path, whole, broken)
    numbers = [end for value in changes.values() for end in (value if isinstance(value, tuple) else (value,))]
    words = [significant(value) for value in numbers if isinstance(value, float)]
    assert words and all(word in page and word in markdown for word in words)
    assert "2.312" in page
    assert "nan" not in page.split("<script")[0].lower().replace("nano", "")
    assert in_terminal(whole, broken, width=80)
