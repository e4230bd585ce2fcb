"""The answer at the head of a report: honest comparisons, fronts, words, and where they are written."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import records as make
from PIL import Image
from rich.console import Console

from arvbench.reports.answer.answer import MOST_STATEMENTS, answer_of
from arvbench.reports.answer.fields import fields_of
from arvbench.reports.answer.measures import CACHE, SPEED, Measure, Reading, front, quality_measures
from arvbench.reports.answer.statements import share_words
from arvbench.reports.build import build_report
from arvbench.reports.markdown import MOST_LINES
from arvbench.reports.names import short_names
from arvbench.reports.tables.terminal_answer import terminal_answer
from arvbench.results.records import read_records
from arvbench.results.schema import Quality, Record, Status, Timing, WarmUp

DEMO = Path(__file__).parents[1] / "golden" / "identities" / "records.jsonl"


def fid(value: float, protocol: str = "a1") -> tuple[Quality, ...]:
    """A FID with an interval of a tenth of its value to each side."""
    return (
        Quality(metric="fid", value=value, interval=(0.9 * value, 1.1 * value), protocol="adm-v1: fid",
                protocol_name="adm-v1", protocol_id=protocol, n_samples=1000),
    )  # fmt: skip


def images(ms: float, *, samples: int = 7, spread: float = 0.01, batch: int = 1) -> tuple[Timing, ...]:
    """Times of whole calls around `ms`, up to `spread` of it away."""
    ns = tuple(int(1e6 * ms * (1 + spread * (place / (samples - 1) - 0.5))) for place in range(samples))
    return (Timing(scope="images", samples_ns=ns, images=batch, forward_rows=2, clock="wall"),)


def case(model: str, ms: float, number: int, **options: Any) -> Record:
    """A record with one timing, on weights that are there."""
    times = {key: options.pop(key) for key in ("samples", "spread") if key in options}
    timings = images(ms, batch=options.get("batch", 1), **times)
    return make.record(model, number=number, timings=timings, **({"weights": "hub"} | options))


def texts(records: list[Record], kind: str = "") -> list[str]:
    return [each.text for each in answer_of(records).statements if kind in ("", each.kind)]


def test_a_faster_model_with_the_lower_fid_is_said_so_with_the_numbers() -> None:
    records = [case("a", 20, 0, quality=fid(4)), case("b", 10, 1, quality=fid(2))]
    assert texts(records, "speed") == [
        "b draws 2.0x the images/s of a at batch 1 (100 against 50.0) and has the lower FID (2.00 against 4.00)"
    ]
    (speed,) = [each for each in answer_of(records).statements if each.kind == "speed"]
    assert speed.record_ids == (records[1].record_id, records[0].record_id)
    assert speed.values["ratio"] == pytest.approx(2.0)


def test_random_weights_and_speeds_without_an_interval_are_said_first() -> None:
    random = {"weights": "random:0", "samples": 2}
    answer = answer_of([case("var-d16", 20, 0, **random), case("nar-b", 10, 1, **random)])
    assert answer.sentence.endswith("of 2 of 2 cases; the weights are random, so there is no quality.")
    assert answer.cautions[0].startswith("No speed has an interval, which takes 6 calls or launches")
    several = answer_of([case("var-d16", 20, 0, **random), case("nar-b", 10, 1)])
    assert several.sentence.endswith("; no quality was measured.") and "All intervals" in several.cautions[0]


def test_of_equal_caches_the_one_that_backends_take_themselves_speaks_for_the_model() -> None:
    caches = ["grow", "static", "grow", None]
    records = [case("a", 10 + place, place, cache=cache) for place, cache in enumerate(caches)]
    for asked, speaker in ((records, records[3]), (records[:3], records[1])):
        ((field,),) = fields_of(asked).values()
        assert field.models == {"a": speaker}


@pytest.mark.parametrize(
    ("options", "why"),
    [({"spread": 0.5}, "intervals overlap"), ({"samples": 5}, "fewer than 6 samples have no interval")],
)
def test_no_difference_is_claimed_where_none_is_shown(options: dict[str, Any], why: str) -> None:
    (text,) = texts([case("a", 11, 0, **options), case("b", 10, 1, **options)], "speed")
    assert text.startswith("No difference in images/s at batch 1 is shown between b and a"), why


def test_models_without_a_shown_difference_are_named_from_the_better_to_the_worse() -> None:
    times, fids = {"a": 13, "b": 10, "c": 12, "d": 11}, {"a": 4.0, "b": 4.2, "c": 3.9, "d": 4.1}
    records = [
        case(name, ms, place, spread=0.9, quality=fid(fids[name])) for place, (name, ms) in enumerate(times.items())
    ]
    assert "between b, d, c and a (" in texts(records, "speed")[0]
    assert "between c, a, d and b (" in texts(records, "quality")[0]


@pytest.mark.parametrize(
    "unlike",
    [
        {"gpu": make.GPU},
        {"dtype": "bfloat16"},
        {"batch": 2},
        {"backend": "reference"},
        {"environment": make.environment(source_sha256="77" * 32)},
    ],
    ids=lambda unlike: next(iter(unlike)),
)
def test_unlike_records_are_never_compared(unlike: dict[str, Any]) -> None:
    records = [case("a", 20, 0, quality=fid(4)), case("b", 10, 1, quality=fid(2), **unlike)]
    assert texts(records) == []
    assert all(len(field.models) == 1 for fields in fields_of(records).values() for field in fields)


def test_numbers_of_different_protocols_are_not_compared() -> None:
    (text,) = texts([case("a", 20, 0, quality=fid(4)), case("b", 10, 1, quality=fid(2, "z9"))], "speed")
    assert "FID" not in text
    assert not texts([case("a", 20, 0, quality=fid(4)), case("b", 10, 1, quality=fid(2, "z9"))], "quality")


def test_the_worse_side_of_a_faster_model_is_said_too() -> None:
    (text,) = texts([case("a", 20, 0, quality=fid(2)), case("b", 10, 1, quality=fid(4))], "speed")
    assert "but has the higher FID (4.00 against 2.00)" in text
    unsteady = case("b", 10, 1, quality=fid(4.1), warmup=WarmUp(samples_ns=(9, 5, 7), steady=False))
    (text,) = texts([case("a", 20, 0, quality=fid(4)), unsteady], "speed")
    assert text.endswith("; no difference in FID is shown (unsteady: b)")


def test_backends_of_one_model_are_compared_and_the_judge_is_no_competitor() -> None:
    records = [case(model, ms, n, backend=backend) for n, (model, ms, backend) in enumerate(
        [("a", 10, "optimized"), ("b", 20, "optimized"), ("a", 30, "reference"), ("b", 20, "reference")]
    )]  # fmt: skip
    found = texts(records)
    assert "Backend optimized over reference, images/s at batch 1: a 3.0x, b no difference is shown" in found
    assert len(answer_of(records).tables) == 1 and not any(text.startswith("reference:") for text in found)


@pytest.mark.parametrize("shaken", ["optimized", "reference"])
def test_a_ratio_of_backends_says_when_one_of_them_was_unsteady(shaken: str) -> None:
    unsteady = {shaken: {"warmup": WarmUp(samples_ns=(9, 5, 7), steady=False)}}
    records = [
        case("a", ms, number, backend=backend, **unsteady.get(backend, {}))
        for number, (backend, ms) in enumerate([("optimized", 10), ("reference", 30)])
    ]
    assert "Backend optimized over reference, images/s at batch 1: a 3.0x (unsteady)" in texts(records)


def test_failures_are_always_among_the_findings_shown() -> None:
    ran = [case(f"m{n}", 10 + 5 * (n % 3), n, batch=1 + n // 3, gpu=(None, make.GPU)[n % 2]) for n in range(40)]
    shown = answer_of([*ran, make.failed(Status.OOM, "too little", number=99)]).shown
    assert len(shown) <= MOST_STATEMENTS and shown[-1].text == "1 of 41 cases have no speed: 1 oom"


def test_a_front_keeps_what_no_other_beats_and_ties() -> None:
    records = {name: case(name, ms, n, quality=fid(q)) for n, (name, ms, q) in enumerate(
        [("fast", 10, 4), ("good", 20, 2), ("both worse", 30, 5), ("tie of good", 20.01, 2.1)]
    )}  # fmt: skip
    (quality,) = quality_measures(list(records.values()))
    assert front((quality, SPEED), records) == ["fast", "good", "tie of good"]
    assert front((quality, SPEED), {}) == []


def test_exact_numbers_differ_where_they_are_unequal_and_others_where_intervals_are_apart() -> None:
    assert Reading(1, exact=True).apart(Reading(2, exact=True))
    assert not Reading(1, exact=True).apart(Reading(1, exact=True))
    assert Reading(1, 0.9, 1.1).apart(Reading(2, 1.2, 3)) and not Reading(1, 0.9, 1.2).apart(Reading(2, 1.2, 3))
    assert not Reading(1).apart(Reading(9, 8, 10)) and not Reading(1, exact=True).apart(Reading(9, 8, 10))
    measure = Measure(name="n", label="N", better="lower", reading=CACHE.reading)
    assert measure.leaders({}) == [] and measure.best({}) is None


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.5, "half"), (0.108, "a ninth of"), (1 / 3, "a third of"), (0.23, "0.23x"), (0.9, "0.90x"), (0.001, "0.0010x")],
)
def test_shares_in_words(share: float, words: str) -> None:
    assert share_words(share) == words


def test_the_demo_is_answered_by_its_records() -> None:
    records = list(read_records(DEMO).records)
    demo = [record for record in records if record.suite == "demo"]
    found = texts(demo)
    assert found[0].startswith("demo/par draws 1.9x the images/s of demo/var at batch 50 ")
    assert (
        "demo/mvar keeps a ninth of the cache of demo/var at batch 50 (4.10 against 38.1 MiB); demo/hmar keeps none"
        in found
    )
    (table,) = answer_of(demo).tables
    assert [row[0].text for row in table.rows].count("demo/var") == 1 and len(table.rows) == 7


def test_one_failed_record_and_one_model_have_an_answer_without_comparison() -> None:
    failed = answer_of([make.failed(Status.OOM, "too little")])
    assert failed.tables == () and "speed and memory of 0 of 1 cases" in failed.sentence
    alone = answer_of([case("a", 10, 0)])
    assert alone.statements == () and len(alone.tables) == 1


def test_a_case_that_failed_early_names_no_machine_of_its_own() -> None:
    sentence = answer_of([case("a", 10, 0), make.failed(Status.OOM, "too little", number=1)]).sentence
    assert "on AMD EPYC 9554, 2 threads, in float32" in sentence


def test_markdown_is_short_and_data_names_records(tmp_path: Path) -> None:
    records = make.sweep(32)
    make.write_records(tmp_path / "records.jsonl", records)
    build_report([tmp_path], tmp_path / "r.html", tables=[tmp_path / "tables.md"])
    markdown = (tmp_path / "r.md").read_text()
    assert len(markdown.splitlines()) <= MOST_LINES and markdown.startswith("# arvbench report: imagenet256\n")
    data = json.loads((tmp_path / "r.json").read_text())
    ids = {record.record_id for record in records}
    assert set(data["record_ids"]) == ids and data["format"] == 1
    best = [best for field in data["fields"] for best in field["best"]]
    assert best and all(each["record_id"] in ids and each["interval"][0] <= each["value"] for each in best
                        if each["measure"] == "images/s")  # fmt: skip
    assert all(set(front["record_ids"]) <= ids for field in data["fields"] for front in field["fronts"])
    assert all(set(finding["record_ids"]) <= ids for finding in data["findings"])
    page = (tmp_path / "r.html").read_text()
    assert page.index('class="lead"') < page.index('id="figure-quality-throughput"') < page.index("Summary by model")
    assert page.index("Summary by model") < page.index('class="facts"') < page.index('<section id="results">')


def test_the_table_of_a_terminal_does_not_wrap() -> None:
    demo = [record for record in read_records(DEMO).records if record.suite == "demo"]
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(terminal_answer(answer_of(demo), width=80))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in lines)
    start = next(n for n, line in enumerate(lines) if line.startswith("──"))
    assert [line.split()[0] for line in lines[start + 1 : start + 8]] == [
        "demo/var", "demo/mvar", "demo/hmar", "demo/llamagen", "demo/nar", "demo/par", "demo/flexvar",
    ]  # fmt: skip


def test_names_hold_what_differs_and_stay_unique() -> None:
    demo = [record for record in read_records(DEMO).records if record.suite == "demo"]
    names = list(short_names(demo).values())
    assert len(set(names)) == 16 and "demo/nar b50 optimized" in names
    same = [case("a", 10, n, case_id="mine", environment=make.environment(git_commit=f"{n}" * 40)) for n in (1, 2)]
    assert len(set(short_names(same).values())) == 2 and short_names([]) == {}


def test_hostile_names_in_findings_stay_text(tmp_path: Path) -> None:
    bad = '<script>alert(1)</script>"><img src=x onerror=alert(1)> [l](https://e.vil)'
    setup = make.setup(bad, make.record().case, weights_random=False)
    records = [case("a", 20, 0), case("b", 10, 1, setup=setup)]
    make.write_records(tmp_path / "records.jsonl", records)
    build_report([tmp_path], tmp_path / "r.html")
    for text in ((tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()):
        assert "<script>alert" not in text and "<img src=x" not in text
    assert "[l](" not in (tmp_path / "r.md").read_text()


def sheet(folder: Path, name: str, **changes: Any) -> Any:
    return make.sample_sheet(folder, path=f"{name}.png", **changes)


def test_a_strip_has_the_first_image_of_every_class_of_each_model(tmp_path: Path) -> None:
    records = [case(name, 10, n, sample_sheet=sheet(tmp_path, name)) for n, name in enumerate("ab")]
    other = sheet(tmp_path, "c", columns=4, image_px=32)
    records.append(case("c", 10, 2, sample_sheet=other))
    make.write_records(tmp_path / "records.jsonl", records)
    build_report([tmp_path], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count('alt="Images by ') == 2, "a sheet of other columns has other noise"
    start = page.index('<img src="data:image/png;base64,', page.index('class="models"')) + 10
    data = base64.b64decode(page[start : page.index('"', start)].partition(",")[2])
    strip = np.asarray(Image.open(io.BytesIO(data)))
    whole = np.asarray(Image.open(io.BytesIO(make.sheet_png())))
    assert strip.shape == (32, 320, 3)
    for place in range(10):
        assert (strip[:, 32 * place : 32 * place + 32] == whole[32 * place : 32 * place + 32, :32]).all()


@pytest.mark.parametrize(
    "changes", [{"image_px": 31}, {"columns": 7}, {"columns": 0}, {"image_px": 10**6}, {"sha256": "0" * 64}]
)
def test_a_sheet_that_is_not_what_it_says_has_no_strip(tmp_path: Path, changes: dict[str, Any]) -> None:
    records = [case(name, 10, n, sample_sheet=sheet(tmp_path, name, **changes)) for n, name in enumerate("ab")]
    make.write_records(tmp_path / "records.jsonl", records)
    build_report([tmp_path], tmp_path / "r.html")
    assert 'class="models"' not in (tmp_path / "r.html").read_text()
