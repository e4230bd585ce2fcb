"""Trials of the gate on real launches: checks of equal code, and checks with a sleep planted into one scope of head.

    python tests/support/gate_trials.py --aa 40 --planted 20        # goes on where it stopped, also after Ctrl-C
    python tests/support/gate_trials.py --aa 40 --planted 20 --fresh

Base and head are commits of a scratch clone of this checkout at HEAD: later commits and edits do not change the trials.
The sleep is one changed line of the samplers, on a branch of that clone, and lasts a tenth of the scope's time, the
median that the first check of equal code measured. A line per check goes to stdout, and at the end the summary for
docs/gate.md as Markdown; exit code 1 when the rule of issue M7 is broken: more than one regression in 40 checks of
equal code, or fewer than 19 of 20 sleeps found or called inconclusive with a smallest detectable change above 10 %.

Units    seconds, of the wall clock and of the processors (user and system, all processes of a check)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tiny_checkout import commit, git

from arvbench.results.verdict import Change, Check, Verdict, read_verdict

ROOT = Path(__file__).parents[2]
SCOPE = "decode"
PLACE = Path("adapters") / "next_scale" / "sampler.py"
LINE = "        return to_unit_range(self.tokenizer.decode_map(state))"
SLEEPING = '        return __import__("time").sleep({seconds}) or to_unit_range(self.tokenizer.decode_map(state))'
SHARE = 0.10
MEDIANS = ("launches", "seconds", "cpu_s")
BASE, BRANCH = "base", "planted"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One finished check."""

    kind: str
    """"equal" or "planted"."""
    number: int
    verdict: str
    exit_code: int
    seconds: float
    cpu_s: float
    launches: int
    scope_verdict: str
    scope_ratio: float | None
    scope_detectable: float | None
    blamed: tuple[str, ...]
    """Numbers called a regression."""

    @property
    def good(self) -> bool:
        """True for no blame of equal code; for a sleep that is found, or that the check says it could not have seen."""
        if self.kind == "equal":
            return not self.blamed
        blind = self.scope_detectable is None or self.scope_detectable > SHARE
        return self.scope_verdict == "regression" or (self.scope_verdict == "inconclusive" and blind)

    def __str__(self) -> str:
        ratio = "" if self.scope_ratio is None else f" {self.scope_ratio - 1:+.1%}"
        seen = "" if self.scope_detectable is None else f", detectable {self.scope_detectable:.1%}"
        blamed = f"; blamed: {', '.join(self.blamed)}" if self.blamed else ""
        return (
            f"{self.kind} {self.number}: {self.verdict} (exit {self.exit_code}), {SCOPE} {self.scope_verdict}{ratio}"
            f"{seen}; {self.launches} launches, {self.seconds:.0f} s, {self.cpu_s:.0f} CPU s{blamed}"
        )


class Trials:
    """Trials in one folder: the clone, a folder per check, and a line per finished trial."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.folder, self.options = folder, tuple(options)
        self.clone, self._done = folder / "clone", folder / "trials.jsonl"
        if not (self.clone / ".git").exists() or not git(self.clone, "tag", "--list", BASE):
            shutil.rmtree(self.clone, ignore_errors=True)
            git(ROOT, "clone", "--quiet", str(ROOT), str(self.clone))
            git(self.clone, "tag", BASE)

    def finished(self) -> list[Trial]:
        """Return the trials of this and of earlier calls."""
        lines = self._done.read_text(encoding="utf-8").splitlines() if self._done.exists() else []
        found = [json.loads(line) for line in lines]
        return [Trial(**(trial | {"blamed": tuple(trial["blamed"])})) for trial in found]

    def measure(self, kind: str, count: int) -> Iterator[Trial]:
        """Yield `count` trials of a kind; those that are not finished are measured."""
        known = {trial.number: trial for trial in self.finished() if trial.kind == kind}
        for number in range(1, count + 1):
            yield known[number] if number in known else self._trial(kind, number)

    def plant(self) -> float:
        """Commit the sleep on a branch of the clone, once; return its seconds."""
        path = self.clone / PLACE
        if BRANCH not in git(self.clone, "branch", "--list", BRANCH):
            change = _scope(read_verdict(self._folder("equal", 1) / "verdict.json"))
            git(self.clone, "checkout", "--quiet", "--force", "--detach", BASE)
            seconds = f"{SHARE * median(change.base) / 1e9:.6f}"
            text = path.read_text(encoding="utf-8")
            if text.count(LINE) != 1:
                raise SystemExit(f"{PLACE} no longer has the line to plant a sleep in: {LINE.strip()}")
            path.write_text(text.replace(LINE, SLEEPING.format(seconds=seconds)), encoding="utf-8")
            commit(self.clone, "a sleep")
            git(self.clone, "branch", BRANCH)
            git(self.clone, "checkout", "--quiet", "--force", BASE)
        planted = git(self.clone, "show", f"{BRANCH}:{PLACE}")
        return float(planted.partition('__import__("time").sleep(')[2].partition(")")[0])

    def _trial(self, kind: str, number: int) -> Trial:
        out = self._folder(kind, number)
        head = ["--head", BRANCH] if kind == "planted" else []
        command = [sys.executable, "-P", "-m", "arvbench", "check", "--against", BASE, *head, *self.options]
        environment = os.environ | {"PYTHONPATH": str(self.clone / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        begin, cpu = time.monotonic(), _children_s()
        out.mkdir(parents=True, exist_ok=True)
        with (out / "output.txt").open("w") as output:
            code = _finish([*command, "--out", str(out)], env=environment, cwd=self.clone, stdout=output, stderr=output)
        if code not in (0, 1, 4, 5, 6):
            raise SystemExit(f"exit code {code}: see {out}/output.txt")
        verdict = read_verdict(out / "verdict.json")
        trial = _trial(kind, number, verdict, time.monotonic() - begin, _children_s() - cpu)
        with self._done.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        return trial

    def _folder(self, kind: str, number: int) -> Path:
        return self.folder / "checks" / f"{kind}-{number:02}"


def _finish(command: Sequence[str], **options: Any) -> int:
    """Run a command to its end, and return its exit code; Ctrl-C ends it in its own way, once."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise


