"""Official recipes: how the authors of a model drew the samples that their published numbers are of.

A recipe is data (results/published/sampling_recipes.csv), one row per model, resolution and list of scales. Columns up
to `note` are what the source says, word for word; columns that begin with `our_` say what that is here. An empty cell,
like the words "not stated", is something that the source does not say: it is never guessed, what is taken in its place
is named in `Recipe.notes`.

What no recipe makes official, also told in `Recipe.notes`:
  seeds      the official random streams belong to a process or a batch; here image i has noise of its own, so that its
             pixels depend on neither batch nor number of workers
  precision  the official code runs autocast over float32 weights; here weights and residual stream have the half type
  TF32       the recipe does not switch it; a record's environment says what it was

Reading the recipes imports neither torch nor a model family.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import arvbench.results
from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName
from arvbench.results.schema import CaseConfig

OFFICIAL = "official"
"""Name of the recipe behind the number that a model is known by."""
SEED = 0
"""Run seed of the per-image noise, and of labels that are drawn."""
IMAGES = 50_000
"""Taken where a source does not state the number of samples: what the ADM evaluator's reference numbers are of."""
LABELS = "balanced"
"""Taken where a source does not state its labels."""
DTYPE = CaseConfig.model_fields["dtype"].default
"""Taken where a source does not state its precision."""
NOT_STATED = "not stated"

_MAY_BE_SILENT = {
    "dtype": "dtype",
    "settings.uint8_rule": "uint8_rule",
    "quality.images": "images",
    "quality.labels": "labels",
    "quality.resize": "resize",
}
"""Key of a case -> field of a recipe that may not be stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the samples behind a published number were drawn. None: not stated."""

    model: str
    name: str
    settings: Mapping[str, Any]
    """Sampling settings of the model's family, as far as they are stated."""
    temperature: float | None
    images: int | None
    labels: str | None
    """Label scheme: "balanced", "balanced-shuffled" or "uniform"."""
    dtype: str | None
    """The data type here that is closest."""
    uint8_rule: str | None
    """As published: "truncate", "round" or "127.5x+128"."""
    resize: str | None
    """Resize of the decoded image before it becomes bytes, such as "bicubic:256"; "none" without one."""
    reference: str
    """Published name of the reference file."""
    stated: Mapping[str, str]
    """What the source says: column of the table -> text."""

    def layer(self) -> dict[str, Any]:
        """The fields of a case that the recipe decides, as a layer of a suite; `quality` for cases that ask for it."""
        return {
            "settings": dict(self.settings),
            "quality": {
                "images": self.images or IMAGES,
                "labels": self.labels or LABELS,
                "resize": None if self.resize in (None, "none") else self.resize,
                "seed": SEED,
                "reference": self.reference,
            },
        } | ({"dtype": self.dtype} if self.dtype else {})

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from the official way whatever a case says, and what was taken for what is not stated."""
        return tuple(note for note in (*_differences(self), _not_stated(self)) if note)


def recipe_for(model: str, name: str = OFFICIAL) -> Recipe:
    """The recipe of a model. Raises UnknownName for a model or a recipe that is not there, with the reason."""
    recipes = recipes_of(model)
    if recipes and name not in recipes:
        raise UnknownName(f"recipe of {model}", name, recipes)
    if not recipes:
        reason = why_no_recipe(model)
        because = f" ({reason})" if reason else ""
        raise UnknownName(f"official recipe{because} of model", model, [key for key, _ in _table()])
    return recipes[name]


def why_no_recipe(model: str) -> str:
    """Reason why a model has no official recipe, from its spec; "" for a model that states none or is unknown."""
    if model not in MODELS:
        return ""
    spec = MODELS[model]
    return "it is a demo model of this package" if spec.demo else spec.no_recipe


def recipes_of(model: str) -> dict[str, Recipe]:
    """Name -> recipe of a model; empty when nothing is published."""
    return {name: recipe for (key, name), recipe in _table().items() if key == model}


def official_facts(model: str) -> dict[str, str] | None:
    """What is stated about the official samples of a model: `labels`, `uint8_rule`, `resize`, `images`.

    None for a model without a recipe; a key is absent where the source does not state it.
    """
    recipe = recipes_of(model).get(OFFICIAL)
    if recipe is None:
        return None
    facts = {"labels": recipe.labels, "uint8_rule": recipe.uint8_rule, "resize": recipe.resize, "images": recipe.images}
    return {key: str(value) for key, value in facts.items() if value is not None}


def recipe_deviations(case: CaseConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Where a case leaves its recipe: key, such as "settings.cfg" -> {"used": value, "official": value}.

    `settings` are the complete sampling settings that ran, as JSON. What the recipe leaves open is compared with what
    is taken in its place, and its official value is "not stated". Empty for a case without a recipe.
    """
    if case.recipe is None:
        return {}
    recipe = recipe_for(case.model, case.recipe)
    official = {**MODELS[case.model].settings.model_dump(mode="json"), **recipe.settings}
    pairs = {f"settings.{key}": (value, official.get(key)) for key, value in settings.items()}
    pairs["dtype"] = (case.dtype, recipe.dtype or DTYPE)
    if case.weights.startswith("random"):
        pairs["weights"] = (case.weights, "the released checkpoint")
    if case.quality is not None:
        taken = recipe.layer()["quality"]
        pairs |= {
            f"quality.{key}": (getattr(case.quality, key), taken[key]) for key in ("images", "labels", "resize", "seed")
        }
        pairs["quality.reference"] = (Path(case.quality.reference).name, recipe.reference)
    silent = {key for key, field in _MAY_BE_SILENT.items() if getattr(recipe, field) is None}
    return {
        key: {"used": used, "official": NOT_STATED if key in silent else value}
        for key, (used, value) in pairs.items()
        if used != value
    }


