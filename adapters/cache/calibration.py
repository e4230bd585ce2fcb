"""Calibration files: which layers are drafters (ScaleKV) and which heads are contextual (HACK), for one model.

A file is JSON, written by `arvbench cache calibrate` (`adapters.cache.calibrate`) and read here as data: nothing in it
is run. It names the weights that it was made with, by their digests, and serves no others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from arvbench.adapters.cache.policy import TokenOrder
from arvbench.adapters.model_files import WeightsInfo
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
    weights: tuple[str, ...]
    """Identity of the weights, see `weights_identity`."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """Settings, images and the numbers that decided: for readers, no policy looks at it."""


def weights_identity(weights: WeightsInfo) -> tuple[str, ...]:
    """Return the digests of the files of weights, each once; of random weights their source, such as "random:0"."""
    return (weights.source,) if weights.random else tuple(sorted(set(weights.sha256.values())))


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
            "weights": calibration.weights,
            "made": calibration.made,
        },
        indent=1,
    )


def read_calibration(path: str, order: TokenOrder, layers: int | None = None, heads: int | None = None) -> Calibration:
    """Read the file for a model of these scales, layers and heads (None: any). Raises UserError for another's."""
    found = _read(path)
    fits = found.sides == order.steps and layers in (None, found.layers) and heads in (None, found.heads)
    if not fits:
        raise UserError(
            f"the calibration file {shown(path)} is of another model: {shown(found.model)} with {found.layers} layers, "
            f"{found.heads} heads and {len(found.sides)} scales"
        )
    return found


def check_model(path: str, model: str) -> None:
    """Raise UserError for the calibration of a model with another name, which its weights could not be told from."""
    if (found := _read(path).model) != model:
        raise UserError(f"the calibration file {shown(path)} is of another model: {shown(found)}")


def check_weights(path: str, model: str, weights: Collection[str]) -> None:
    """Raise UserError for the calibration of other weights than `weights`, an identity of those of `model`.

    Nothing is known of the weights of a model on the meta device, which has none: an empty identity fits all.
    """
    found = _read(path)
    if not weights or set(found.weights) <= set(weights):
        return
    theirs, ours = (", ".join(_short(digest) for digest in sorted(side)) for side in (found.weights, weights))
    raise UserError(
        f"{model}: the calibration file {shown(path)} was made with other weights: {theirs} of {shown(found.model)}, "
        f"not {ours}; make one for these by `arvbench cache calibrate`"
    )


def _short(digest: str) -> str:
    return digest if digest.startswith("random") else f"sha256 {digest[:12]}"


def _read(path: str) -> Calibration:
    try:
        file = user_path(path)
        regular_file(file, most_bytes=_MOST_BYTES)
        state = file.stat()
        return _read_state(file, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(f"cannot read the calibration file {shown(path)}: {error.strerror}") from error
    except KeyError as error:
        raise UserError(f"{shown(path)} is not a calibration file: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not a calibration file: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=8)  # every sampling call checks its policy
def _read_state(file: Path, size: int, time_ns: int) -> Calibration:
    return _checked(json.loads(file.read_text(encoding="utf-8")))


def _checked(content: Any) -> Calibration:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    layers, heads = _count(content["layers"]), _count(content["heads"])
    sides = tuple((_count(height), _count(width)) for height, width in content["sides"])
    drafters = {int(scale): _members(chosen, layers) for scale, chosen in content["drafters"].items()}
    contextual = tuple(_members(chosen, heads) for chosen in content["contextual"])
    if len(contextual) != layers or any(not 0 <= scale < len(sides) for scale in drafters):
        raise ValueError("its lists do not have its numbers of layers and scales")
    weights = content["weights"]
    if not isinstance(weights, list) or not weights or not all(isinstance(digest, str) for digest in weights):
        raise ValueError("its weights are no list of digests")
    return Calibration(
        model=str(content["model"]),
        layers=layers,
        heads=heads,
        sides=sides,
        drafters=drafters,
        contextual=contextual,
        weights=tuple(weights),
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
