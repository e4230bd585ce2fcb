from __future__ import annotations

import pytest

from arvbench.reports.numbers import EN_DASH, interval_text, mib_cell, plain, scientific, shorten, significant
from arvbench.results.statistics import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.6, "1235"),
        (123.46, "123"),
        (12.346, "12.3"),
        (0.0012346, "0.00123"),
        (1.23e-7, "1.23e-07"),
        (2.5e7, "2.50e+07"),
        (-3.14159, "-3.14"),
        (float("nan"), "not a number"),
        (float("inf"), "∞"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_a_tolerance_shows_its_magnitude() -> None:
    assert scientific(0.0001) == "1.0e-04"
    assert scientific(0) == "0"


def test_mib_are_powers_of_two() -> None:
    assert mib_cell(2**20 * 12).text == "12.0"
    assert mib_cell(None).sort is None


def test_an_interval_has_digits_enough_to_tell_its_ends_apart() -> None:
    assert interval_text(Estimate(value=10.01, low=10.01, high=10.04, samples=5)) == f"10.01 {EN_DASH} 10.04"
    assert interval_text(Estimate(value=1, low=None, high=None, samples=1)) == "1 sample"


def test_control_and_direction_characters_do_not_survive() -> None:
    assert plain("a\x1b[31mb\u202ec\nd\x00") == "a�[31mb�c d�"


def test_a_long_name_keeps_both_ends() -> None:
    short = shorten("x" * 50 + "end", 20)
    assert len(short) == 20 and short.startswith("xxx") and short.endswith("end")