def _differences(recipe: Recipe) -> list[str]:
    said = recipe.stated
    seeds = said["seed"] or NOT_STATED
    drawn = "; its labels are drawn from quality.seed too" if recipe.labels in ("uniform", "balanced-shuffled") else ""
    notes = [f"seeds: officially “{seeds}”; here each image has its own noise, made from quality.seed{drawn}"]
    if recipe.dtype is not None and "autocast" in said["dtype_autocast"]:
        notes.append(
            f"precision: officially “{said['dtype_autocast']}”, over float32 weights; here weights and residual stream "
            "have the half type too"
        )
    if recipe.model.rpartition("-")[2] not in said["published_as"] and recipe.model.startswith("flexvar"):
        notes.append(f"source: it states these settings for {said['published_as']}, and no others for this model")
    if "glob order" in said["post_processing"]:
        notes.append(
            "order: officially that of the file system, which the inception score in the given order (is) depends on; "
            "here by class, where splits of 5,000 hold few classes: is-shuffled is what compares"
        )
    if said["tf32"]:
        notes.append(f"TF32: officially “{said['tf32']}”; here as the environment says")
    return notes


def _not_stated(recipe: Recipe) -> str:
    """One line on what was taken where the source is silent; "" where it is not."""
    taken = {"dtype": DTYPE, "images": IMAGES, "labels": LABELS, "uint8_rule": "the model's own", "resize": "none"}
    silent = [f"{field} ({value})" for field, value in taken.items() if getattr(recipe, field) is None]
    return f"not stated, so taken: {', '.join(silent)}" if silent else ""


@cache
def _table() -> dict[tuple[str, str], Recipe]:
    """(model, name) -> recipe, in the order of the file."""
    path = Path(arvbench.results.__file__).parent / "published" / "sampling_recipes.csv"
    with path.open(encoding="utf-8", newline="") as file:
        recipes = [_read(row) for row in csv.DictReader(file)]
    return {(recipe.model, recipe.name): recipe for recipe in recipes}


def _read(row: Mapping[str, str]) -> Recipe:
    return Recipe(
        model=row["model"],
        name=row["recipe"],
        settings=_settings(row),
        temperature=_number(row["temperature"]),
        images=None if row["num_samples"] in ("", NOT_STATED) else int(row["num_samples"]),
        labels=row["our_labels"] or None,
        dtype=row["our_dtype"] or None,
        uint8_rule=row["our_uint8_rule"] or None,
        resize=row["our_resize"] or None,
        reference=row["reference"],
        stated={key: text for key, text in row.items() if not key.startswith("our_")},
    )


def _settings(row: Mapping[str, str]) -> dict[str, Any]:
    """Sampling settings of the model's family; official top_k 0 and top_p 1 keep all tokens, as None does here."""
    top_k, top_p = _number(row["top_k"]), _number(row["top_p"])
    settings: dict[str, Any] = {
        "cfg": _number(row["cfg"]),
        "top_k": int(top_k) if top_k else None,
        "top_p": None if top_p == 1 else top_p,
    }
    if row["our_more_smooth"]:
        settings["more_smooth"] = row["our_more_smooth"] == "True"
    if row["our_uint8_rule"]:
        settings["uint8_rule"] = row["our_uint8_rule"]
    if row["our_mask_schedule"]:
        settings["mask_schedule"] = row["our_mask_schedule"]
    if row["our_scales"]:
        settings["scales"] = [int(side) for side in row["our_scales"].split("_")]
    return settings


def _number(text: str) -> float | None:
    """The number that a cell begins with."""
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else None
