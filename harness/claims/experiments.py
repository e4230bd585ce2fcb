"""Reader of the experiments behind claims: YAML, checked against the published claims and the table of models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName, UserError, complaint
from arvbench.harness.suites.yaml_files import read_yaml
from arvbench.paths import printable
from arvbench.results.claims import Experiment, Term
from arvbench.results.published.tables import claim_rows

CLAIMS_FILE = Path(__file__).with_name("claims.yaml")
_MOST = 1000


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    experiments: tuple[Experiment, ...] = Field(min_length=1, max_length=_MOST)


def load_experiments(path: Path = CLAIMS_FILE) -> tuple[Experiment, ...]:
    """Read a file of experiments. Raises UserError, naming file and key, for unknown words and names."""
    content = read_yaml(path)
    try:
        experiments = _File.model_validate(content).experiments
    except ValidationError as error:
        known = {"": _File.model_fields}
        for place in error.errors():
            known["experiments." + str(place["loc"][1] if len(place["loc"]) > 1 else "")] = Experiment.model_fields
            known[".".join(map(str, place["loc"][:3]))] = Term.model_fields
        raise UserError(f"{printable(path)}: {complaint(error, known)}") from error
    for name, count in Counter(experiment.id for experiment in experiments).items():
        if count > 1:
            raise UserError(f"{printable(path)}: experiment {name!r} stands there {count} times")
    for experiment in experiments:
        try:
            _check_names(experiment)
        except UserError as error:
            raise UserError(f"{printable(path)}: {experiment.id}: {error}") from error
    return experiments


def choose(experiments: Sequence[Experiment], only: Sequence[str]) -> tuple[Experiment, ...]:
    """Return the experiments whose id or claim matches one of the patterns, or all without patterns.

    Raises UnknownName for a pattern that matches none.
    """
    for pattern in only:
        if not any(_matches(experiment, pattern) for experiment in experiments):
            known = dict.fromkeys(name for each in experiments for name in (each.id, each.claim))
            raise UnknownName("claim", pattern, known)
    return tuple(each for each in experiments if not only or any(_matches(each, pattern) for pattern in only))


def _matches(experiment: Experiment, pattern: str) -> bool:
    return fnmatchcase(experiment.id, pattern) or fnmatchcase(experiment.claim, pattern)


def _check_names(experiment: Experiment) -> None:
    if experiment.claim not in claim_rows():
        raise UnknownName("published claim", experiment.claim, claim_rows())
    for term in experiment.terms:
        if term.model not in MODELS:
            raise UnknownName("model", term.model, MODELS)
