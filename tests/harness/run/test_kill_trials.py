"""Kill trials of the command line: nothing lost, doubled, torn or left behind.

`ARVBENCH_KILLS=100 pytest -m slow tests/harness/run/test_kill_trials.py` makes 100 kills of the runner, half as many of
`eval --work` and a fifth as many pairs of runs side by side; ten kills without the variable. ARVBENCH_KILL_SEED draws
other moments.
"""

from __future__ import annotations

import json
import os
import random

import pytest
from kill_trials import check_halves, check_records, duration_s, finish, killed, left_behind, start
from run_helpers import write_suite

pytestmark = pytest.mark.slow
RUNNER_KILLS = int(os.environ.get("ARVBENCH_KILLS", "10"))
EVAL_KILLS, PAIRS = RUNNER_KILLS // 2, RUNNER_KILLS // 5
SEED = os.environ.get("ARVBENCH_KILL_SEED", "0")
QUICK = {"weights": "demo", "threads": 1, "repeats": 1, "max_warmup": 1}
QUALITY = {
    "protocols": ["digits-cnn"],
    "reference": "digits",
    "images": 300,
    "metrics": ["fid"],
    "bootstrap": 0,
    "workers": 1,
}


def suite_file(folder):
    cases = [
        {"model": "demo/var", "batch": 64, "quality": QUALITY, "sample_sheet": 2},
        {"model": "demo/nar", "sample_sheet": 1},
    ]
    return write_suite(folder / "suite.yaml", defaults=QUICK, cases=cases)


def check_finished(out, temp) -> None:
    records = [json.loads(line) for line in check_records(out / "records.jsonl", [])]
    assert len(records) == 2
    sheets = {record["outcome"]["sample_sheet"]["path"] for record in records if record["outcome"].get("sample_sheet")}
    assert {f"samples/{path.name}" for path in (out / "samples").iterdir()} == sheets and len(sheets) == 2
    assert left_behind(out, temp) == []


def test_kills_of_the_runner(tmp_path):
    suite, drawn = suite_file(tmp_path), random.Random(SEED)
    whole_s = duration_s(["run", suite, "--out", tmp_path / "first", "--no-report"], tmp_path)
    check_finished(tmp_path / "first", tmp_path / "tmp")
    kills = rounds = between = 0
    while kills < RUNNER_KILLS:
        out, before, halves, rounds = tmp_path / f"run{rounds}", [], set(), rounds + 1
        command = ["run", suite, "--out", out, "--no-report"]
        while kills < RUNNER_KILLS and not killed(command, tmp_path, drawn.uniform(0, whole_s)):
            kills += 1
            before, halves = check_records(out / "records.jsonl", before), check_halves(out, halves)
            between += len(halves)
        finish(command, tmp_path)
        check_records(out / "records.jsonl", before)
        check_finished(out, tmp_path / "tmp")
    print(f"{kills} kills in {rounds} runs of {whole_s:.1f} s, {between} speeds kept between the parts")


def test_kills_of_an_evaluation_that_keeps_its_features(tmp_path):
    samples = tmp_path / "samples.npz"
    finish(["sample", "demo/var", "--images", 1500, "--batch", 250, "--out", samples], tmp_path)
    quick = ["--reference", "digits", "--protocol", "digits-cnn", "--metrics", "fid", "--bootstrap", 0, "--json"]
    command = ["eval", samples, *quick, "--workers", 2, "--work"]
    whole_s = duration_s([*command, tmp_path / "first"], tmp_path)
    expected = finish([*command, tmp_path / "first"], tmp_path)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    kills, rounds, drawn = 0, 0, random.Random(SEED)
    first_s, last_s = 0.2 * whole_s, 0.8 * whole_s
    while kills < EVAL_KILLS:
        work, chunks, rounds = tmp_path / f"work{rounds}", {}, rounds + 1
        while kills < EVAL_KILLS and not killed([*command, work], tmp_path, drawn.uniform(first_s, last_s)):
            kills += 1
            assert all(path.stat().st_mtime_ns == when for path, when in chunks.items()), "a finished chunk was redone"
            chunks = {path: path.stat().st_mtime_ns for path in work.glob("chunk-*.safetensors")}
        assert finish([*command, work], tmp_path) == expected
        assert sorted(path.name for path in work.iterdir()) == files and left_behind(work, tmp_path / "tmp") == []
        assert all(path.read_bytes() == (tmp_path / "first" / path.name).read_bytes() for path in work.iterdir())
    print(f"{kills} kills in {rounds} evaluations of {whole_s:.1f} s")


def test_two_runs_side_by_side(tmp_path):
    suite = suite_file(tmp_path)
    for number in range(PAIRS):
        out = tmp_path / f"run{number}"
        command = ["run", suite, "--out", out, "--no-report"]
        pair = [start(command, tmp_path) for _ in range(2)]
        for process in pair:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
        check_finished(out, tmp_path / "tmp")
