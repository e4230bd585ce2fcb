"""Kill trials: processes of the command line die at random moments, and what they leave is looked at.

A trial starts the command with a TMPDIR of its own, kills it (SIGKILL) after a random time, and checks at once that
nothing finished is gone, doubled or torn. After the last kill the command runs to its end, and nothing may be left
behind, in the folder or in TMPDIR.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import arvbench

COMMAND = (sys.executable, "-m", "arvbench")
LEFT = ("features", "chunk-*.lock", "arvbench-*")
"""Patterns of what no finished run leaves, besides hidden names."""


def start(arguments: Sequence[object], folder: Path, **streams: int) -> subprocess.Popen[str]:
    """Start the command with `folder`/tmp as TMPDIR."""
    temp = folder / "tmp"
    temp.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(Path(arvbench.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TMPDIR": str(temp), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths.rstrip(os.pathsep)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen([*COMMAND, *map(str, arguments)], env=environment, text=True, **streams)


def finish(arguments: Sequence[object], folder: Path) -> str:
    """Run the command to its end, which must be a good one; return its stdout."""
    process = start(arguments, folder)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, f"exit {process.returncode}: {errors[-2000:]}"
    return out


def killed(arguments: Sequence[object], folder: Path, after_s: float) -> bool:
    """Start the command and kill it; return whether it had ended before."""
    process = start(arguments, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    assert process.returncode == 0
    return True


def duration_s(arguments: Sequence[object], folder: Path) -> float:
    """Return the seconds of a whole run."""
    begin = time.monotonic()
    finish(arguments, folder)
    return time.monotonic() - begin


def lines(path: Path) -> list[str]:
    """Return the lines of a records file, each of which must be whole."""
    if not path.exists():
        return []
    text = path.read_text()
    assert not text or text.endswith("\n"), "the last line is torn"
    found = text.splitlines()
    for line in found:
        json.loads(line)
    return found


def check_records(path: Path, before: Sequence[str]) -> list[str]:
    """Check that older lines are as they were and no record is doubled; return the lines of now."""
    now = lines(path)
    assert now[: len(before)] == list(before), "an older record changed or is gone"
    records = [json.loads(line) for line in now]
    for key in ("record_id", "fingerprint"):
        values = [record[key] for record in records]
        assert len(set(values)) == len(values), f"doubled: {key}"
    assert all(record["outcome"]["status"] == "ok" for record in records)
    return now


def check_halves(out: Path, before: set[str]) -> set[str]:
    """Check that no speed that was finished before is lost; return the identities of those that wait for their quality.

    One that is gone became a record, or is part of a whole result that becomes one.
    """
    found = [json.loads(path.read_bytes()) for path in out.glob(".result-*.json")]
    recorded = {json.loads(line)["fingerprint"] for line in lines(out / "records.jsonl")}
    there = {finished["fingerprint"] for finished in found}
    assert before <= there | recorded, "a finished speed is lost"
    return {f["fingerprint"] for f in found if f["job"].get("part") == "speed"} - recorded


def left_behind(*folders: Path) -> list[str]:
    """Return what a finished run must not leave."""
    found = [path for folder in folders for path in folder.rglob("*")]
    return sorted(str(p) for p in found if p.name.startswith(".") or any(p.match(pattern) for pattern in LEFT))
