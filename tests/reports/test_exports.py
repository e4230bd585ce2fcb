"""Data beside the page: CSV of every figure and table, LaTeX for papers, Parquet; hostile names stay text."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pandas
import pytest
import records as make
import typer
from figures import FIGURES
from typer.testing import CliRunner

from arvbench.errors import HostError, UserError
from arvbench.harness.commands.report import report as report_command
from arvbench.reports.build import build_report
from arvbench.reports.data import download, make_data, to_csv
from arvbench.reports.extremes import MOST_ROWS, cut
from arvbench.reports.latex import escape
from arvbench.reports.numbers import number_cell, text_cell
from arvbench.reports.table import Column, Table, make_table
from arvbench.results.schema import Record

pytestmark = pytest.mark.usefixtures("drawn_once")

SPECIAL = "".join(map(chr, range(32, 127)))
HOSTILE = r"\input{/etc/passwd} % & $x_1^2$ #1 ~ [2ex] *{9} ``--'' <b> | 中 é “q” \end{tabular} \\"


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def numbers(count: int, ids: bool = False) -> Table:
    columns: list[Column[int]] = [
        Column("Name", cell=lambda n: text_cell(f"row {n}")),
        Column("Size", "MiB", numeric=True, cell=lambda n: number_cell((n * 37) % count / 3)),
    ]
    made = make_table("Sizes", columns, range(count))
    return Table(
        caption=made.caption,
        columns=made.columns,
        rows=made.rows,
        row_ids=tuple(map(str, range(count))) if ids else (),
    )


def hostile_record() -> Record:
    case = make.record().case
    setup = make.setup(HOSTILE, case, cache_policy=HOSTILE, settings={HOSTILE: HOSTILE}, weights_random=False)
    return make.record(HOSTILE, number=1, case_id=HOSTILE, setup=setup, environment=make.environment(cpu=HOSTILE))


@pytest.fixture(scope="module")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports")
    build_report([run_folder], out / "r.html", tables=[out / "tables", out / "r.tex", out / "r.csv"])
    return out


def hrefs(page: str) -> dict[str, str]:
    """Files that a page holds, with their text."""
    found = {}
    for name, href in re.findall(r'<a download="([^"]+)" href="([^"]+)"', page):
        kind, _, data = href.replace("&amp;", "&").replace("&#39;", "'").partition(",")
        packed = kind == "data:application/gzip;base64"
        found[name] = gzip.decompress(base64.b64decode(data)).decode() if packed else unquote(data)
    return found


def test_every_figure_of_the_page_holds_its_data_and_a_folder_has_the_same(exported: Path) -> None:
    held = hrefs((exported / "r.html").read_text())
    assert len(held) == len(FIGURES)
    for name in FIGURES:
        text = held.get(f"figure-{name}.csv") or held[f"figure-{name}.csv.gz"]
        assert text == (exported / "tables" / f"figure-{name}.csv").read_text()
        heading, *rows = read(text)
        assert rows and all(len(row) == len(heading) for row in rows)
        assert heading[0] == "Record" and all(re.fullmatch(r"\d{4}-[0-9a-f]{12}", row[0]) for row in rows)
        assert sum("(" in word for word in heading) >= 2, "units"


def test_the_data_of_a_figure_are_the_numbers_of_the_records(exported: Path, records: list[Record]) -> None:
    heading, *rows = read((exported / "tables" / "figure-memory.csv").read_text())
    of_first = [row for row in rows if row[0] == records[0].record_id]
    memory = records[0].outcome.memory
    held = [sum(float(value) for value in row[heading.index("Phase") + 1 :]) for row in of_first]
    assert held == pytest.approx(
        [(memory.weights_bytes + peak) / 2**20 for peak in (memory.tokens_peak_bytes, memory.decode_peak_bytes)]
    )
    heading, *rows = read((exported / "tables" / "figure-quality-throughput.csv").read_text())
    fid = {row[0]: float(row[heading.index("FID, lower is better")]) for row in rows}
    assert fid[records[0].record_id] == pytest.approx(records[0].outcome.quality[0].value)
    assert {row[heading.index("On the Pareto front")] for row in rows} <= {"yes", "no", ""}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the report of 110 cases and its tables; its page shows a part of them."""
    folder = tmp_path_factory.mktemp("swept")
    make.write_records(folder / "records.jsonl", make.sweep(110))
    build_report([folder], folder / "r.html", tables=[folder / "csv"])
    return folder


def test_data_hold_the_cases_that_a_figure_has_no_room_for(swept: Path) -> None:
    assert "Drawn: the first" in (swept / "r.html").read_text()
    for name in ("step-latency", "memory", "quality-throughput", "capacity", "roofline"):
        assert len({row[0] for row in read((swept / "csv" / f"figure-{name}.csv").read_text())[1:]}) == 110, name


def test_a_folder_has_every_table_with_full_precision(exported: Path, records: list[Record]) -> None:
    heading, *rows = read((exported / "tables" / "results-1.csv").read_text())
    assert len(rows) == len(records) and "Throughput (images/s): detail" in heading and "Case: marks" in heading
    steps = read((exported / "tables" / "latency-2.csv").read_text())
    assert steps[0][:2] == ["Table", "Step"] and len({row[0] for row in steps[1:]}) > 5
    whole = pandas.read_csv(exported / "r.csv")
    assert list(whole["record_id"]) == [record.record_id for record in records]
    assert whole["images_ns"].notna().sum() == sum(record.status == "ok" for record in records)


