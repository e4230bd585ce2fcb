"""Checks for tests, made up in the shape of a real one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from arvbench.results.verdict import Change, Check, Side, Verdict, worst

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def change(
    case: str = "demo/var cpu optimized auto float32 b1",
    number: str = "images",
    *,
    verdict: Verdict = Verdict.PASS,
    ratio: float | None = 1.004,
    **changes: Any,
) -> Change:
    """Make a change of a time, of eight launches on each side."""
    fields: dict[str, Any] = {
        "case": case,
        "number": number,
        "kind": "time",
        "unit": "ns",
        "base": tuple(30e6 + 1e5 * launch for launch in range(8)),
        "head": tuple((30e6 + 1e5 * launch) * (ratio or 1) for launch in range(8)),
        "ratio": ratio,
        "interval": None if ratio is None else (ratio - 0.012, ratio + 0.013),
        "smallest_detectable": 0.031,
        "p": 0.4,
        "verdict": verdict,
        "reason": f"{verdict.value}: the medians differ by less than launches of one commit do",
    }
    return Change(**(fields | changes))


def check(*changes: Change, **fields: Any) -> Check:
    """Make a check of these changes."""
    verdict = worst(one.verdict for one in changes)
    made: dict[str, Any] = {
        "run_id": "3f9ad1c0",
        "suite": "gate",
        "started": START,
        "finished": START + timedelta(minutes=7, seconds=3.5),
        "hardware": "AMD EPYC 9554, 2 cores",
        "base": Side(name="main", commit="c0ffee" * 6 + "c0ff", dirty=False),
        "head": Side(name="working tree", commit="beef" * 10, dirty=True),
        "verdict": verdict,
        "exit_code": 0,
        "changes": changes,
        "command": "arvbench check --against main --suite gate",
    }
    return Check(**(made | fields))


def every_verdict() -> Check:
    """Make a check with a number of every verdict, of two cases."""
    mvar = "demo/mvar cpu optimized auto float32 b8"
    return check(
        change(),
        change(number="step[3]", verdict=Verdict.REGRESSION, ratio=1.052, p=0.0003,
               reason="5.2 % slower: all eight launches of head are slower than those of base"),
        change(mvar, number="tokens", verdict=Verdict.REGRESSION, ratio=1.31),
        change(mvar, number="decode", verdict=Verdict.IMPROVEMENT, ratio=0.81),
        change(mvar, number="cache_allocated_bytes", kind="cache", unit="bytes", smallest_detectable=None, p=None,
               interval=None, base=(2**20,), head=(2**20,), ratio=1.0),
        change(mvar, number="label-accuracy digits-cnn", kind="quality", unit="", lower_is_better=False, ratio=0.99,
               verdict=Verdict.INCONCLUSIVE, smallest_detectable=0.12, reason="the windows of five seeds overlap"),
        change(mvar, number="images", verdict=Verdict.MACHINE, ratio=1.4, reason="the control was 1.38 times slower"),
        change(mvar, number="step[0]", verdict=Verdict.UNUSABLE, ratio=None, head=(), reason="head has no such number"),
        unusable=("head has no step[0] of demo/mvar",),
        machine=("the control of head was 1.38 times slower than that of base",),
    )  # fmt: skip
