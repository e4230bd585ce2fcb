"""Published numbers: typed, bounded, joined by their ids, and second-hand rows marked."""

from __future__ import annotations

import csv
import re

import pytest

from arvbench.adapters.registry import MODELS
from arvbench.errors import UserError
from arvbench.results.published import tables

KINDS = {
    "quality": tables.QualityRow,
    "speed": tables.SpeedRow,
    "checkpoints": tables.CheckpointRow,
    "sampling": tables.SamplingRow,
    "claims": tables.ClaimRow,
    "seeds": tables.SeedRow,
    "sources": tables.SourceRow,
    "models": tables.ModelRow,
}
WITH_SOURCES = ("quality", "speed", "checkpoints", "sampling", "claims")
SECOND_HAND = re.compile(r"index id|ai-paper-reviewer|quoting|\bnotes?\b|digest|search excerpt|issues/", re.IGNORECASE)
INDEX_IDS = re.compile(r"index ids? (\d+(?:, \d+)*)")
PLACE = re.compile(
    r"index ids? \d|arXiv \d{4}\.\d{5}|[\w-]+[/+][\w.-]+|README|abstract|issues/|HF (tree|blob|commit)", re.I
)
"""A document by index id or number, a file of a repository, the abstract of the named system, or a page of a hub."""


def rows(name):
    return tables.read_table(tables.FOLDER / f"{name}.csv", KINDS[name])


def source_of(row) -> str:
    return getattr(row, "source", None) or row.source_file


@pytest.mark.parametrize("name", KINDS)
def test_every_row_is_of_its_kind(name):
    assert len(rows(name)) > 20


@pytest.mark.parametrize("name", WITH_SOURCES)
def test_every_source_names_a_place_and_its_index_ids_are_in_the_table_of_sources(name):
    known = {index for row in rows("sources") for index in row.ids.split()}
    for row in rows(name):
        assert PLACE.search(source_of(row)), source_of(row)
        text = " ".join(str(cell) for cell in row.model_dump().values())
        named = {index for found in INDEX_IDS.findall(text) for index in found.split(", ")}
        assert named <= known, (row, named - known)


@pytest.mark.parametrize("name", WITH_SOURCES)
def test_rows_seen_in_other_peoples_texts_are_marked(name):
    for row in rows(name):
        if SECOND_HAND.search(source_of(row)):
            assert row.seen == "second-hand", row
    assert {row.seen for row in rows(name)} == {"first-hand", "second-hand"}


def test_models_of_this_package_join_published_names():
    published = {row.model for name in ("quality", "speed", "checkpoints", "sampling") for row in rows(name)}
    for row in rows("models"):
        assert row.model in MODELS and row.published_as in published
    unjoined = {name for name in MODELS if not name.startswith("demo/")} - {row.model for row in rows("models")}
    no_number_of_its_own = {"hmar-d30-512"}
    assert unjoined == no_number_of_its_own


def test_recipes_quote_rows_of_the_published_settings():
    with (tables.FOLDER / "sampling_recipes.csv").open(encoding="utf-8", newline="") as lines:
        quoted = {row["published_as"] for row in csv.DictReader(lines)}
    assert quoted <= {row.model for row in rows("sampling")}


def test_units_and_ranges_are_those_of_the_metrics():
    units = {
        "throughput": {"img/s", "it/s (=img/s)"},
        "latency per batch": {"s"},
        "peak memory": {"MB", "GB"},
        "relative time": {"x VAR-d30", "x VAR-d36-s", "x of VAR-d30", "x (unit of VAR-d12/d16 = 1)"},
    }
    for row in tables.speed_rows():
        assert row.unit in units.get(row.metric, {row.unit}), row
        assert row.number is None or row.number > 0
    assert [row.value for row in tables.speed_rows() if row.number is None] == ["OOM (>100GB)"] * 2
    assert all(row.metrics for row in tables.quality_rows() if row.family == "VAR" and row.seen == "first-hand")


def test_ids_of_claims_are_unique_and_what_counts_is_stated_or_said_not_to_be():
    claims = tables.claim_rows()
    assert len(claims) == len(rows("claims"))
    assert claims["hmar-memory"].batch_rule == "equal" and claims["var-20x"].sync_rule == "not stated"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model,published_as\nvar-d16\n", "line 2: not as many cells"),
        ("model,published_as\nvar-d16,VAR-d16,more\n", "line 2: not as many cells"),
        ("model,published\nvar-d16,VAR-d16\n", "unknown key 'published'; did you mean 'published_as'"),
        ("model,published_as\n,VAR-d16\n", "line 2: model: String should have at least 1 character"),
        ("model,published_as\nvar-d16,\xff\n", "cannot read"),
        ("model,published_as\n" + "a,b\n" * 10_001, "more than 10,000 rows"),
        ("model,published_as\n" + "x" * 2**20, "at most 1,048,576 are read"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(tmp_path, text, reason):
    path = tmp_path / "models.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=re.escape(reason)) as refused:
        tables.read_table(path, tables.ModelRow)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value", "rounding"), [("3.30", 3.3, 0.005), ("3.3", 3.3, 0.05), ("301", 301, 0.5), ("0.80", 0.8, 0.005)]
)
def test_a_number_is_known_as_closely_as_it_was_printed(text, value, rounding):
    printed = tables.Printed(text)
    assert printed.value == value and printed.rounding == pytest.approx(rounding)


def test_the_digits_of_the_table_are_kept():
    found = [printed.text for row in tables.quality_rows() for printed in row.metrics.values()]
    names = ("fid", "is", "precision", "recall", "sfid")
    with (tables.FOLDER / "quality.csv").open(newline="") as lines:
        cells = [line[name] for line in csv.DictReader(lines) for name in names]
    assert sorted(found) == sorted(cell for cell in cells if cell not in ("", tables.NOT_STATED))
    assert "301" in found, "no whole number, whose rounding a float would lose"


def test_a_number_out_of_its_range_is_refused_by_name(tmp_path):
    lines = (tables.FOLDER / "quality.csv").read_text().splitlines()
    path = tmp_path / "quality.csv"
    for cell, value in (("3.55", "-1"), ("3.55", "nan"), ("3.55", "good")):
        path.write_text("\n".join([lines[0], next(line for line in lines if "3.55" in line).replace(cell, value, 1)]))
        with pytest.raises(UserError, match="line 2: fid"):
            tables.read_table(path, tables.QualityRow)
