"""Kills of the driver of each engine: `python tests/support/engine_kills.py --engine ray --kills 50`.

A run of two cases is killed (SIGKILL) at random moments and started again, until it is done; then the next one begins.
After every kill: older records are as they were, none is torn or doubled, and no process of the run is alive a while
later. After every whole run: both cases have one record each, and no file is left in the run folder or in TMPDIR. The
number of kills is printed after each.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from kill_trials import check_records, duration_s, finish, killed, left_behind
from run_helpers import write_suite

QUICK = {"weights": "demo", "threads": 1, "repeats": 1, "max_warmup": 1, "sample_sheet": 1}
ENDED_S = 60.0
"""Time in which the processes of a killed run must be gone."""


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


def trials(engine: str, kills: int, folder: Path, drawn: random.Random) -> None:
    temp = folder / "tmp"
    suite = write_suite(folder / "suite.yaml", defaults=QUICK, cases=[{"model": "demo/nar"}, {"model": "demo/var"}])
    command = ["run", suite, "--no-report", "--engine", engine, "--out"]
    whole_s = duration_s([*command, folder / "first"], folder)
    done = rounds = 0
    while done < kills:
        out, before, rounds = folder / f"run{rounds}", [], rounds + 1
        records = out / "shard-00001-of-00001" / "records.jsonl" if engine == "torchrun" else out / "records.jsonl"
        while done < kills and not killed([*command, out], folder, drawn.uniform(0, whole_s)):
            done += 1
            before = check_records(records, before)
            check_ended(temp)
            print(
                f"{engine}: {done} kills in {rounds} runs of {whole_s:.1f} s, {len(before)} records so far", flush=True
            )
        finish([*command, out], folder)
        assert len(check_records(records, before)) == 2
        assert left_behind(out, temp) == [], left_behind(out, temp)
    print(f"{engine}: {done} kills in {rounds} runs of {whole_s:.1f} s: nothing lost, doubled or left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("local", "torchrun", "ray"), required=True)
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
