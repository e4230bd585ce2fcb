"""Reports on disk: complete, escaped, self-contained, deterministic; and the outputs that are refused."""

from __future__ import annotations

import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import records as make
import typer
from figures import FIGURES
from typer.testing import CliRunner

from arvbench.errors import UserError
from arvbench.harness.commands.report import report as report_command
from arvbench.reports.build import build_report
from arvbench.results.schema import Record, Status

SCRIPT, IMAGE, MARKDOWN = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "| **b** [l](https://e.vil)\n# h",
)
HOSTILE = f"{SCRIPT}{IMAGE}{MARKDOWN}"


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name]

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


@pytest.fixture(scope="module")
def built(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    out = tmp_path_factory.mktemp("out")
    build_report([run_folder], out / "report.html", tables=[out / "tables.md"])
    return (out / "report.html").read_text(), (out / "tables.md").read_text()


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without anything to draw, and with a cut last line."""
    folder = tmp_path_factory.mktemp("small")
    records = [make.failed(Status.OOM, "too little memory", number=0), make.incorrect(number=1, dtype="bfloat16")]
    path = make.write_records(folder / "records.jsonl", records)
    path.write_text(path.read_text() + '{"schema_version": 1, "rec')
    return folder


def hostile_records(folder: Path) -> list[Record]:
    """Records with hostile text in every field that is free text."""
    rng = np.random.default_rng(0)
    template = make.record(weights="demo", quality=make.quality_numbers(rng))
    setup = template.outcome.setup.model_copy(
        update={
            **dict.fromkeys(
                ("model", "family", "settings_source", "weights_source", "cache_policy", "attention"), HOSTILE
            ),
            **{key: {HOSTILE: HOSTILE} for key in ("kernels", "weights_sha256", "settings", "settings_deviations")},
            "plan": tuple(
                step.model_copy(update={"name": HOSTILE, "kind": HOSTILE}) for step in template.outcome.setup.plan
            ),
        }
    )
    gpu = make.GPU.model_copy(update={"name": HOSTILE, "driver": HOSTILE, "throttle_reasons": (HOSTILE,)})
    environment = make.environment(
        gpu=gpu,
        **dict.fromkeys(("arvbench_version", "source_sha256", "git_commit", "python", "os", "cpu", "cuda"), HOSTILE),
        libraries={HOSTILE: HOSTILE, "torch": HOSTILE},
    )
    common = {"environment": environment, "suite": HOSTILE, "case_id": HOSTILE}
    quality = tuple(
        q.model_copy(update=dict.fromkeys(("metric", "protocol", "protocol_id", "note"), HOSTILE))
        for q in make.quality_numbers(rng)
    )
    check = template.outcome.correctness.model_copy(update={"judge": HOSTILE})
    sheet = make.sample_sheet(folder).model_copy(update={"path": HOSTILE})
    fid = template.outcome.quality[0].model_copy(update={"protocol_id": HOSTILE})
    measured = {"setup": setup, "quality": (*quality, fid), "correctness": check, "sample_sheet": sheet}
    return [
        make.record(HOSTILE, number=0, weights=HOSTILE, cache=HOSTILE, **measured, **common),
        make.failed(Status.ERROR, HOSTILE, detail=f"{HOSTILE}\n{HOSTILE}", model=HOSTILE, number=1, **common),
    ]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("hostile")
    make.write_records(folder / "records.jsonl", hostile_records(folder))
    build_report([folder], folder / "report.html", tables=[folder / "tables.md"])
    return (folder / "report.html").read_text(), (folder / "tables.md").read_text()


def test_nothing_in_a_record_becomes_markup(hostile: tuple[str, str], built: tuple[str, str]) -> None:
    html, _ = hostile
    page = Page(html)
    assert page.count("script") == 1 and page.count("img") == 0
    assert not page.attributes("onerror")
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in Page(built[0]).tags} | {"p"}
    assert "<script>alert" not in html and "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 60
    assert any(SCRIPT in text for text in page.texts), "the name is still readable"


def test_nothing_in_a_record_becomes_markdown(hostile: tuple[str, str]) -> None:
    _, markdown = hostile
    text, _, reproduction = markdown.partition("## How to reproduce\n")
    assert "<" not in text and "https://" not in text and "**b**" not in text and "[l](" not in text
    assert not re.search(r"^# h", text, re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, "a pipe or a newline in a name broke a row"
    outside = [line for line in reproduction.splitlines() if line and not line.startswith("    ")]
    assert outside == ["Save as `reproduce.yaml`:", "Then run:"], "something left its block"


def test_the_page_refers_to_nothing_outside_itself(built: tuple[str, str]) -> None:
    page = Page(built[0])
    references = [*page.attributes("src"), *page.attributes("href"), *page.attributes("xlink:href")]
    assert references and all(value.startswith(("data:", "#")) for value in references)
    assert not re.search(r"@import|url\((?!#)|https?://", built[0])
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_every_section_is_on_the_page_and_in_the_markdown(built: tuple[str, str]) -> None:
    html, markdown = built
    page = Page(html)
    links = [value for value in page.attributes("href") if value.startswith("#") and value != "#results"]
    assert {link[1:] for link in page.attributes("href") if link.startswith("#")} <= set(page.attributes("id"))
    assert len(links) >= 11
    assert page.count("svg") == len(FIGURES) and page.count("img") == 2
    for heading in ("Results", "Quality", "Latency", "Cache", "Memory", "Settings", "Environment"):
        assert f"## {heading}\n" in markdown


def test_tables_and_figures_are_accessible(built: tuple[str, str]) -> None:
    page = Page(built[0])
    assert page.count("caption") == page.count("table") > 10
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))


def test_the_same_records_give_the_same_bytes(run_folder: Path, built: tuple[str, str], tmp_path: Path) -> None:
    build_report([run_folder], tmp_path / "again.html", tables=[tmp_path / "tables.md"])
    assert (tmp_path / "again.html").read_text() == built[0]
    assert (tmp_path / "tables.md").read_text() == built[1]


def test_a_cut_line_is_reported_and_costs_nothing_else(small_run: Path, tmp_path: Path) -> None:
    summary = build_report([small_run], tmp_path / "r.html")
    assert summary.records == 2
    assert len(summary.damaged_lines) == 1 and "cut in mid-line" in summary.damaged_lines[0]
    assert "cut in mid-line" in (tmp_path / "r.html").read_text()
    assert "cut in mid-line" in (tmp_path / "r.md").read_text()


def test_a_record_given_twice_counts_once(small_run: Path, tmp_path: Path) -> None:
    summary = build_report([small_run, small_run / "records.jsonl"], tmp_path / "r.html")
    assert summary.records == 2


def test_older_records_of_a_case_are_counted_and_not_shown(tmp_path: Path) -> None:
    case = {"case_id": "the case"}
    old = [make.record(number=n, environment=make.environment(git_commit=f"{n}" * 40), **case) for n in (1, 2)]
    make.write_records(
        tmp_path / "records.jsonl", [*old, make.failed(Status.OOM, "since the change", number=3, **case)]
    )
    summary = build_report([tmp_path], tmp_path / "r.html")
    assert summary.records == 1 and summary.statuses == {Status.OOM: 1}
    for text in ((tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()):
        assert "2 older records of the same cases are in the files and not shown" in text
        assert "2222" not in text


def test_runs_that_are_compared_keep_a_record_each(tmp_path: Path) -> None:
    for number, run in enumerate(("before", "after")):
        commit = make.environment(git_commit=f"{number}" * 40)
        records = [make.record(number=2 * number + n, environment=commit, case_id="the case") for n in (0, 1)]
        make.write_records(tmp_path / run / "records.jsonl", records)
    summary = build_report(
        [tmp_path / "before", tmp_path / "after"], tmp_path / "r.html", tables=[tmp_path / "r-tables.md"]
    )
    markdown = (tmp_path / "r-tables.md").read_text()
    assert summary.records == 2
    assert "the case · 000000000" in markdown and "the case · 111111111" in markdown
    assert "2 older records of the same cases are" in markdown


def test_a_record_shown_from_another_file_is_not_counted_as_missing(tmp_path: Path) -> None:
    old, new = make.record(number=0), make.record(number=1)
    make.write_records(tmp_path / "before" / "records.jsonl", [old])
    make.write_records(tmp_path / "after" / "records.jsonl", [old, new])
    assert build_report([tmp_path / "before", tmp_path / "after"], tmp_path / "r.html").records == 2
    assert "older record" not in (tmp_path / "r.md").read_text()


def test_each_runs_pictures_are_looked_for_beside_its_own_records(tmp_path: Path) -> None:
    for number, name in enumerate(("first", "second")):
        sheet = make.sample_sheet(tmp_path / name, path=f"{name}.png")
        make.write_records(tmp_path / name / "records.jsonl", [make.record(number=number, sample_sheet=sheet)])
    build_report([tmp_path / "first", tmp_path / "second"], tmp_path / "r.html")
    assert Page((tmp_path / "r.html").read_text()).count("img") == 2


def test_a_run_in_which_everything_failed_still_has_a_report(tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", [make.failed(Status.OOM, "too little memory")])
    summary = build_report([tmp_path], tmp_path / "r.html")
    assert summary.statuses == {Status.OOM: 1}
    html = (tmp_path / "r.html").read_text()
    assert "too little memory" in html and 'id="quality"' not in html


def test_no_records_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("{cut")
    with pytest.raises(UserError, match=r"no records in .*1 damaged"):
        build_report([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_report_never_overwrites_records_or_itself(tmp_path: Path) -> None:
    path = make.write_records(tmp_path / "records.jsonl", [make.record()])
    before = path.read_bytes()
    with pytest.raises(UserError, match="holds records"):
        build_report([tmp_path], path)
    with pytest.raises(UserError, match="holds records"):
        build_report([tmp_path], tmp_path / "r.html", path)
    with pytest.raises(UserError, match="cannot both be"):
        build_report([tmp_path], tmp_path / "r", tmp_path / "r")
    assert path.read_bytes() == before


def test_an_unwritable_place_is_a_user_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", [make.incorrect()])
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "r.html", tmp_path / "folder"):
        with pytest.raises(UserError, match="cannot write"):
            build_report([tmp_path], out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "records.jsonl"]


def test_a_report_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", [make.incorrect()])
    plain = tmp_path / "plain"
    plain.touch()
    build_report([tmp_path], tmp_path / "r.html")
    assert stat.S_IMODE((tmp_path / "r.html").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def run(*arguments: object):
    app = typer.Typer()
    app.command()(report_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_both_files_and_prints_where(small_run: Path, tmp_path: Path) -> None:
    result = run(small_run, "--out", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "r.html") in result.stdout and str(tmp_path / "r.md") in result.stdout
    assert "1 oom" in result.stdout
    assert "damaged" in result.stderr
    assert (tmp_path / "r.html").exists() and (tmp_path / "r.md").exists()


def test_the_command_prints_json(small_run: Path, tmp_path: Path) -> None:
    result = run(small_run, "--out", tmp_path / "r.html", "--markdown", tmp_path / "other.md", "--json")
    summary = json.loads(result.stdout)
    assert summary["records"] == 2 and summary["statuses"] == {"incorrect": 1, "oom": 1}
    assert summary["markdown"] == str(tmp_path / "other.md")


def test_machines_of_a_merged_file_are_told_apart_by_processor_and_cores(tmp_path: Path) -> None:
    machines = [make.environment(cpu=cpu, cores=cores) for cpu, cores in (("A", 2), ("A", 8), ("B", 8))]
    records = [make.record(number=n, environment=one, case_id="the case") for n, one in enumerate(machines)]
    make.write_records(tmp_path / "records.jsonl", records)
    assert build_report([tmp_path], tmp_path / "r.html").records == 3
    text = (tmp_path / "r.html").read_text()
    assert "older record" not in text and "Environment 3 of 3" in text
    for where in ("A, 2 threads · 2 cores", "A, 2 threads · 8 cores", "B, 2 threads · 8 cores"):
        assert f"the case · {where}" in text
