"""Suites: from a YAML file to a list of cases.

A suite has `name`, `description`, `defaults` and `cases`. Settings are merged in this order, later ones win: defaults <
recipe < case < command line. `settings` and `quality` are merged key by key, everything else is replaced. After
merging, a list in a case stands for one case per element (`batch: [1, 8]`), several lists for their product; `settings`
and `quality` may be lists of mappings. A model may be a pattern (`var-*`).

Only a case with `recipe: official` has a recipe layer: dtype, sampling settings and, if the case asks for quality, the
number of images, labels, resize, seed and reference behind the model's published numbers
(arvbench.harness.suites.recipes). It lies above the suite's defaults, so that a default for all models changes no
recipe. Changes of it by case and command line are recorded as deviations. `recipe: null` removes the layer.

`exclude` of a suite is a list of rules: a case that has every value of one is taken out (a list of values: any of them;
`model`: a pattern). `include` is a list of further cases, which no rule takes out. `models` lays settings over a case
for models by pattern (`models: {var-d30: {batch: [1, 8]}}`): above the case, below the command line.

`launches: N` measures a case in N processes. They come in rounds, the first launches of all cases before the second
ones, so that a machine that slows down in the meantime slows all cases alike.

Reading a suite imports neither torch nor a model family; `check_cases` does, to find what the models would refuse.
"""

from __future__ import annotations

import glob
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arvbench.adapters.cache.request import write_request
from arvbench.adapters.methods.request import spec_of, write_method
from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName, UserError, complaint, near_misses, shown
from arvbench.harness.jobs import Shard
from arvbench.harness.quality.protocols.protocol import PROTOCOLS
from arvbench.harness.suites.built_in import built_in_suites
from arvbench.harness.suites.names import case_name as case_name
from arvbench.harness.suites.names import unique_names
from arvbench.harness.suites.points import check_layers, check_metric_of_search, check_objective, check_rules, points_of
from arvbench.harness.suites.recipes import recipe_for
from arvbench.harness.suites.sweep import (
    MAPPINGS,
    check_settings_of_models,
    merge,
    settings_of_model,
    without,
    without_key,
)
from arvbench.harness.suites.yaml_files import read_yaml
from arvbench.kernels.backends import BACKENDS
from arvbench.paths import printable, user_path
from arvbench.results.schema import CapacityRequest, CaseConfig, EnergyRequest, QualityRequest, SearchRequest

if TYPE_CHECKING:
    from arvbench.adapters.sampler import ModelSpec
    from arvbench.adapters.settings import SamplingSettings

MOST_CASES = 10_000
"""Limit of cases in a suite, and of the launches of all of them."""


class _SuiteFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    defaults: dict[str, Any] = Field(default_factory=dict)
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    cases: list[dict[str, Any]] = Field(min_length=1)
    include: list[dict[str, Any]] = Field(default_factory=list)
    exclude: list[Annotated[dict[str, Any], Field(min_length=1)]] = Field(default_factory=list)


class Case(BaseModel):
    """One measurement: a launch of a case, whose name is unique in its suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case_id: str
    config: CaseConfig
    launch: int = 1

    @property
    def title(self) -> str:
        """Name for people, with the launch where there are several."""
        return self.case_id + (f", launch {self.launch}" if self.config.launches > 1 else "")


class Suite(BaseModel):
    """A suite after merging and expansion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    cases: tuple[Case, ...]
    """Launches, in the order of their measurement."""
    source: str = ""
    """Name or path under which it was read."""

    @property
    def first_launches(self) -> tuple[Case, ...]:
        """Each case once."""
        return tuple(case for case in self.cases if case.launch == 1)

    def shard(self, shard: Shard) -> Suite:
        """Return the cases of one shard, each with all of its launches: they are compared on one machine."""
        names = {case.case_id for place, case in enumerate(self.first_launches) if shard.has(place)}
        return self.model_copy(update={"cases": tuple(case for case in self.cases if case.case_id in names)})