def _trial(kind: str, number: int, verdict: Check, seconds: float, cpu_s: float) -> Trial:
    scopes = [change for change in verdict.changes if change.number == SCOPE]
    return Trial(
        kind=kind,
        number=number,
        verdict=verdict.verdict.value,
        exit_code=verdict.exit_code,
        seconds=seconds,
        cpu_s=cpu_s,
        launches=len(verdict.base.record_ids) + len(verdict.head.record_ids),
        scope_verdict=scopes[0].verdict.value if scopes else "unusable",
        scope_ratio=scopes[0].ratio if scopes else None,
        scope_detectable=scopes[0].smallest_detectable if scopes else None,
        blamed=tuple(change.number for change in verdict.changes if change.verdict is Verdict.REGRESSION),
    )


def _scope(verdict: Check) -> Change:
    for change in verdict.changes:
        if change.number == SCOPE and change.base:
            return change
    raise SystemExit(f"the first check of equal code has no {SCOPE}: make it again with --fresh")


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summary(trials: Sequence[Trial], command: str) -> str:
    """Write the outcome as Markdown."""
    rows = [
        f"`{command}`",
        "",
        "| head | checks | verdicts | of the scope | as they must be | launches | seconds | CPU seconds | its MDE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, name in (("equal", "equal to base"), ("planted", f"{SHARE:.0%} sleep in `{SCOPE}`")):
        found = [trial for trial in trials if trial.kind == kind]
        if found:
            seen = [trial.scope_detectable for trial in found if trial.scope_detectable is not None]
            middle = [f"{median(getattr(trial, name) for trial in found):.0f}" for name in MEDIANS]
            cells = [
                name,
                str(len(found)),
                _counts(trial.verdict for trial in found),
                _counts(trial.scope_verdict for trial in found),
                f"{sum(trial.good for trial in found)} of {len(found)}",
                *middle,
                f"{median(seen):.1%}" if seen else "",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", "Launches, seconds and MDE are medians of the checks."])


def _counts(verdicts: Iterator[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(verdicts).most_common())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aa", type=int, default=40, metavar="N", help="checks of equal code")
    parser.add_argument("--planted", type=int, default=20, metavar="N", help="checks with the sleep")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "runs" / "gate-trials")
    parser.add_argument("--model", default="demo/var", help="a next-scale model")
    parser.add_argument("--fresh", action="store_true", help="begin anew, with the commit of now")
    asked = parser.parse_args()
    if asked.fresh:
        shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True, exist_ok=True)
    trials = Trials(asked.folder.resolve(), ["--models", asked.model, "--set", "batch=1"])
    try:
        for trial in trials.measure("equal", max(asked.aa, bool(asked.planted))):
            print(trial, flush=True)
        if asked.planted:
            print(f"a sleep of {1000 * trials.plant():.3f} ms is planted in {SCOPE}", flush=True)
        for trial in trials.measure("planted", asked.planted):
            print(trial, flush=True)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", flush=True)
        return 130
    found = trials.finished()
    print(summary(found, f"python tests/support/gate_trials.py --aa {asked.aa} --planted {asked.planted}"))
    bad = Counter(trial.kind for trial in found if not trial.good)
    return int(bad["equal"] > max(1, asked.aa // 40) or bad["planted"] > max(1, asked.planted // 20))


if __name__ == "__main__":
    sys.exit(main())
