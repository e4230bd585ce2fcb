"""Published numbers of a model that its recipe is expected to meet; of a demo model, those of the recorded run."""

from __future__ import annotations

import re
from typing import NamedTuple

from arvbench.errors import UnknownName, UserError
from arvbench.harness.suites.recipes import IMAGES, OFFICIAL, Recipe, recipe_for
from arvbench.results.published.demo import demo_runs
from arvbench.results.published.tables import QualityRow, published_names, quality_rows
from arvbench.results.reproduction import Target

_ORDER = "glob order"
"""Words of a recipe whose images lie in the order of the file system: then the shuffled IS is what compares."""


class Targets(NamedTuple):
    """Numbers to meet, and others of the same model."""

    judged: tuple[Target, ...]
    """Of one source, FID first."""
    others: tuple[Target, ...]


def targets_of(model: str) -> tuple[Recipe | None, Targets]:
    """Return the official recipe of a model, None for a demo model, and its published numbers.

    Raises UnknownName for a model without recipe, UserError for one of which no number is published.
    """
    from arvbench.adapters.registry import MODELS

    if model not in MODELS:
        raise UnknownName("model", model, MODELS)
    if MODELS[model].demo:
        return None, Targets(_of_demo(model), ())
    recipe = recipe_for(model, OFFICIAL)
    rows = [row for row in quality_rows() if row.model in published_names().get(model, ()) and row.fid is not None]
    named = [row for row in rows if row.model == recipe.stated["published_as"]] or rows
    fitting = sorted((row for row in named if _fits(row, recipe)), key=_rank)
    if not fitting:
        raise UserError(
            f"no FID of {model} by its official recipe is published where the project looked: there is nothing to "
            "reproduce; `arvbench run imagenet256` measures it"
        )
    chosen = fitting[0]
    others = tuple(target for row in rows if row is not chosen for target in _targets(row, recipe)[:1])
    return recipe, Targets(tuple(_targets(chosen, recipe)), others)


def _rank(row: QualityRow) -> tuple[bool, bool, bool, int]:
    """Return the place of a row: first-hand ones first, then those whose evaluator and settings are stated."""
    return (
        row.seen != "first-hand",
        not re.match(r"(OpenAI/)?ADM", row.metric_protocol),
        row.cfg == "",
        quality_rows().index(row),
    )


def _fits(row: QualityRow, recipe: Recipe) -> bool:
    """Return whether a row has the size of the recipe, and no other guidance or filters than it."""
    sizes = re.findall(r"\d+", recipe.stated["resolution"])
    same_size = set(re.findall(r"\d+", row.resolution)) == set(sizes)
    stated = {"cfg": row.cfg, "top_k": row.top_k, "top_p": row.top_p}
    return same_size and all(_equal(text, recipe.stated[name]) for name, text in stated.items())


def _equal(text: str, official: str) -> bool:
    """Return whether a cell says nothing, or the number at the beginning of the recipe's cell."""
    numbers = [re.match(r"\d+(\.\d+)?", cell) for cell in (text, official)]
    return numbers[0] is None or numbers[1] is None or float(numbers[0][0]) == float(numbers[1][0])


def _targets(row: QualityRow, recipe: Recipe) -> list[Target]:
    shuffled = _ORDER in recipe.stated["post_processing"]
    return [
        Target(
            metric="is-shuffled" if metric == "is" and shuffled else metric,
            value=number.value,
            rounding=number.rounding,
            tolerance=_tolerance(row.note),
            images=recipe.images or IMAGES,
            protocol=row.metric_protocol,
            protocol_id=None,
            source=f"{row.source}, {row.table_or_section}",
            seen=row.seen,
            note=row.note,
        )
        for metric, number in row.metrics.items()
    ]


def _tolerance(note: str) -> float | None:
    """Return the difference between runs that a source states in its note."""
    found = re.search(r"vary up to (\d+(\.\d+)?) between runs", note)
    return float(found[1]) if found else None


def _of_demo(model: str) -> tuple[Target, ...]:
    runs = demo_runs()
    if model not in runs.runs:
        raise UnknownName("recorded run of demo model", model, runs.runs)
    run = runs.runs[model]
    return tuple(
        Target(
            metric=metric,
            value=number.value,
            rounding=0.0,
            tolerance=number.tolerance,
            images=run.images,
            protocol="digits-cnn",
            protocol_id=number.protocol_id,
            source=runs.source,
            seen="first-hand",
            note="",
        )
        for metric, number in run.numbers.items()
    )
