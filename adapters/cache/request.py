"""Requests for cache policies: `window:4`, `linear:0.25` or `scalekv:0.1,calibration=FILE`.

A name alone asks for a policy without options. After the colon come `budget`, first and without its name, and other
options as `key=value`, all separated by commas. A suite may write the same as a mapping: `{policy: window, budget: 4}`.

A budget in tokens is a whole number. A fraction with a decimal point, such as 0.1, is a share of the tokens that are
cached before the last step, which is how ScaleKV's paper counts its 100 %; the share 1.0 is the whole cache.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.errors import UserError, shown

if TYPE_CHECKING:
    from arvbench.adapters.cache.policy import TokenOrder  # torch: a suite is read without it


class PolicyRequest(NamedTuple):
    """A policy's name in the table, and its options as they were written."""

    name: str
    options: Mapping[str, str]


def read_request(policy: str) -> PolicyRequest:
    """Split a request into the policy's name and its options. Raises UserError for text that is not of that form."""
    name, colon, rest = policy.partition(":")
    options: dict[str, str] = {}
    for number, part in enumerate(rest.split(",") if colon else ()):
        key, equals, value = part.partition("=")
        if not equals and number == 0:
            key, value = "budget", part
        if not key or not value or key in options:
            raise UserError(
                f"cache policy {shown(policy)}: write name, name:budget or name:budget,key=value,..., each key once"
            )
        options[key] = value
    return PolicyRequest(name, options)


def write_request(mapping: Mapping[str, Any]) -> str:
    """Write a mapping with the key `policy` as the text that `read_request` reads. Raises UserError without it."""
    options = {str(key): value for key, value in mapping.items() if key != "policy"}
    if not isinstance(mapping.get("policy"), str):
        raise UserError("a cache as a mapping needs policy, such as {policy: window, budget: 4}")
    budget = [str(options.pop("budget"))] if "budget" in options else []
    parts = budget + [f"{key}={value}" for key, value in options.items()]
    return str(mapping["policy"]) + (":" + ",".join(parts) if parts else "")


def is_lossy(policy: str | None) -> bool:
    """Return whether a policy reads something else than all that it was given; None, a backend's own, is exact."""
    return policy is not None and CACHE_POLICIES[read_request(policy).name].lossy


def check_keys(policy: str, options: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Raise UserError for an option that `policy` does not have."""
    if unknown := [key for key in options if key not in known]:
        raise UserError(f"cache policy {policy} has no option {shown(unknown[0])}; it has: {', '.join(known)}")


def budget_tokens(policy: str, options: Mapping[str, str], order: TokenOrder) -> int:
    """Return the budget in tokens per layer and head. Raises UserError unless it is in 1..all tokens."""
    text = _given_budget(policy, options)
    most = sum(order.tokens)
    if re.fullmatch(r"\d{1,12}", text):
        if not 1 <= (tokens := int(text)) <= most:
            raise UserError(f"cache policy {policy}: budget {text} must be in 1..{most}, the tokens of all steps")
        return tokens
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise UserError(
            f"cache policy {policy}: budget {shown(text)} is neither a number of tokens in 1..{most} nor a share above "
            "0 and up to 1.0"
        )
    return most if share == 1 else max(1, round(share * order.before(len(order.steps) - 1)))


def budget_steps(policy: str, options: Mapping[str, str], order: TokenOrder) -> int:
    """Return the budget in steps. Raises UserError unless it is in 1..all steps."""
    text, most = _given_budget(policy, options), len(order.steps)
    if not re.fullmatch(r"\d{1,12}", text) or not 1 <= int(text) <= most:
        raise UserError(f"cache policy {policy}: budget {shown(text)} must be a number of steps in 1..{most}")
    return int(text)


def whole_number(policy: str, options: Mapping[str, str], key: str, default: int) -> int:
    """Return a positive whole number among `options`. Raises UserError for any other text."""
    text = options.get(key, str(default))
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise UserError(f"cache policy {policy}: {key} {shown(text)} must be a whole number from 1 on")
    return int(text)


def _given_budget(policy: str, options: Mapping[str, str]) -> str:
    if "budget" not in options:
        raise UserError(f"cache policy {policy} needs a budget, such as {policy}:4")
    return options["budget"]
