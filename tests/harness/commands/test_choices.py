"""Lists of exact and lossy choices are shown where a user chooses, as the classes declare them."""

from __future__ import annotations

import re
from pathlib import Path

from arvbench.adapters import exactness
from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.methods.request import FIRST_OPTIONS
from arvbench.harness.cli import main
from arvbench.harness.commands.choices import EXACT_CACHES, EXACT_DTYPES, LOSSY_CACHES, LOSSY_DTYPES, exactness_rows

PAGE = Path(__file__).parents[3] / "docs" / "caches.md"


def test_the_lists_are_what_policies_and_dtypes_declare():
    assert tuple(name for name, kind in CACHE_POLICIES.items() if not kind.lossy) == EXACT_CACHES
    assert tuple(name for name, kind in CACHE_POLICIES.items() if kind.lossy) == LOSSY_CACHES
    assert {name: name in LOSSY_DTYPES for name in EXACT_DTYPES + LOSSY_DTYPES} == exactness.LOSSY_DTYPES


def test_models_and_help_show_them(capsys):
    assert main(["models"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for choice, text in exactness_rows():
        assert f"{choice} {text}" in shown
    assert main(["sample", "--help"]) == 0
    assert "linear" in capsys.readouterr().out


def test_the_page_has_every_choice_with_its_class():
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [^|]+ \| (exact|lossy) \|", line)]
    for names, kind in ((EXACT_CACHES, "exact"), (LOSSY_CACHES, "lossy"), (FIRST_OPTIONS, "lossy")):
        for name in names:
            (row,) = [row for row in rows if re.search(rf"`{name}[:`]", row)]
            assert f"| {kind} |" in row, row
