"""Counts of how hard the code is to read: `python tests/support/measures.py [CHECKOUT]`.

Static counts need only the sources; files on a way are those in which a function runs, counted on real calls.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
PARTS = ("harness", "adapters", "kernels", "reports", "results", "src/arvbench")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    files = {path.resolve() for part in PARTS for path in (ROOT / part).glob("*.py" if "/" in part else "**/*.py")}
    return sorted(files)


def nodes() -> Iterator[ast.AST]:
    for path in sources():
        yield from ast.walk(ast.parse(path.read_text()))


def parameters(function: Function) -> int:
    listed = function.args
    names = [argument.arg for argument in (*listed.posonlyargs, *listed.args, *listed.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")]) + bool(listed.vararg) + bool(listed.kwarg)


def static_counts() -> dict[str, int]:
    functions = [node for node in nodes() if isinstance(node, Function)]
    texts = [path.read_text() for path in sources()]
    tests = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    docstrings = [
        node.value.value
        for node in nodes()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return {
        "lines of source": sum(len(text.splitlines()) for text in texts),
        "lines of tests": sum(len(text.splitlines()) for text in tests),
        "files of source": len(texts),
        "files over 400 lines": sum(len(text.splitlines()) > 400 for text in texts),
        "functions": len(functions),
        "functions over 50 lines": sum((f.end_lineno or 0) - f.lineno + 1 > 50 for f in functions),
        "functions with more than 6 parameters": sum(parameters(f) > 6 for f in functions),
        "docstrings that begin with What, How or Whether": sum(
            bool(re.match(r"(What|How|Whether)\b", text)) for text in docstrings
        ),
        "banners": sum(len(re.findall(r"^\s*# ----", text, re.MULTILINE)) for text in texts),
        "monkeypatch.setattr in tests": sum(text.count("monkeypatch.setattr") for text in tests),
        **{
            f"files that name {family}": len(
                subprocess.run(
                    ["git", "-C", str(ROOT), "grep", "-lwiE", pattern, "--", "*.py", "*.yaml", "*.csv", "README.md"],
                    capture_output=True,
                    text=True,
                ).stdout.splitlines()
            )
            for family, pattern in (("PAR", "par|par_.*|demo/par|ParSampler"), ("FlexVAR", "flexvar.*|DEMO_FLEXVAR"))
        },
    }


def files_on_the_way(call: Callable[[], object]) -> int:
    """Files of the package in which a function runs during `call`."""
    seen: set[str] = set()

    def watch(frame: object, event: str, _argument: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        if event == "call" and code.co_name != "<module>":
            seen.add(os.path.realpath(code.co_filename))

    call()  # imports and caches are not part of the way
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(seen & {str(path) for path in sources()})


def way_of_an_image(folder: Path) -> None:
    from arvbench.harness.cli import main

    arguments = [str(folder / "samples.npz"), "--reference", "digits", "--protocol", "digits-cnn", "--metrics", "fid"]
    assert main(["eval", *arguments, "--bootstrap", "0", "--json"]) == 0


def way_of_a_label(model: str) -> None:
    from arvbench.adapters import PerImageNoise, load_sampler

    sampler = load_sampler(model, weights="demo")
    sampler.sample([1, 2], sampler.spec.settings, noise=PerImageNoise(0, [0, 1]))


def main() -> None:
    for name, count in static_counts().items():
        print(f"{count:7,}  {name}")
    sys.path.insert(0, str(ROOT / "src"))
    with tempfile.TemporaryDirectory() as name:
        import numpy as np

        from arvbench.adapters.loading import load_sampler  # noqa: F401  (imports torch once)

        np.savez(Path(name) / "samples.npz", arr_0=np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), "uint8"))
        ways: dict[str, Callable[[], object]] = {
            "files on the way of an image to an FID": lambda: way_of_an_image(Path(name)),
            **{f"files on the way of a label, {m}": (lambda m=m: way_of_a_label(m)) for m in ("demo/var", "demo/hmar")},
        }
        for title, call in ways.items():
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                count = files_on_the_way(call)
            print(f"{count:7,}  {title}")


if __name__ == "__main__":
    main()
