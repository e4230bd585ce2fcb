"""Kills of the driver of each engine: `python tests/support/engine_kills.py --engine ray --kills 50`.

A run of three cases is killed (SIGKILL) at random moments and started again, until it is done; then the next one
begins. Every second kill waits for the first record and comes a random time after it. After every kill: older records
are as they were, none is torn or doubled, and no process of the run is alive a while later. After every whole run: each
case has one record, and no file is left in the run folder or in TMPDIR. The numbers of kills are printed after each.

`--engine ray` has a cluster of two nodes that outlives the driver, `--engine ray-alone` one that the driver starts and
that must die with it; its session folder is in TMPDIR.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from kill_trials import check_records, finish, left_behind, start
from run_helpers import write_suite

QUICK = {"weights": "demo", "threads": 1, "repeats": 1, "max_warmup": 1, "sample_sheet": 1}
ENDED_S = 60.0
"""Time in which the processes of a killed run must be gone."""
POLL_S = 0.02
KILLS_OF_A_RUN = 4
"""Most kills of one run: then it may end, so that kills fall into every part of many runs."""


def alive(temp: Path) -> list[psutil.Process]:
    """Return the processes of the command and of its workers: those with this TMPDIR, Ray's own left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            ours = any("arvbench" in word for word in words) or "ray::_call" in words[:1]
            if ours and process.environ().get("TMPDIR") == str(temp) and process.pid != os.getpid():
                found.append(process)
    return found


def check_ended(temp: Path) -> None:
    deadline = time.monotonic() + ENDED_S
    while left := alive(temp):
        assert time.monotonic() < deadline, f"still alive: {[process.cmdline() for process in left]}"
        time.sleep(0.1)


@contextlib.contextmanager
def surroundings(engine: str, temp: Path) -> Iterator[None]:
    """Set what the engine needs: the numbers of a rank, or a cluster of two nodes."""
    os.environ["TMPDIR"] = str(temp)
    if engine == "torchrun":
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    if engine != "ray":
        yield
        return
    from ray_cluster import two_nodes

    with two_nodes() as (cluster, _):
        os.environ["RAY_ADDRESS"] = cluster.address
        yield


@dataclass(frozen=True)
class Timeline:
    """Seconds of a run without a disturbance."""

    first_s: float
    """To the first record."""
    whole_s: float

    def __str__(self) -> str:
        return f"{self.whole_s:.1f} s, the first record after {self.first_s:.1f} s"


def timeline(command: Sequence[object], folder: Path, records: Path) -> Timeline:
    begin, process = time.monotonic(), start(command, folder, stdout=subprocess.DEVNULL)
    while not complete_lines(records) and process.poll() is None:
        time.sleep(POLL_S)
    first_s = time.monotonic() - begin
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return Timeline(first_s, time.monotonic() - begin)


def complete_lines(records: Path) -> int:
    """Return the number of complete lines; the last may be on its way."""
    return records.read_bytes().count(b"\n") if records.exists() else 0


def killed(command: Sequence[object], folder: Path, records: Path, moment: tuple[bool, float]) -> bool:
    """Start the command, kill it a time after its start or first record, return whether it lived till then."""
    after_first, wait_s = moment
    process = start(command, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while after_first and not complete_lines(records) and process.poll() is None:
        time.sleep(POLL_S)
    with contextlib.suppress(subprocess.TimeoutExpired):
        assert process.wait(timeout=wait_s) == 0
        return False
    process.kill()
    process.wait()
    return True


def trials(engine: str, kills: int, folder: Path, drawn: random.Random) -> None:
    temp = folder / "tmp"
    cases = [{"model": "demo/nar"}, {"model": "demo/var"}, {"model": "demo/nar", "batch": 2}]
    suite = write_suite(folder / "suite.yaml", defaults=QUICK, cases=cases)
    command = ["run", suite, "--no-report", "--engine", engine.removesuffix("-alone"), "--out"]
    place = "shard-00001-of-00001/records.jsonl" if engine == "torchrun" else "records.jsonl"
    usual = timeline([*command, folder / "first"], folder, folder / "first" / place)
    early = late = rounds = 0
    while early + late < kills:
        out, before, rounds = folder / f"run{rounds}", [], rounds + 1
        for _ in range(min(KILLS_OF_A_RUN, kills - early - late)):
            after_first = late <= early
            rest_s = usual.whole_s - usual.first_s if after_first and not before else usual.whole_s
            if not killed([*command, out], folder, out / place, (after_first, drawn.uniform(0, rest_s))):
                break
            before = check_records(out / place, before)
            early, late = early + (not before), late + bool(before)
            check_ended(temp)
            print(f"{engine}: {early} kills before the first record, {late} after it, {rounds} runs", flush=True)
        finish([*command, out], folder)
        assert len(check_records(out / place, before)) == len(cases)
        check_ended(temp)
        assert left_behind(out, temp) == [], left_behind(out, temp)
    print(
        f"{engine}: {early} kills before the first record and {late} after it, in {rounds} runs of {usual}: nothing "
        "lost, doubled or left",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("local", "torchrun", "ray", "ray-alone"), required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        with surroundings(options.engine, folder / "tmp"):
            trials(options.engine, options.kills, folder, random.Random(options.seed))


if __name__ == "__main__":
    main()
