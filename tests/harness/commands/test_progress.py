"""Progress of a run: part, case k of n and time left, on terminals and in files."""

from __future__ import annotations

import io

import pytest
from records import record
from rich.console import Console
from run_helpers import DIGITS, case

from arvbench.harness.commands import work
from arvbench.harness.commands.progress import ProgressBar
from arvbench.harness.commands.work import Work, in_minutes, quality_work, speed_work
from arvbench.harness.jobs import Event, Part

LONG = "demo/llamagen optimized b50 float32 cpu uint8_rule=round quality(digits-cnn) and more that is long"
ASKS = case(LONG, weights="demo", batch=50, threads=1, quality=DIGITS | {"images": 1000})
ALONE = case("demo/var optimized b1", weights="demo", threads=1)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that the estimate reads; the last entry is now."""
    times = [1000.0]
    monkeypatch.setattr(work.time, "monotonic", lambda: times[-1])
    monkeypatch.setattr(work, "usable_cores", lambda: 2)
    return times


def shown(*, terminal: bool) -> tuple[ProgressBar, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=terminal, color_system=None, legacy_windows=False)
    return ProgressBar(console, cases=(ALONE, ASKS)), stream


def of(measured) -> object:
    return record(case_id=measured.case_id)


def run(bar: ProgressBar, clock: list[float]) -> list[str]:
    """A run of both cases; return the description of the bar after each word."""
    heard = []

    def hear(tell) -> None:
        tell()
        clock.append(clock[-1] + 5)
        task = bar.tasks[0]
        heard.append(f"{task.description} | {task.fields['left']}")

    hear(lambda: bar.case_started(ALONE, Part.SPEED))
    hear(lambda: bar.case_finished(ALONE, of(ALONE)))
    hear(lambda: bar.case_started(ASKS, Part.SPEED))
    hear(lambda: bar.case_event(ASKS, Event(phase="timing", done=2, total=6)))
    hear(lambda: bar.case_half_finished(ASKS, 8.25, reused=False))
    hear(lambda: bar.case_started(ASKS, Part.QUALITY))
    hear(lambda: bar.case_event(ASKS, Event(phase="quality: samples", done=512, total=1000)))
    hear(lambda: bar.case_finished(ASKS, of(ASKS)))
    return heard


def test_the_bar_says_which_part_case_and_time_left(clock):
    bar, _ = shown(terminal=True)
    heard = run(bar, clock)
    words = [line.split(": ")[0] for line in heard]
    assert words[0] == "speed 1/2 starting" and words[2] == "speed 2/2 starting" and words[3] == "speed 2/2 timing 2/6"
    assert words[5] == "quality 1/1 starting" and words[6] == "quality 1/1 samples 512/1000"
    assert heard[0].endswith("| "), "nothing is known yet"
    left = [line.rpartition("left ")[2] for line in heard[2:7]]
    assert all(len(text) >= 4 and ":" in text for text in left)
    assert bar.tasks[0].completed == bar.tasks[0].total


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_fit_a_terminal_of_80_columns_and_are_whole_in_a_file(clock, terminal):
    bar, stream = shown(terminal=terminal)
    run(bar, clock)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert [line.split()[0] for line in lines] == ["ok", "speed", "ok"], "a line each, none of them wrapped"
    if terminal:
        assert max(map(len, lines)) <= 80 and "8.2 s" in lines[1] and "…" in lines[1]
    else:
        assert LONG in lines[1] and LONG in lines[2] and ", left " in lines[1] and "left" not in lines[2]


def test_the_whole_bar_fits_80_columns(clock):
    bar, _ = shown(terminal=True)
    run(bar, clock)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(bar.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    assert len(line) <= 80 and "quality 1/1 samples 512/1000: demo/" in line and " left 0:" in line


def test_reused_cases_and_speeds_are_no_work(clock):
    todo = Work((ALONE, ASKS))
    whole = todo.total
    assert whole == speed_work(ALONE.config) + speed_work(ASKS.config) + quality_work(ASKS.config, 2)
    todo.skip(ALONE)
    todo.skip(ASKS, Part.SPEED)
    assert todo.total == quality_work(ASKS.config, 2) and todo.done == 0 and todo.left_s() is None
    todo.begin(ASKS, Part.QUALITY)
    clock.append(clock[-1] + 30)
    todo.advance(ASKS, Part.QUALITY, Event(phase="quality: samples", done=500, total=1000))
    todo.advance(ASKS, Part.QUALITY, Event(phase="quality: digits-cnn"))
    assert todo.done == pytest.approx(0.375 * todo.total) and todo.left_s() == pytest.approx(50)
    todo.end(ASKS, Part.QUALITY)
    assert todo.left_s() == 0


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.6, "1:02"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_times_are_minutes_until_they_are_hours(seconds, text):
    assert in_minutes(seconds) == text