def load_suite(name_or_path: str, *, models: Sequence[str] = (), overrides: Mapping[str, Any] | None = None) -> Suite:
    """Read a built-in suite by name, or a YAML file by path, and expand it.

    `models` are patterns that choose among the suite's models. `overrides` are command-line settings by key;
    "settings.KEY" and "quality.KEY" reach into those mappings ("quality.KEY" only where a case asks for quality).
    Raises UserError, naming the file and the key.
    """
    path = _find(name_or_path)
    suite = _parse(path)
    command_line = _nest(overrides or {})
    if command_line.get("quality") and not any(_asks_for_quality(suite.defaults, entry) for entry in suite.cases):
        raise UserError(f"{path}: no case asks for quality, so quality settings have nothing to change")
    _check_layers(path, suite)
    configs = _expand(path, suite, "cases", command_line, room=MOST_CASES)
    try:
        check_rules(configs, suite.exclude)
        configs = without(configs, suite.exclude, strict=not command_line)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    configs += _expand(path, suite, "include", command_line, room=MOST_CASES - len(configs))
    chosen = _choose(configs, models)
    named = [Case(case_id=name, config=config) for name, config in zip(unique_names(chosen), chosen, strict=True)]
    cases = _in_rounds(named, path)
    return Suite(name=suite.name, description=suite.description, cases=cases, source=printable(name_or_path))


def _check_layers(path: Path, suite: _SuiteFile) -> None:
    """Raise UserError for unknown keys anywhere but in cases."""
    _check_keys(f"{path}: defaults", suite.defaults)
    for pattern, layer in suite.models.items():
        _matching_models(pattern)
        _check_keys(f"{path}: models[{pattern}]", layer)
    for number, rule in enumerate(suite.exclude):
        _check_keys(f"{path}: exclude[{number}]", rule)
    try:
        check_settings_of_models(suite.models)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _expand(
    path: Path, suite: _SuiteFile, section: str, command_line: Mapping[str, Any], *, room: int
) -> list[CaseConfig]:
    """Return the cases of a section of the file, at most `room`. UserError names the entry."""
    configs: list[CaseConfig] = []
    for number, entry in enumerate(getattr(suite, section)):
        where = f"{path}: {section}[{number}]"
        _check_keys(where, entry)
        try:
            for merged in _merge_layers(suite, entry, command_line):
                check_layers(merged, command_line)
                axes = _axes(merged, room=room - len(configs))
                products = itertools.product(*axes.values())
                configs += [_validate(dict(zip(axes, values, strict=True))) for values in products]
        except UserError as error:
            error.args = (f"{where}: {error}",)
            raise
    return configs


def check_cases(cases: Iterable[Case], *, files: bool = True) -> None:
    """Raise UserError for settings, cache policies or weights that a model would refuse, and for unknown metrics.

    Weights are located, not read; nothing is downloaded. Without `files` only what holds on every machine is checked:
    neither weights nor references. Imports the families and protocols of the cases.
    """
    for case in cases:
        try:
            for config in points_of(case.config):
                _check_case(config, files=files)
        except UserError as error:
            raise UserError(f"case {case.case_id[:200]!r}: {error}") from error


def _check_case(config: CaseConfig, *, files: bool) -> None:
    from arvbench.adapters.loading import locate_weights
    from arvbench.kernels.dispatch import check_choices

    check_choices(config.backend, config.kernels)
    spec = spec_of(config.model, config.method)
    settings = sampling_settings(spec, config.settings)
    if config.cache is not None:
        spec.sampler.check_cache(spec, config.cache, settings)
    spec.sampler.check_settings(spec, settings)
    if not files:
        return
    locate_weights(spec, config.weights)
    if config.quality is not None:
        _check_metrics(config, config.quality)


def sampling_settings(spec: ModelSpec, overrides: Mapping[str, Any]) -> SamplingSettings:
    """Return the model's official settings with `overrides` on top. UserError names the model and the key."""
    try:
        return spec.settings.replace(**overrides)
    except UserError as error:
        raise UserError(f"sampling settings of {spec.name}: {error}") from error


