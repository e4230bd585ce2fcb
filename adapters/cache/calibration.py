"""Calibration files: which layers are drafters (ScaleKV) and which heads are contextual (HACK), for one model.

A file is JSON, written by `adapters.cache.calibrate` and read here as data: nothing in it is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arvbench.adapters.cache.policy import TokenOrder
from arvbench.errors import UserError, shown
from arvbench.paths import regular_file, user_path

FORMAT = "arvbench cache calibration 1"
_MOST_BYTES = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Kinds of layers and heads of one model."""

    model: str
    layers: int
    heads: int
    sides: tuple[tuple[int, int], ...]
    """Height and width of every scale."""
    drafters: Mapping[int, tuple[int, ...]]
    """Scale -> layers that are drafters there."""
    contextual: tuple[tuple[int, ...], ...]
    """Contextual heads of every layer."""


def write_calibration(calibration: Calibration) -> str:
    """Return the text of a calibration file."""
    return json.dumps(
        {
            "format": FORMAT,
            "model": calibration.model,
            "layers": calibration.layers,
            "heads": calibration.heads,
            "sides": calibration.sides,
            "drafters": {str(scale): layers for scale, layers in calibration.drafters.items()},
            "contextual": calibration.contextual,
        },
        indent=1,
    )


def read_calibration(path: str, order: TokenOrder, layers: int | None = None, heads: int | None = None) -> Calibration:
    """Read the file for a model of these scales, layers and heads (None: any). Raises UserError for another's."""
    try:
        file = user_path(path)
        regular_file(file, most_bytes=_MOST_BYTES)
        found = _checked(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot read the calibration file {shown(path)}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not a calibration file: {' '.join(str(error).split())}") from error
    fits = found.sides == order.steps and layers in (None, found.layers) and heads in (None, found.heads)
    if not fits:
        raise UserError(
            f"the calibration file {shown(path)} is of another model: {shown(found.model)} with {found.layers} layers, "
            f"{found.heads} heads and {len(found.sides)} scales"
        )
    return found


def _checked(content: Any) -> Calibration:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    layers, heads = _count(content["layers"]), _count(content["heads"])
    sides = tuple((_count(height), _count(width)) for height, width in content["sides"])
    drafters = {int(scale): _members(chosen, layers) for scale, chosen in content["drafters"].items()}
    contextual = tuple(_members(chosen, heads) for chosen in content["contextual"])
    if len(contextual) != layers or any(not 0 <= scale < len(sides) for scale in drafters):
        raise ValueError("its lists do not have its numbers of layers and scales")
    return Calibration(
        model=str(content["model"]),
        layers=layers,
        heads=heads,
        sides=sides,
        drafters=drafters,
        contextual=contextual,
    )


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**20:
        raise ValueError(f"{shown(str(value))} is no number of layers, heads or tokens")
    return value


def _members(chosen: Any, most: int) -> tuple[int, ...]:
    members = tuple(chosen)
    if any(isinstance(m, bool) or not isinstance(m, int) or not 0 <= m < most for m in members):
        raise ValueError(f"a list names a layer or head that is not in 0..{most - 1}")
    return tuple(sorted(set(members)))
