"""Run `arvbench` with Triton's interpreter asked for, and count the calls of every implementation of every kernel.

    python counted_kernels.py verify FIXTURE.json --backend optimized --kernels interpreter --json

The last line of stderr is a JSON object: operation -> implementation -> calls, those that were called alone. Calls
that a Triton kernel handed to another implementation count once more, as "elsewhere".
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any


def count(targets: Mapping[str, Mapping[str, str]]) -> dict[str, Counter[str]]:
    """Count from now on the calls of operation -> implementation -> "module:attribute"."""
    calls = {operation: Counter[str]() for operation in targets}
    for operation, implementations in targets.items():
        for name, target in implementations.items():
            module, _, attribute = target.partition(":")
            counted = _counted(getattr(importlib.import_module(module), attribute), calls[operation], name)
            setattr(importlib.import_module(module), attribute, counted)
    return calls


def _counted(function: Callable[..., Any], calls: Counter[str], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return function(*args, **kwargs)

    return called


def main() -> int:
    """Run the command line; return its exit code."""
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
    from arvbench.harness.cli import main as run
    from arvbench.kernels import KERNELS, dispatch

    calls = count(
        {name: {"torch": spec.reference, "triton": spec.fast, **spec.others} for name, spec in KERNELS.items()}
    )
    elsewhere = dispatch._Guarded._elsewhere

    def counted(guarded: Any, *args: Any) -> Any:
        calls[guarded.spec.name]["elsewhere"] += 1
        return elsewhere(guarded, *args)

    dispatch._Guarded._elsewhere = counted  # type: ignore[method-assign]
    code = run()
    print(json.dumps({name: by_name for name, by_name in calls.items() if by_name}), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
