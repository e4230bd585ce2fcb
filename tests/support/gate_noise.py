"""Simulation of the gate's rule on five kinds of noise, and the table of it in docs/gate.md.

    python tests/support/gate_noise.py            # writes the tables into docs/gate.md
    python tests/support/gate_noise.py --draws 200

Launches are processes that run in the order base head, head base, base head, and so on.

Shapes   (draws, numbers, launches): `numbers` of one check are one family
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arvbench.harness.check.judge import detectable, findings, judge, screen_detectable, suspected
from arvbench.harness.check.launch_tests import compare, holm
from arvbench.harness.check.rule import Rule, can_alarm, of_look

DOCS = Path(__file__).parents[2] / "docs" / "gate.md"
CHANGES = (0.0, 0.03, 0.05, 0.10)
LAUNCHES = (5, 8, 10)
NUMBERS = 20
DRAWS = 2000
SCATTER = 0.015

Floats = np.ndarray
Noise = Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]]


def gaussian(rng, shape):
    return rng.normal(0, SCATTER, shape), rng.normal(0, SCATTER, shape)


def two_modes(rng, shape):
    base, head = gaussian(rng, shape)
    return base + 0.12 * (rng.random(shape) < 0.5), head + 0.12 * (rng.random(shape) < 0.5)


def drift(rng, shape):
    base, head = gaussian(rng, shape)
    place = np.arange(2 * shape[-1])
    of_base = np.isin(place % 4, (0, 3))
    over_job = 0.06 * place / place[-1]
    return base + over_job[of_base], head + over_job[~of_base]


def rare_slow(rng, shape):
    base, head = gaussian(rng, shape)
    return base + 0.15 * (rng.random(shape) < 0.15), head + 0.15 * (rng.random(shape) < 0.15)


def wider_head(rng, shape):
    return rng.normal(0, SCATTER, shape), rng.normal(0, 3 * SCATTER, shape)


NOISES: dict[str, Noise] = {
    "Gaussian 1.5 %": gaussian,
    "two modes, 12 % apart, half of the launches each": two_modes,
    "drift of 6 % over the job": drift,
    "15 % of launches 15 % slower": rare_slow,
    "Gaussian, 1.5 % in base and 4.5 % in head": wider_head,
}


@dataclass(frozen=True)
class Shares:
    """Shares of numbers by verdict, and of checks with any number of one."""

    regression: float
    improvement: float
    inconclusive: float
    passed: float
    any_regression: float
    any_improvement: float


def times(noise: Noise, rng: np.random.Generator, shape: tuple[int, ...], change: float) -> tuple[Floats, Floats]:
    """Draw launches of both sides; head is slower by `change`."""
    base, head = noise(rng, shape)
    return 1 + base, (1 + head) * (1 + change)


def simulate(noise: Noise, change: float, launches: int, *, numbers: int, draws: int, seed: int = 0) -> Shares:
    """Judge `draws` checks of `numbers` numbers by one stage; all numbers are slower by `change`."""
    found = judge(*times(noise, np.random.default_rng(seed), (draws, numbers, launches), change), Rule())
    return _shares(found.up, found.down, found.blind)


def simulate_stages(noise: Noise, change: float, launches: int, *, numbers: int, draws: int, seed: int = 0) -> Shares:
    """Judge by both stages; a number that the first one suspects is decided by fresh launches alone."""
    rng, rule = np.random.default_rng(seed), Rule(launches=launches)
    few = (rule.screen_launches, rule.screen_launches)
    first = compare(*times(noise, rng, (draws, numbers, rule.screen_launches), change), rule)
    again = suspected(first, rule) | (screen_detectable(first.scatter, few, numbers, rule) > rule.blind)
    second = compare(*times(noise, rng, (draws, numbers, launches), change), rule)
    # Cleared numbers stay in the family with p = 1.
    p_up, p_down = (holm(np.where(again, side.p, 1.0), numbers) for side in (second.up, second.down))
    found = findings(second, p_up, p_down, detectable(second.scatter, (launches, launches), numbers, rule), rule)
    return _shares(found.up & again, found.down & again, found.blind & again)


def simulate_looks(
    noise: Noise, change: float, looks: int, *, numbers: int, draws: int, launches: int = 10, seed: int = 0
) -> Shares:
    """Judge by both stages and further looks, each with `launches` more of what is inconclusive.

    Here a check goes on even when another of its numbers is decided: more looks than anyone gets.
    """
    rng, rule = np.random.default_rng(seed), of_look(Rule(launches=launches), 1)
    few = (rule.screen_launches, rule.screen_launches)
    first = compare(*times(noise, rng, (draws, numbers, rule.screen_launches), change), rule)
    open_ = suspected(first, rule) | (screen_detectable(first.scatter, few, numbers, rule) > rule.blind)
    parts = [times(noise, rng, (draws, numbers, launches), change) for _ in range(looks)]
    up, down = np.zeros_like(open_), np.zeros_like(open_)
    for look in range(1, 1 + looks):
        rule = of_look(Rule(launches=launches), look)
        base, head = (np.concatenate([part[side] for part in parts[:look]], axis=-1) for side in (0, 1))
        found, counts = compare(base, head, rule), (look * launches, look * launches)
        p_up, p_down = (holm(np.where(open_, side.p, 1.0), numbers) for side in (found.up, found.down))
        now = findings(found, p_up, p_down, detectable(found.scatter, counts, numbers, rule), rule)
        up, down = up | (now.up & open_), down | (now.down & open_)
        open_ = open_ & now.blind & ~now.up & ~now.down
    return _shares(up, down, open_)


def _shares(up, down, blind) -> Shares:
    unclear = blind & ~up & ~down
    return Shares(
        regression=float(up.mean()),
        improvement=float(down.mean()),
        inconclusive=float(unclear.mean()),
        passed=float((~up & ~down & ~unclear).mean()),
        any_regression=float(up.any(axis=-1).mean()),
        any_improvement=float(down.any(axis=-1).mean()),
    )


def power_at_detectable(noise: Noise, launches: int, *, numbers: int, draws: int, seed: int = 0) -> float:
    """Return the share of changes found that are as large as one run said would be found, in another run."""
    rng, rule, shape = np.random.default_rng(seed), Rule(), (draws, numbers, launches)
    seen = detectable(compare(*times(noise, rng, shape, 0.0), rule).scatter, (launches, launches), numbers, rule)
    base, head = times(noise, rng, shape, 0.0)
    return float(judge(base, head * (1 + seen[..., None]), rule).up.mean())


def median_detectable(noise: Noise, launches: int, *, numbers: int, draws: int, seed: int = 0) -> float:
    rng, rule, shape = np.random.default_rng(seed), Rule(), (draws, numbers, launches)
    scatter = compare(*times(noise, rng, shape, 0.0), rule).scatter
    return float(np.median(detectable(scatter, (launches, launches), numbers, rule)))


def one_number(draws: int) -> str:
    """Return the table of one gated number as Markdown."""
    rows = [
        "| noise | launches per side | no change | 3 % slower | 5 % slower | 10 % slower | MDE | found at the MDE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, noise in NOISES.items():
        for launches in LAUNCHES:
            cells = [_cell(simulate(noise, change, launches, numbers=1, draws=draws)) for change in CHANGES]
            rows.append(f"| {name} | {launches} | {' | '.join(cells)} | {_mde(noise, launches, 1, draws)} |")
    return "\n".join(rows)


def many_numbers(draws: int) -> str:
    """Return the table of a check of 20 numbers, by both stages."""
    rows = ["| noise | launches per side, second stage | checks with any regression | with any improvement | numbers "
            "inconclusive | 10 % slower: found, inconclusive, passed | MDE | found at the MDE |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, noise in NOISES.items():
        for launches in LAUNCHES:
            if not can_alarm(launches, launches, NUMBERS, Rule()):
                rows.append(f"| {name} | {launches} | refused: 7 are needed | | | | | |")
                continue
            quiet = simulate_stages(noise, 0.0, launches, numbers=NUMBERS, draws=5 * draws)
            slow = simulate_stages(noise, 0.10, launches, numbers=NUMBERS, draws=draws // 10)
            shares = f"{quiet.any_regression:.1%} | {quiet.any_improvement:.1%} | {quiet.inconclusive:.1%}"
            found = f"{slow.regression:.1%}, {slow.inconclusive:.1%}, {slow.passed:.1%}"
            rows.append(f"| {name} | {launches} | {shares} | {found} | {_mde(noise, launches, NUMBERS, draws // 10)} |")
    return "\n".join(rows)


def _cell(shares: Shares) -> str:
    return f"{shares.regression:.1%}, {shares.inconclusive:.1%}"


def _mde(noise: Noise, launches: int, numbers: int, draws: int) -> str:
    options = {"numbers": numbers, "draws": draws}
    return (
        f"{median_detectable(noise, launches, **options):.1%} | {power_at_detectable(noise, launches, **options):.0%}"
    )


def replace_between(text: str, name: str, table: str) -> str:
    """Put a table between its two marks in a document."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, _, rest = text.partition(begin)
    return head + begin + "\n" + table + "\n\n" + end + rest.partition(end)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS)
    draws = parser.parse_args().draws
    text = DOCS.read_text(encoding="utf-8")
    text = replace_between(text, "one number", one_number(draws))
    text = replace_between(text, "20 numbers", many_numbers(draws))
    DOCS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
