"""The rules of the house that a linter does not know."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("harness", "adapters", "kernels", "reports", "results")
LEAVES = {
    "arvbench", "arvbench.disk", "arvbench.errors", "arvbench.exits", "arvbench.files", "arvbench.interrupts",
    "arvbench.numbers", "arvbench.paths", "arvbench.registry",
}  # fmt: skip
"""Modules below no part, which every part may import."""
MAY_IMPORT = {
    "harness": set(PARTS),
    "reports": {"reports", "results"},
    "adapters": {"adapters", "kernels"},
    "kernels": {"kernels"},
    "results": {"results"},
}
KERNEL_LIBRARIES = {"torch", "triton"}
STAIR = (
    ("cli",),
    ("commands",),
    ("gpu",),
    ("versus", "claims", "history", "reproduce"),
    ("check",),
    ("run", "training"),
    ("measure",),
    ("suites", "diagnosis"),
    ("quality",),
    ("verify", "data", "machine", "jobs"),
)
"""Folders and files of harness, from the top: each imports only from floors below its own."""
QUALITY_STAIR = (
    ("evaluation",),
    ("detectors",),
    ("reference",),
    ("protocols",),
    ("features",),
    ("metrics", "images"),
    ("extractors", "identity"),
)
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_VERB_LINES = 400, 50, 6, 15
LONGER_FUNCTIONS: dict[str, str] = {
    "kernels/scale_attention/triton.py:_scale_attention_kernel": "one program in Triton, which has loops of its own",
    "kernels/wavefront_attention/triton.py:_wavefront_attention_kernel": "one program in Triton, with two loops",
}
"""Function -> why it may have more than 50 lines."""
MORE_PARAMETERS: dict[str, str] = {}
"""Function -> why it may have more than six parameters; Triton kernels may, for pointers, strides and block sizes."""


def sources(part: str) -> list[Path]:
    # A user's runs are not ours; the trials of the gate keep a clone of the repository there.
    return sorted(path for path in (ROOT / part).rglob("*.py") if ROOT / "results" / "runs" not in path.parents)


def all_sources() -> list[Path]:
    return [path for part in PARTS for path in sources(part)] + sorted((ROOT / "src" / "arvbench").glob("*.py"))


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts[2:] if parts[0] == "src" else ["arvbench", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in all_sources()}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def our_imports(path: Path) -> set[str]:
    """Our modules that a file imports anywhere, lazily too; `from package import module` names the module."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in MODULES else str(node.module) for member in members}
    return found & MODULES.keys() - {module_of(path)}


@cache
def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """("folder/file.py:name", function) of the whole package, methods and inner functions included."""
    return [
        (f"{path.relative_to(ROOT)}:{node.name}", node)
        for path in all_sources()
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def is_triton_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("triton.jit") for decorator in function.decorator_list)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body after the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    listed = function.args
    names = [argument.arg for argument in (*listed.posonlyargs, *listed.args, *listed.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")]) + bool(listed.vararg) + bool(listed.kwarg)


@cache
def is_verb(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True for a function whose parameters are options of the command line."""
    annotations = [ast.unparse(argument.annotation) for argument in function.args.args if argument.annotation]
    in_commands = name.startswith("harness/commands/") and not function.name.startswith("_")
    return in_commands and bool(annotations) and "Examples:" in (ast.get_docstring(function) or "")


@cache
def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in the file."""
    names = set()
    for node in nodes(path):
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


def test_no_circle_of_files():
    """Lazy imports count: a circle behind one is a circle still."""
    above: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        if module in above:
            pytest.fail(" -> ".join([*above[above.index(module) :], module]))
        if module not in done:
            above.append(module)
            for imported_module in sorted(our_imports(MODULES[module])):
                visit(imported_module)
            done.add(above.pop())

    for module in MODULES:
        visit(module)


@pytest.mark.parametrize(("folder", "stair"), [("harness", STAIR), ("harness.quality", QUALITY_STAIR)])
def test_folders_import_only_downwards(folder, stair):
    floor = {name: number for number, names in enumerate(stair) for name in names}
    prefix = f"arvbench.{folder}."
    unplaced = {module.removeprefix(prefix).split(".")[0] for module in MODULES if module.startswith(prefix)} - {*floor}
    assert unplaced <= {"__init__"}, f"where on the stair of {folder} are {unplaced}?"
    for module, path in MODULES.items():
        for other in our_imports(path):
            if module.startswith(prefix) and other.startswith(prefix):
                here, there = (name.removeprefix(prefix).split(".")[0] for name in (module, other))
                assert here == there or floor[here] < floor[there], f"{module} imports {other}, which is not below it"


def test_files_stay_small():
    for path in all_sources():
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_FILE_LINES, f"{path.relative_to(ROOT)} has {lines} lines: one idea per file"


def test_functions_stay_small():
    """A verb of the command line has as many options as it needs, and a short body."""
    long = {}
    for name, function in functions():
        if is_verb(name, function):
            assert body_lines(function) <= MAX_VERB_LINES, f"{name} does more than parse, call and print"
        elif lines_of(function) > MAX_FUNCTION_LINES:
            long[name] = lines_of(function)
    assert long.keys() == LONGER_FUNCTIONS.keys(), long


def test_functions_take_few_parameters():
    ours = [(name, function) for name, function in functions() if not is_verb(name, function)]
    many = {name: parameters_of(function) for name, function in ours if not is_triton_kernel(function)}
    many = {name: count for name, count in many.items() if count > MAX_PARAMETERS}
    assert many.keys() == MORE_PARAMETERS.keys(), many


def test_docstrings_begin_with_a_verb_or_a_noun():
    for path in all_sources():
        for node in nodes(path):
            text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
            if isinstance(text, str):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert not re.match(r"\s*(What|How|Whether)\b", text), f"{where} begins with {text.split()[0]}"


def test_no_banners():
    for path in all_sources():
        assert not re.search(r"^\s*# ?-{4}", path.read_text(), re.MULTILINE), f"{path.relative_to(ROOT)} has banners"


def test_committed_data_stays_small():
    for path in ROOT.rglob("*.safetensors"):
        if ".venv" not in path.parts:
            assert path.stat().st_size <= 2 * 2**20, f"{path} is larger than 2 MiB"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a checkout knows what is committed")
def test_no_committed_file_is_one_that_git_ignores():
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
