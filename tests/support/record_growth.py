"""Growth of the cost of records: `python tests/support/record_growth.py [--sizes 1250,2500,5000,10000]`.

Run folders of synthetic records, each of the form of a measured case. Every operation is made on all sizes in turns,
and the median of its CPU seconds is printed with its growth law: the exponent of n that fits the sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from records import environment, measured
from run_helpers import ScriptedEngine, SilentListener, case, suite

from arvbench.harness.cli import main as arvbench
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.runner import run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Case
from arvbench.reports.build import build_report
from arvbench.results.schema import Record

MODELS, APPENDS, ROUNDS = 40, 20, 3


def cases(count: int) -> list[Case]:
    """Cases of 40 models' worth of settings; no two are equal."""
    return [case(f"case {n}", settings={"cfg": 1 + n // MODELS / 100}, batch=1 + n % MODELS) for n in range(count)]


def record_of(one: Case, number: int) -> Record:
    where = environment()
    return Record(
        record_id=f"{number:032x}",
        suite="made-up",
        case_id=one.case_id,
        fingerprint=fingerprint(one.config, where),
        started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:01:00Z",
        case=one.config,
        environment=where,
        outcome=measured(one.config.model, one.config, seed=number % 50, speed=1.0, gpu=None),
    )


def fill(folder: Path, count: int) -> RecordStore:
    """Make a run folder of `count` records."""
    store = RecordStore(folder)
    store.prepare()
    lines = [record_of(one, number).model_dump_json() for number, one in enumerate(cases(count))]
    store.path.write_text("\n".join(lines) + "\n")
    return store


def operations(store: RecordStore, count: int, scratch: Path) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    more = [record_of(one, 10**6 + n) for n, one in enumerate(cases(APPENDS))]
    work = RecordStore(scratch / f"append-{count}")
    work.prepare()
    shutil.copy(store.path, work.path)
    resumed, id_of_last = suite(*cases(count)), f"{count - 1:032x}"

    def append() -> None:
        for record in more:
            work.append(record)

    def resume() -> None:
        engine = ScriptedEngine()  # without outcomes: a case that is not reused raises
        assert len(run_suite(resumed, RecordStore(store.folder), engine, SilentListener())) == count

    def prune() -> None:
        verb("records", "prune", work.folder, "--id", id_of_last)
        shutil.copy(store.path, work.path)

    def merge() -> None:
        out = scratch / "merged"
        verb("records", "merge", store.folder, "--out", out)
        shutil.rmtree(out)

    return {
        f"append {APPENDS} records": append,
        "read all": lambda: RecordStore(store.folder).records(),
        "resume a run of n cases": resume,
        "records ls": lambda: verb("records", "ls", store.folder),
        "records show, the last": lambda: verb("records", "show", store.folder, id_of_last),
        "records merge into a new folder": merge,
        "records prune, one": prune,
        "report": lambda: build_report([store.path], scratch / "report.html"),
    }


def verb(*arguments: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        code = arvbench([str(argument) for argument in arguments])
    assert code == 0, arguments


def cpu_s(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the slope of a line through the logarithms."""
    x, y = [math.log(n) for n in sizes], [math.log(max(s, 1e-9)) for s in seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1250,2500,5000,10000")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        scratch = Path(name)
        stores = {count: fill(scratch / str(count), count) for count in sizes}
        bytes_each = {count: store.path.stat().st_size / count for count, store in stores.items()}
        calls = {count: operations(store, count, scratch) for count, store in stores.items()}
        print(f"a record is {bytes_each[sizes[-1]]:,.0f} bytes; CPU seconds, median of {options.rounds} in turns")
        print("| operation | " + " | ".join(f"n = {count:,}" for count in sizes) + " | law |")
        print("|---|" + "---:|" * (len(sizes) + 1))
        for operation in calls[sizes[0]]:
            taken: dict[int, list[float]] = {count: [] for count in sizes}
            for _ in range(options.rounds):
                for count in sizes:
                    taken[count].append(cpu_s(calls[count][operation]))
            middle = [median(taken[count]) for count in sizes]
            law = f"n^{exponent(sizes, middle):.2f}"
            print(f"| {operation} | " + " | ".join(f"{s:.3f}" for s in middle) + f" | {law} |", flush=True)


if __name__ == "__main__":
    main()
