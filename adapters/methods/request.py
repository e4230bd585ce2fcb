"""Requests for methods: `code:6,refiner=var-d16`, `fastvar:0.4/0.5,skip=2` or `skip:2`, after the name of a model.

The first option has no name, as in a request for a cache policy. A suite may write the same as a mapping: `{method:
skip, scales: 2}`.

code     drafted scales; refiner=MODEL, and weights=SOURCE where the refiner's are not beside the drafter's
fastvar  shares of tokens to prune at the finest scales that run, the finest last; skip=SCALES, from=LAYER (layers
         before it compute all tokens), cache=SIDE (of the scale whose outputs stand in)
skip     finest scales that are left out
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName, UserError, shown

if TYPE_CHECKING:
    from arvbench.adapters.sampler import ModelSpec  # torch: a suite is read without it

FIRST_OPTIONS: Mapping[str, str] = {"code": "steps", "fastvar": "shares", "skip": "scales"}
"""Method -> the option that is written first, without its name. All of them are lossy: they draw other tokens."""
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "code": ("steps", "refiner", "weights"),
    "fastvar": ("shares", "skip", "from", "cache"),
    "skip": ("scales",),
}
RUNS_ON = ("var",)
"""Families whose models can run methods."""


def read_method(text: str) -> tuple[str, dict[str, str]]:
    """Split a request into the method's name and its options. Raises UserError for text that is not of that form."""
    name, colon, rest = text.partition(":")
    if name not in FIRST_OPTIONS:
        raise UnknownName("method", name, FIRST_OPTIONS)
    options: dict[str, str] = {}
    for number, part in enumerate(rest.split(",") if colon else ()):
        key, equals, value = part.partition("=")
        if not equals and number == 0:
            key, value = FIRST_OPTIONS[name], part
        if not key or not value or key in options:
            raise UserError(f"method {shown(text)}: write name:{FIRST_OPTIONS[name]},key=value,..., each key once")
        if key not in _OPTIONS[name]:
            raise UserError(f"method {name} has no option {shown(key)}; it has: {', '.join(_OPTIONS[name])}")
        options[key] = value
    if FIRST_OPTIONS[name] not in options:
        raise UserError(f"method {name} needs {FIRST_OPTIONS[name]}, such as {name}:{_EXAMPLES[name]}")
    return name, options


_EXAMPLES: Mapping[str, str] = {"code": "6,refiner=var-d16", "fastvar": "0.4/0.5", "skip": "2"}


def write_method(mapping: Mapping[str, Any]) -> str:
    """Write a mapping with the key `method` as the text that `read_method` reads. Raises UserError without it."""
    name = mapping.get("method")
    if not isinstance(name, str):
        raise UserError("a method as a mapping needs method, such as {method: skip, scales: 2}")
    options = {str(key): value for key, value in mapping.items() if key != "method"}
    first = options.pop(FIRST_OPTIONS.get(name, ""), None)
    if isinstance(first, list):
        first = "/".join(map(str, first))
    parts = [] if first is None else [str(first)]
    parts += [f"{key}={value}" for key, value in options.items()]
    return name + (":" + ",".join(parts) if parts else "")


def with_method(spec: ModelSpec, method: str | None) -> ModelSpec:
    """Return `spec` with a method over its schedule; itself for None.

    Raises UnknownName or UserError for a request that this model cannot run, with the families that can.
    """
    if method is None:
        return spec
    name, options = read_method(method)
    if spec.family not in RUNS_ON or spec.plain is not None:
        raise UserError(
            f"method {name} does not run on {spec.name} (family {spec.family}); it runs on: {', '.join(RUNS_ON)}"
        )
    return _MAKE[name](spec, options)


def spec_of(model: str, method: str | None) -> ModelSpec:
    """Return the spec of a known model with its method; errors as `with_method`."""
    return with_method(MODELS[model], method)


def _code(spec: ModelSpec, options: Mapping[str, str]) -> ModelSpec:
    from arvbench.adapters.methods.code import code_spec

    if "refiner" not in options:
        raise UserError("method code needs the name of its refiner, such as code:6,refiner=var-d16")
    steps = _whole("code", "steps", options["steps"])
    if not 1 <= steps < spec.steps:
        raise UserError(
            f"method code: {steps} drafted scales must be in 1..{spec.steps - 1}: {spec.name} has {spec.steps}"
        )
    return code_spec(spec, MODELS[options["refiner"]], steps, refiner_weights=options.get("weights"))


def _fastvar(spec: ModelSpec, options: Mapping[str, str]) -> ModelSpec:
    from arvbench.adapters.methods.fastvar import pruned_spec

    shares = [_share(text) for text in options["shares"].split("/")]
    return pruned_spec(
        spec,
        shares,
        skip=_whole("fastvar", "skip", options.get("skip", "0")),
        first_layer=_whole("fastvar", "from", options.get("from", "0")),
        cache_side=_whole("fastvar", "cache", options["cache"]) if "cache" in options else None,
    )


def _skip(spec: ModelSpec, options: Mapping[str, str]) -> ModelSpec:
    from arvbench.adapters.methods.fastvar import pruned_spec

    scales = _whole("skip", "scales", options["scales"])
    if not 1 <= scales < spec.steps:
        raise UserError(f"method skip: {scales} scales must be in 1..{spec.steps - 1}: {spec.name} has {spec.steps}")
    return pruned_spec(spec, (), skip=scales)


def _whole(method: str, key: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"method {method}: {key} {shown(text)} must be a whole number")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"0?\.\d{1,9}", text) or float(text) == 0:
        raise UserError(f"method fastvar: {shown(text)} must be a share of tokens above 0 and below 1, such as 0.4")
    return float(text)


_MAKE: Mapping[str, Callable[[ModelSpec, Mapping[str, str]], ModelSpec]] = {
    "code": _code,
    "fastvar": _fastvar,
    "skip": _skip,
}
