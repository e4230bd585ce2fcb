"""Sweeps: which cases of a product are measured, and by whom.

`exclude` of a suite takes cases out of the product, `models` lays settings over a case for some of its models, and a
shard is the part of a suite that one of several machines measures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from arvbench.errors import UserError, shown
from arvbench.harness.jobs import Shard
from arvbench.results.schema import CaseConfig

MAPPINGS = ("settings", "quality", "energy", "search", "kernels")
"""Keys of a case whose values are mappings, merged key by key."""
_FIXED = ("model", "recipe")
"""Keys that settings of a model cannot change: they are chosen before."""


def parse_shard(text: str) -> Shard:
    """Read "k/n". Raises UserError for another form and for k outside 1..n."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        raise UserError(f"shard {shown(text)}: write k/n with k from 1 to n, such as 2/8")
    return Shard(index, count)


def settings_of_model(model: str, by_pattern: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the layers of settings for a model, in the order written."""
    return [layer for pattern, layer in by_pattern.items() if fnmatchcase(model, pattern)]


def check_settings_of_models(by_pattern: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError for keys that settings of a model cannot have."""
    for pattern, layer in by_pattern.items():
        if fixed := [key for key in layer if key in _FIXED]:
            raise UserError(f"models {pattern!r}: {fixed[0]} cannot be set by model; write a case of its own")


def matches(config: CaseConfig, rule: Mapping[str, Any]) -> bool:
    """Return whether a case has every value of a rule: of a list any of its values, of `model` any pattern."""
    fields = config.model_dump(mode="json")
    return all(_has(fields.get(key), wanted, pattern=key == "model") for key, wanted in rule.items())


def _has(value: Any, wanted: Any, *, pattern: bool = False) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(key in value and _has(value[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list) and not isinstance(value, list):
        return any(_has(value, one, pattern=pattern) for one in wanted)
    return fnmatchcase(value, str(wanted)) if pattern else bool(value == wanted)


def without(configs: Sequence[CaseConfig], rules: Sequence[Mapping[str, Any]], *, strict: bool) -> list[CaseConfig]:
    """Return the cases that match no rule.

    Raises UserError where none is left, and with `strict` for a rule that matches no case: it says less than it seems.
    """
    used: set[int] = set()
    left = []
    for config in configs:
        found = [place for place, rule in enumerate(rules) if matches(config, rule)]
        used.update(found)
        if not found:
            left.append(config)
    idle = [rule for place, rule in enumerate(rules) if place not in used]
    if idle and strict:
        raise UserError(f"exclude {shown(dict(idle[0]))} matches no case")
    if configs and not left:
        raise UserError("exclude leaves no case")
    return left


def without_key(layer: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a layer without one key."""
    return {name: value for name, value in layer.items() if name != key}


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of settings; later ones win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            merged[key] = _merge_mappings(merged.get(key), value) if key in MAPPINGS else value
    return merged


def _merge_mappings(below: Any, above: Any) -> Any:
    """Merge mappings key by key, and a mapping with each mapping in a list; anything else is replaced."""
    if isinstance(above, dict) and isinstance(below, dict):
        return below | above
    if isinstance(above, dict) and isinstance(below, list):
        return [element | above if isinstance(element, dict) else element for element in below]
    if isinstance(above, list) and isinstance(below, dict):
        return [below | element if isinstance(element, dict) else element for element in above]
    return above
