"""Triton's interpreter at half its cost, with the same results bit for bit, and in large blocks where asked for.

Triton 3.x does three things over and over that change nothing:

- every call of a device function (`tl.sum` is one) exchanges all members of `triton.language` for interpreted ones,
  which the launch has done already and undoes at its end
- every addition, subtraction and product of integers computes whether it overflows, and asserts it in debug mode alone
- every value builds a table of all types

The first and the last are done once here, the second not at all. Names that begin with an underscore are Triton's own:
where a version does not have them, its interpreter stays as it is.

What is left is a cost per operation, whatever its size: attention of a whole model takes hours in blocks that suit a
GPU, and minutes in large ones.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

_changed: list[ModuleType] = []
_LARGEST_BLOCK = 256
_FEW_BLOCKS = 4
_enlarged: list[bool] = []


def enlarge_blocks() -> None:
    """Make `block_size` choose large blocks, from now to the end of this process."""
    _enlarged.append(True)


def block_size(usual: int, length: int) -> int:
    """Return the size of the blocks of `length` queries or keys: `usual`, or larger where there would be many.

    Few blocks stay as they are on a GPU, so that a kernel's loop over blocks runs in small models too.
    """
    if not _enlarged or length <= _FEW_BLOCKS * usual:
        return usual
    return max(usual, min(1 << (length - 1).bit_length(), _LARGEST_BLOCK))


def quicken_interpreter() -> bool:
    """Make Triton's interpreter cheaper in this process; return False where this version of Triton is not known."""
    try:
        interpreter = importlib.import_module("triton.runtime.interpreter")
        if interpreter in _changed:
            return True
        launch, patch = interpreter.GridExecutor.__call__, interpreter._patch_lang
        type_of, builder = interpreter._get_np_dtype, interpreter.interpreter_builder
        unchecked = builder.options if builder.options.debug else replace(builder.options, sanitize_overflow=False)
    except (ImportError, AttributeError, TypeError):
        return False
    _patch_once_per_launch(interpreter, launch, patch)
    _keep_types(interpreter, type_of)
    builder.options = unchecked
    _changed.append(interpreter)
    return True


def _patch_once_per_launch(interpreter: Any, launch: Any, patch: Any) -> None:
    patched: set[int] = set()

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        patched.clear()
        return launch(self, *args, **kwargs)

    def patch_once(function: Any) -> Any:
        # What is exchanged depends on the globals alone. The launch comes first and undoes what it did; device
        # functions come after it and undo nothing.
        module = id(function.__globals__)
        if module in patched:
            return None
        patched.add(module)
        return patch(function)

    interpreter.GridExecutor.__call__ = launched
    interpreter._patch_lang = patch_once


def _keep_types(interpreter: Any, type_of: Any) -> None:
    kept: dict[str, Any] = {}

    def kept_type(dtype: Any) -> Any:
        name = str(dtype)  # tells the type of the elements too; a block has no hash
        found = kept.get(name)
        if found is None:
            found = kept[name] = type_of(dtype)
        return found

    interpreter._get_np_dtype = kept_type
