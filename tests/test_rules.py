"""The rules of the house that a linter does not know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("harness", "adapters", "kernels", "reports", "results")
LEAVES = {"arvbench", "arvbench.errors", "arvbench.registry"}
"""Modules below no part, which every part may import."""
MAY_IMPORT = {
    "harness": set(PARTS),
    "reports": {"reports", "results"},
    "adapters": {"adapters", "kernels"},
    "kernels": {"kernels"},
    "results": {"results"},
}
KERNEL_LIBRARIES = {"torch", "triton"}
MAX_LINES = 450


def sources(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_only_what_they_may(part):
    for path in sources(part):
        for name in imported(path):
            if name.split(".")[0] != "arvbench" or name in LEAVES:
                continue
            assert name.split(".")[1] in MAY_IMPORT[part], f"{path.relative_to(ROOT)} imports {name}"


def test_kernels_need_only_torch_and_triton():
    import sys

    for path in sources("kernels"):
        foreign = {n.split(".")[0] for n in imported(path)} - set(sys.stdlib_module_names) - {"arvbench"}
        assert foreign <= KERNEL_LIBRARIES, f"{path.relative_to(ROOT)} imports {foreign - KERNEL_LIBRARIES}"


def test_leaves_import_nothing_of_ours_but_each_other():
    for path in (ROOT / "src" / "arvbench").glob("*.py"):
        if path.name != "__main__.py":
            assert {n for n in imported(path) if n.startswith("arvbench")} <= LEAVES


def test_every_part_is_linked_into_the_package():
    for part in PARTS:
        assert (ROOT / "src" / "arvbench" / part).resolve() == ROOT / part


def test_files_stay_small():
    for part in PARTS:
        for path in sources(part):
            lines = len(path.read_text().splitlines())
            assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines: one idea per file"


def test_committed_data_stays_small():
    for path in ROOT.rglob("*.safetensors"):
        if ".venv" not in path.parts:
            assert path.stat().st_size <= 2 * 2**20, f"{path} is larger than 2 MiB"