def _check_metrics(config: CaseConfig, quality: QualityRequest) -> None:
    # torch and the metric libraries: only a case that asks for quality pays for them.
    from arvbench.harness.quality.evaluation import EvaluationRequest, choose_metrics

    chosen = choose_metrics(EvaluationRequest(protocols=quality.protocols, metrics=quality.metrics))
    check_metric_of_search(config, {protocol.name: [m.name for m in metrics] for protocol, metrics in chosen})


def _find(name_or_path: str) -> Path:
    known = built_in_suites()
    if name_or_path in known:
        return known[name_or_path]
    path = user_path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise UnknownName("suite", name_or_path, known)
    return path


def _parse(path: Path) -> _SuiteFile:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: a suite is a mapping with name, description, defaults and cases")
    try:
        return _SuiteFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {complaint(error, {'': _SuiteFile.model_fields})}") from error


def _nest(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Turn {"settings.cfg": 2} into {"settings": {"cfg": 2}}, and check the keys."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        head, dot, tail = key.partition(".")
        if not dot and key not in nested:
            nested[key] = value
        elif head in MAPPINGS and tail and isinstance(nested.setdefault(head, {}), dict):
            nested[head][tail] = value
        elif head in MAPPINGS:
            raise UserError(f"{head} is set as a whole, and by key ({shown(key)}): write one of them")
        else:
            heads = f"{', '.join(MAPPINGS[:-1])} and {MAPPINGS[-1]}"
            raise UserError(f"unknown setting {key!r}: only {heads} have keys of their own")
    _check_keys("command line", nested)
    return nested


def _check_keys(where: str, layer: Mapping[str, Any]) -> None:
    for key in layer:
        if not isinstance(key, str):
            raise UserError(f"{where}: {shown(key)} is not the name of a key")
        if key not in CaseConfig.model_fields:
            hint = near_misses(key, CaseConfig.model_fields)
            if not hint.endswith("?") and key.isidentifier() and len(key) < 100:
                hint += f" (sampling settings are written settings.{key})"
            raise UserError(f"{where}: unknown key {shown(key)}; {hint}")


def _merge_layers(suite: _SuiteFile, entry: Mapping[str, Any], command_line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Merge defaults < recipe < case < model < command line, lists not yet expanded.

    A case with recipes, or with settings of models, gives one result per model and recipe.
    """
    defaults = suite.defaults
    has_quality = _asks_for_quality(defaults, entry)
    if not has_quality:
        command_line = without_key(command_line, "quality")
    if not merge(defaults, entry).get("search"):
        command_line = without_key(command_line, "search")
    merged = merge(defaults, entry, command_line)
    models, recipes = merged.get("model"), merged.get("recipe")
    if not (recipes or suite.models) or not isinstance(models, str | list):
        return [merged]
    results = []
    for model, name in itertools.product(_matching_models(models), recipes if isinstance(recipes, list) else [recipes]):
        if name and not isinstance(name, str):
            raise UserError(f"recipe: {shown(name)} is not the name of a recipe")
        recipe, above = recipe_for(model, name).layer() if name else {}, settings_of_model(model, suite.models)
        if not has_quality:
            recipe, above = without_key(recipe, "quality"), [without_key(layer, "quality") for layer in above]
        # The model is now a name, not a pattern.
        single = {"model": glob.escape(model)} | ({"recipe": name} if "recipe" in merged else {})
        results.append(merge(defaults, recipe, entry, *above, command_line, single))
    return results


def _asks_for_quality(defaults: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Return whether a case, or one of those that a list stands for, has a quality request."""
    quality = merge(defaults, entry).get("quality")
    return any(quality) if isinstance(quality, list) else bool(quality)


def _axes(merged: Mapping[str, Any], *, room: int) -> dict[str, list[Any]]:
    """Return the values of every key, whose product are the cases, in the order written; at most `room` cases."""
    axes = {key: value if isinstance(value, list) else [value] for key, value in merged.items()}
    if empty := [key for key, values in axes.items() if not values]:
        raise UserError(f"{empty[0]} is an empty list, which stands for no case at all")
    if isinstance(model := merged.get("model"), str | list):
        axes["model"] = _matching_models(model)
    if (count := math.prod(map(len, axes.values()))) > room:
        lists = " x ".join(f"{len(values):,} {key}" for key, values in axes.items() if len(values) > 1)
        raise UserError(f"stands for {count:,} cases ({lists}); a suite has at most {MOST_CASES:,}")
    return axes


def _matching_models(patterns: str | Sequence[Any]) -> list[str]:
    """Return the known models that match the patterns, in their order; UnknownName for a pattern that matches none."""
    models: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [name for name in MODELS if isinstance(pattern, str) and fnmatchcase(name, pattern)]
        if not matches:
            raise UnknownName("model", pattern if isinstance(pattern, str) else shown(pattern), MODELS)
        models += matches
    return models


def _validate(single: Mapping[str, Any]) -> CaseConfig:
    for key, write in (("cache", write_request), ("method", write_method)):
        if isinstance(single.get(key), dict):
            single = {**single, key: write(single[key])}
    try:
        config = CaseConfig.model_validate(single)
        if config.search is not None:
            check_objective(config)
            config, *_ = points_of(config)  # all of them are values that a case may have
    except ValidationError as error:
        kinds: dict[str, type[BaseModel]] = {"": CaseConfig, "quality": QualityRequest}
        kinds |= {"capacity": CapacityRequest, "energy": EnergyRequest, "search": SearchRequest}
        known = {place: kind.model_fields for place, kind in kinds.items()}
        raise UserError(complaint(error, known)) from error
    if config.backend not in BACKENDS:
        raise UserError(f"backend: {UnknownName('backend', config.backend, BACKENDS)}")
    for name in config.quality.protocols if config.quality else ():
        if name not in PROTOCOLS:
            raise UserError(f"quality.protocols: {UnknownName('protocol', name, PROTOCOLS)}")
    return config


def _choose(configs: Sequence[CaseConfig], patterns: Sequence[str]) -> list[CaseConfig]:
    """Return the cases whose model matches one of the patterns, or all without patterns; equal cases once.

    Of cases that differ in launches alone, the one with the most is all of them.
    """
    present = {config.model: None for config in configs}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in present):
            _matching_models(pattern)
            raise UserError(f"no case of this suite has a model {pattern!r}; its models: {', '.join(present)}")
    chosen: dict[Hashable, CaseConfig] = {}
    for config in configs:
        if not patterns or any(fnmatchcase(config.model, pattern) for pattern in patterns):
            key = _hashable(config.model_dump(exclude={"launches"}))
            chosen[key] = max(chosen.get(key, config), config, key=lambda case: case.launches)
    return list(chosen.values())


def _hashable(value: Any) -> Hashable:
    """Return a key that is equal for equal values: mappings in any order, 1 and 1.0."""
    if isinstance(value, dict):
        return frozenset((key, _hashable(element)) for key, element in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return value if isinstance(value, Hashable) else repr(value)


def _in_rounds(cases: Sequence[Case], path: Path) -> tuple[Case, ...]:
    """Return every launch of the cases, round by round; only the first asks for quality and a picture of samples.

    A search stands for its tries: of those the first one, once.
    """
    if (count := sum(case.config.launches for case in cases)) > MOST_CASES:
        raise UserError(f"{path}: its cases have {count:,} launches together; a suite has at most {MOST_CASES:,}")
    later = [case.config.model_copy(update={"quality": None, "sample_sheet": 0}) for case in cases]
    rounds = range(2, max((case.config.launches for case in cases), default=1) + 1)
    return (
        *cases,
        *(
            Case(case_id=case.case_id, config=config, launch=launch)
            for launch in rounds
            for case, config in zip(cases, later, strict=True)
            if launch <= config.launches and config.search is None
        ),
    )
