"""CPU seconds of reports and records files: `pytest tests/bench/test_reports.py --benchmark-enable`; peers run in turn.

Enabled, sizes are those of large sweeps, the largest with `-m slow`; disabled, every benchmark runs once on a few
records. Nothing is timed before it has agreed with its peer.

Bars     report of 100 records <= 5 s and 2 MB, of 1,000 <= 20 s; 10,000 records read in 3 s; an append costs the same
         at any size
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import records as make
from figures import FIGURES
from matplotlib.figure import Figure
from turns import in_turn

from arvbench.files import write_whole
from arvbench.harness.run.store import RecordStore
from arvbench.reports.build import build_report
from arvbench.reports.figures.drawing import Drawing
from arvbench.reports.svg import draw_figure
from arvbench.results.records import read_records

_WITHOUT_RECORDS = {"drift", "energy", "scaling-batch"}
"""Figures that the first records of `make.sweep` have nothing for."""
_FEW = 3
_APPENDS = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a records file of that many cases, made once."""
    top = tmp_path_factory.mktemp("sweeps")

    def file(count: int) -> Path:
        path = top / str(count) / "records.jsonl"
        return path if path.exists() else make.write_records(path, make.sweep(count))

    return file


def by_constrained_layout(drawings: list[Drawing]) -> None:
    """Write figures with the lines and words of `drawings`, placed by matplotlib's solver."""
    for drawing in drawings:
        given = drawing.figure.axes
        figure = Figure(drawing.figure.get_size_inches(), layout="constrained")
        for ax, source in zip(figure.subplots(-(-len(given) // 2), 2).flat, given, strict=False):
            for line in source.lines:
                ax.plot(*line.get_data(), marker=line.get_marker())
            ax.set_title(source.get_title(loc="left"))
            ax.set_xlabel(source.get_xlabel())
            ax.set_ylabel(source.get_ylabel())
        figure.savefig(io.BytesIO(), format="svg")


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_report(benchmark, files, tmp_path, count):
    benchmark.group = "report, peer: the lines of its figures in matplotlib's constrained layout, nothing else"
    bar = "<= 5 CPU s and 2 MB" if count == 100 else "<= 20 CPU s"
    path = files(count if benchmark.enabled else _FEW)
    records = read_records(path).records
    out = tmp_path / "r.html"
    drawn = {name: draw_figure(name, FIGURES[name], records) for name in FIGURES}
    drawings = [drawing for drawing in drawn.values() if drawing is not None]
    assert benchmark.enabled or {name for name, drawing in drawn.items() if drawing is None} == _WITHOUT_RECORDS
    assert build_report([path], out).records == len(records)
    peers = drawings if benchmark.enabled else drawings[:2]
    in_turn(benchmark, lambda: build_report([path], out), lambda: by_constrained_layout(peers), bar=bar, rounds=1)
    benchmark.extra_info |= {"records": len(records), "html_bytes": out.stat().st_size}


def test_reading(benchmark, files):
    benchmark.group = "reading 10,000 records, peer: json.loads"
    path = files(10_000 if benchmark.enabled else _FEW)
    lines = path.read_bytes().splitlines()
    assert [r.record_id for r in read_records(path)] == [json.loads(line)["record_id"] for line in lines]
    in_turn(benchmark, lambda: read_records(path), lambda: [json.loads(line) for line in lines], bar="<= 3 CPU s")
    benchmark.extra_info |= {"records": len(lines), "bytes": path.stat().st_size}


@pytest.mark.parametrize("count", [10, 10_000])
def test_appends(benchmark, files, tmp_path, count):
    """The peer writes the file anew for every record, as a store without O_APPEND has to."""
    benchmark.group = f"{_APPENDS} appends, peer: writing the file anew"
    source = files(count if benchmark.enabled else _FEW)
    more = make.sweep(_APPENDS)
    store, anew = RecordStore(tmp_path / "ours"), tmp_path / "peer.jsonl"
    write_whole(anew, source.read_bytes())
    store.folder.mkdir()
    write_whole(store.path, source.read_bytes())

    def appended() -> None:
        for record in more:
            store.append(record)

    def rewritten() -> None:
        for record in more:
            write_whole(anew, anew.read_bytes() + record.model_dump_json().encode() + b"\n")

    appended()
    rewritten()
    assert store.path.read_bytes() == anew.read_bytes()
    in_turn(benchmark, appended, rewritten, bar="the same at 10 and 10,000")
    benchmark.extra_info["records"] = count
