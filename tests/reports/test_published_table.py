"""Measured beside published: a deviation only where the two are alike, else the reasons."""

from __future__ import annotations

import pytest
from records import GPU, adm_numbers, record

from arvbench.reports.blocks import FoldedTables, Text
from arvbench.reports.tables.published import published_blocks
from arvbench.results.published.beside import pairs_of
from arvbench.results.schema import QualityRequest


def official(*, number: int = 1, changes: dict | None = None, **options):
    """A record of VAR-d16 by the official recipe, with 50,000 samples and FID 3.55."""
    given = {"weights": "hub", "recipe": "official"} | options
    quality = QualityRequest(protocols=("adm-v1",), reference="VIRTUAL_imagenet256_labeled.npz", images=50_000)
    made = record("var-d16", number=number, gpu=GPU, **given)
    numbers = adm_numbers(made.case.model_copy(update={"quality": quality}))
    numbers = tuple(one.model_copy(update={"protocol_name": "adm-v1", **(changes or {})}) for one in numbers)
    return made.model_copy(update={"outcome": made.outcome.model_copy(update={"quality": numbers})})


def pairs(made, name="fid"):
    return [pair for pair in pairs_of(made, made.outcome) if pair.name == name]


def test_like_numbers_have_a_deviation_and_agree_within_rounding_and_interval():
    (zoo,) = [pair for pair in pairs(official()) if pair.seen == "first-hand"]
    assert zoo.published == 3.55 and zoo.unlike == () and zoo.deviation == pytest.approx(0) and zoo.agrees
    assert zoo.likely is None and "FoundationVision/VAR" in zoo.source
    (off,) = [p for p in pairs(official(changes={"value": 4.2, "interval": (4.1, 4.3)})) if p.seen == "first-hand"]
    assert off.deviation == pytest.approx(4.2 / 3.55 - 1) and not off.agrees and off.likely == "reference"


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


def test_times_are_compared_on_the_same_gpu_batch_and_dtype_alone():
    made = record("var-d24", number=2, gpu=GPU.model_copy(update={"name": "NVIDIA L20"}), batch=64, dtype="float16")
    (latency,) = [pair for pair in pairs(made, "latency per batch") if "2411.17787" in pair.source]
    assert latency.published == pytest.approx(2070) and latency.unlike == ("autocast",)
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