def test_large_data_are_compressed_and_no_text_begins_as_a_formula() -> None:
    data = make_data(("Name", "Size (MiB)"), [("=cmd|' /C calc'!A0", 1 / 3), ('a,"b"\n<c>', None), ("-1", -1.0)])
    assert to_csv(data) == ("Name,Size (MiB)\n'=cmd|' /C calc'!A0,0.3333333333\n" + '"a,""b"" <c>",\n' + "'-1,-1\n")
    small, large = download("x", data), download("x", make_data(data.headings, data.rows * 1000))
    assert small.file == "x.csv" and large.file == "x.csv.gz" and len(large.href) < 5000
    assert not set('"<>#') & set(small.href) and unquote(small.href.partition(",")[2]) == to_csv(data)


def test_a_large_table_is_cut_to_its_extremes_and_a_small_one_is_whole() -> None:
    assert cut(numbers(MOST_ROWS)).words == ""
    table = numbers(MOST_ROWS + 1)
    shown = cut(table)
    sizes = sorted(row[1].sort for row in table.rows)
    assert sorted(row[1].sort for row in shown.table.rows) == sizes[:3] + sizes[-3:]
    assert shown.words.startswith(f"Shown: 6 of {MOST_ROWS + 1} rows, those with the 3 least")
    with_ids = cut(numbers(1500, ids=True), keep={"700"})
    assert "700" in with_ids.table.row_ids and len(with_ids.table.rows) == 7
    names = make_table("Names", [Column("Name", cell=text_cell)], map(str, range(300)))
    assert len(cut(names).table.rows) == MOST_ROWS and "the first" in cut(names).words


def test_a_page_of_many_rows_shows_extremes_and_holds_all_rows(swept: Path) -> None:
    page = (swept / "r.html").read_text()
    assert page.count('<tr id="case-') == 110, "the results are what a reader filters"
    assert "of 330 rows, those with the 3 least" in page
    (times,) = [text for name, text in hrefs(page).items() if name.startswith("times-by-scope")]
    assert len(read(times)) == 331


def test_latex_escapes_every_character_that_it_would_interpret() -> None:
    text = escape(SPECIAL + "\N{EN DASH}±中é�")
    bare = re.sub(r"\\[{}$&#_%]|\\text[a-z]+\{\}|-\{\}|\{[][*]\}|\$\\pm\$", "", text)
    assert not set('\\{}$&#_%~^<>|`"[]*') & set(bare.replace("{[}U+4E2D{]}", "").replace("{[}U+FFFD{]}", ""))
    assert "{[}U+4E2D{]}" in text and "é" in text and escape("a\nb") == "a b"


def test_latex_has_the_summary_first_the_best_in_bold_and_intervals(exported: Path) -> None:
    text = (exported / "r.tex").read_text()
    assert text.index(r"\caption{Summary by model") < text.index(r"\caption{Results:")
    assert re.search(r"\\textbf\{[\d.]+\} \{\\scriptsize \([\d.]+ -- [\d.]+\)\}", text)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") > 15
    labels = re.findall(r"\\label\{(.+?)\}", text)
    assert len(labels) == len(set(labels))


def test_pdflatex_compiles_the_tables_of_hostile_records(run_folder: Path, tmp_path: Path, exported: Path) -> None:
    if (tex := shutil.which("pdflatex")) is None:
        pytest.skip("no pdflatex: install texlive-latex-base to compile the tables")
    make.write_records(tmp_path / "records.jsonl", [hostile_record(), make.record(number=2, case_id=SPECIAL)])
    build_report([tmp_path], tmp_path / "r.html", tables=[tmp_path / "r.tex"])
    for number, body in enumerate(((tmp_path / "r.tex").read_text(), (exported / "r.tex").read_text())):
        document = (
            r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}"
            + body.replace(r"\end{table}", "\\end{table}\\clearpage")
            + r"\end{document}"
        )
        (tmp_path / f"{number}.tex").write_text(document)
        command = [tex, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"{number}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / f"{number}.pdf").stat().st_size > 1000


def test_an_ending_without_a_writer_and_a_missing_library_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.write_records(tmp_path / "records.jsonl", [make.record()])
    with pytest.raises(UserError, match=r"--tables .*x.xlsx: cannot write .xlsx files; endings: .md, .tex, .csv"):
        build_report([tmp_path], tmp_path / "r.html", tables=[tmp_path / "x.xlsx"])
    assert not (tmp_path / "r.html").exists()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(HostError, match="Parquet needs pyarrow"):
        build_report([tmp_path], tmp_path / "r.html", tables=[tmp_path / "x.parquet"])


def test_parquet_has_a_row_for_every_record(run_folder: Path, tmp_path: Path, records: list[Record]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    build_report([run_folder], tmp_path / "r.html", tables=[tmp_path / "x.parquet"])
    assert list(pandas.read_parquet(tmp_path / "x.parquet")["record_id"]) == [each.record_id for each in records]


def test_the_page_lies_beside_the_records_of_one_run_and_here_for_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(report_command)
    for number, name in enumerate("ab"):
        make.write_records(tmp_path / name / "records.jsonl", [make.incorrect(number=number)])
    one = CliRunner().invoke(app, ["a", "--tables", "a/r.tex"])
    assert one.exit_code == 0 and "report:   a/report.html" in one.stdout and "tables:   a/r.tex" in one.stdout
    assert (tmp_path / "a" / "report.html").exists() and not (tmp_path / "report.html").exists()
    assert CliRunner().invoke(app, ["b/records.jsonl"]).exit_code == 0
    assert (tmp_path / "b" / "report.html").exists()
    both = CliRunner().invoke(app, ["a", "b"])
    assert "report:   report.html" in both.stdout and (tmp_path / "report.html").exists()
