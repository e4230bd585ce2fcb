"""Formats of fixtures: outputs of the official code on a small model.

full     <case>.json + <case>.safetensors with every weight ("model.", "vae."), input ("in.") and output ("out.")
recipe   the same files, but weights are generated from their names and outputs subsampled (every stride-th element)
unit     functions on given tensors, generated and subsampled in the same way: cases instead of a model and runs

Shapes   B images, L tokens of all scales, V codebook entries
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from arvbench.disk import utf8_name
from arvbench.errors import UnknownName, UserError, shown
from arvbench.harness.verify.fixture import FAULTS, Expectation, Fixture, FixtureError, padded
from arvbench.harness.verify.generated_weights import check_sizes, recipe_v1
from arvbench.harness.verify.replays import replay_of
from arvbench.paths import regular_file

_MOST_BYTES = 2**26
"""Size of the JSON part."""
PAPER_REMARK = "agreement with the paper's text, not parity with official code, which could not be had"
_SAMPLER_UNIT_PROBE_SEED = 5000
"""Stated in the description of the stored probe."""
_TOKEN_GRID_INPUTS = {"class_ids": "labels", "tf_tokens": "tf_ids"}
"""Names of inputs in token-grid fixtures -> those of the other fixtures."""


def read_fixture(path: Path) -> Fixture:
    """Read `path` (.json) and the .safetensors it names. Raises FixtureError."""
    description = _read_json(path)
    stored = _read_stored(path, description)
    try:
        if description.get("case") == "sampler_unit":
            return _read_sampler_unit(description, stored)
        if str(description.get("format", "")).startswith("recipe-fixture"):
            return _read_recipe(description, stored)
        if str(description.get("format", "")).startswith("unit-fixture"):
            return _read_unit(description, stored)
        if "model_args" in description:
            return _read_full(description, stored)
        if "gpt_config" in description:
            return _read_token_grid(description, stored)
    except UnknownName as error:
        raise FixtureError(f"{path} cannot be replayed: {error}") from error
    except FAULTS as error:
        raise FixtureError(f"{path} is not a complete fixture: {type(error).__name__} {error}") from error
    raise FixtureError(f"{path} is neither a full nor a recipe fixture, nor one of units")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        regular_file(path, most_bytes=_MOST_BYTES)
        description = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FixtureError(f"cannot read {path}: {error.strerror}") from error
    except UserError as error:
        raise FixtureError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise FixtureError(f"{path} is not JSON: {error}") from error
    if not isinstance(description, dict):
        raise FixtureError(f"{path} is not a fixture: its JSON is not an object")
    return description


def _read_stored(path: Path, description: Mapping[str, Any]) -> dict[str, Tensor]:
    name = Path(str(description.get("safetensors", path.stem + ".safetensors"))).name
    try:
        stored = path.with_name(name)
        regular_file(stored)
        content = stored.read_bytes()
    except (OSError, ValueError, UserError) as error:
        raise FixtureError(f"cannot read {shown(name)}, which {path.name} names: {error}") from error
    expected = description.get("safetensors_sha256")
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise FixtureError(f"{stored} is not the file that {path.name} was made with: its sha256 differs")
    try:
        with utf8_name(stored) as opened:
            return load_file(opened)
    except Exception as error:  # the library raises errors of many kinds for bytes that it does not expect
        raise FixtureError(f"{stored} is not a safetensors file: {' '.join(str(error).split())}") from error


def _read_full(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    outputs = _under("out.", stored)
    probe = outputs.pop("rng_probe.exponential", None)
    runs = {name: run for name, run in description["sampling"].items() if isinstance(run, dict)}
    # Labels that the model drew are outputs; HMAR's descriptions of runs do not record missing labels.
    runs = {name: run | {"label_B": None} if f"{name}.labels" in outputs else run for name, run in runs.items()}
    sampled = {name: run for name, run in runs.items() if run["top_k"] != 1}
    return Fixture(
        name=description["case"],
        kind=description["family"],
        description=description,
        model_args=description["model_args"],
        tokenizer_args=description["vae_args"],
        runs=runs,
        inputs=_under("in.", stored),
        weights=_weights(stored),
        expectations=_whole_tensors(description["family"], outputs),
        # One probe serves all seeded runs of a case; it has the seed of the first.
        rng_probe={} if probe is None else dict.fromkeys(sampled, (next(iter(sampled.values()))["g_seed"], probe)),
    )


def _read_token_grid(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    return Fixture(
        name=description["case"],
        kind=description["family"],
        description=description,
        model_args=description["gpt_config"],
        tokenizer_args=description["vq_config"],
        runs={run["name"]: run for run in description["runs"]},
        inputs={_TOKEN_GRID_INPUTS.get(name, name): t for name, t in _under("in.", stored).items()},
        weights=_weights(stored),
        expectations=_whole_tensors(description["family"], _under("out.", stored)),
    )


def _under(prefix: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in stored.items() if name.startswith(prefix)}


def _weights(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in stored.items() if name.startswith(("model.", "vae."))}


def _whole_tensors(kind: str, outputs: Mapping[str, Tensor]) -> tuple[Expectation, ...]:
    return tuple(
        Expectation(name=name, values=t, shape=tuple(t.shape), tolerance=_tolerance(kind, name, t))
        for name, t in outputs.items()
    )


def _tolerance(kind: str, name: str, values: Tensor) -> float:
    if not values.is_floating_point() and not name.endswith("_u8"):
        return 0.0
    # Outputs of single scales and layers have the tolerance of the whole.
    stem = ".".join(part for part in name.split(".") if not part.isdigit() and part != "last")
    return next(tolerance for end, tolerance in replay_of(kind).tolerances if stem.endswith(end))


def _read_recipe(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    seed_string, image = description["seed_string"], description["inputs"]["image"]
    check_sizes([*(entry[0] for entry in description["params"].values()), image["lo"][1], image["hi"][1]])
    weights = {
        name: torch.from_numpy(recipe_v1(seed_string, name, *entry)) for name, entry in description["params"].items()
    }
    for probe in description["recipe_check"]:
        _check_recipe(probe, weights[probe["name"]].numpy())
    config = description["config"]
    return Fixture(
        name=description["case"],
        kind=description["family"],
        description=description,
        model_args=config.get("model", config.get("gpt")),
        tokenizer_args=config.get("vae", config.get("vq")),
        runs=description["runs"],
        inputs=_recipe_inputs(description),
        weights=weights,
        constructed=frozenset(description["constructed"]),
        expectations=(*_recipe_integers(description), *_recipe_floats(description, stored)),
        rng_probe={
            run: (probe.get("g_seed", probe.get("torch_seed")), torch.tensor(probe["exponential8"]))
            for run, probe in description.get("rng_probe", {}).items()
        },
        normal_probe={
            run: (probe["torch_seed"], tuple(probe["normal_shape"]), torch.tensor(probe["normal8"]))
            for run, probe in description.get("rng_probe_normal", {}).items()
        },
    )


def _check_recipe(probe: Mapping[str, Any], values: np.ndarray) -> None:
    if hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() != probe["sha256_le_f32"]:
        raise FixtureError(f"the recipe gives other values for {probe['name']} here: NumPy's generator differs")


def _read_unit(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    """Read the cases of a unit fixture; inputs are named "<case>.<input>", or "<case>.<input>.<number>" in lists."""
    entries: dict[str, tuple[str, list[Any]]] = {}
    for case, content in description["cases"].items():
        for name, given in content["inputs"].items():
            listed = (
                {f".{number}": entry for number, entry in enumerate(given)} if _is_list_of_lists(given) else {"": given}
            )
            entries |= {f"{case}.{name}{end}": (content["seed_string"], entry) for end, entry in listed.items()}
    probes = description["recipe_check"]
    check_sizes([*(entry[1] for _, entry in entries.values()), *(probe["shape"] for probe in probes)])
    for probe in probes:
        _check_recipe(probe, recipe_v1(probe["seed_string"], *(probe[k] for k in ("name", "shape", "low", "high"))))
    return Fixture(
        name=description["case"],
        kind=description["family"],
        description=description,
        inputs={name: torch.from_numpy(recipe_v1(seed, *entry)) for name, (seed, entry) in entries.items()},
        expectations=(*_recipe_integers(description), *_recipe_floats(description, stored)),
        remark=PAPER_REMARK if description.get("kind") == "paper" else "",
    )


def _is_list_of_lists(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(entry, list) for entry in given)


def _recipe_inputs(description: Mapping[str, Any]) -> dict[str, Tensor]:
    inputs = description["inputs"]
    low, high = (recipe_v1(description["seed_string"], *inputs["image"][part]) for part in ("lo", "hi"))
    factor = high.shape[-1] // low.shape[-1]
    image = np.repeat(np.repeat(low, factor, axis=2), factor, axis=3) + high
    tf_ids = inputs.get("tf_ids") or inputs.get("tf_tokens")
    # Without a teacher-forced pass the fixture lacks ids: use those of the image. Families with latents have none.
    tf_ids = tf_ids or description["expected"].get(inputs.get("tf_ids_from", "vae.enc_ids").removeprefix("expected "))
    masked = {"mp.idx_to_mask": torch.tensor(inputs["mp_idx_to_mask"])} if "mp_idx_to_mask" in inputs else {}
    return {
        "image": torch.from_numpy(image),
        "labels": torch.tensor(inputs["labels"]),
        **({} if tf_ids is None else {"tf_ids": torch.tensor(tf_ids)}),
        **masked,
    }


def _recipe_integers(description: Mapping[str, Any]) -> Iterator[Expectation]:
    for name, numbers in description["expected"].items():
        for full_name, values in _mask_sets(name, numbers) if name.endswith(".mask_idx") else [(name, numbers)]:
            tensor = _rectangular(values)
            yield Expectation(name=full_name, values=tensor, shape=tuple(tensor.shape))


def _rectangular(values: Any) -> Tensor:
    """Tensor of nested lists; the innermost may differ in length and are filled up with -1."""
    if not isinstance(values, list) or not values or not isinstance(values[0], list):
        return torch.as_tensor(values)
    rows = [_rectangular(row) for row in values]
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([padded(row, longest) for row in rows])


def _mask_sets(name: str, steps: list[Any]) -> Iterator[tuple[str, Tensor]]:
    """Sort the masked positions of every refinement: the order of ties is implementation-defined."""
    for scale, number, positions in steps:
        yield f"{name}.{scale}.{number}.set", torch.tensor(positions).sort(dim=1).values


def _recipe_floats(description: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Iterator[Expectation]:
    for name, meta in description["tensors"].items():
        shape = tuple(meta["full_shape"])
        if len(stored[name]) != -(-math.prod(shape) // meta["stride"]):
            raise ValueError(f"{name}: {len(stored[name])} values are not every {meta['stride']}th of {shape}")
        # Recorded under one name: f_hat after every scale (stacked), or after the last.
        yield Expectation(
            name=f"{name}.all" if name.endswith(".f_hat") and len(shape) == 5 else name,
            values=stored[name],
            shape=shape,
            stride=meta["stride"],
            tolerance=meta["atol"],
        )


def _read_sampler_unit(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    outputs = _under("out.", stored)
    probe = outputs.pop("rng_probe.exponential")
    # Ties between equal values are implementation-defined.
    ties = {name.rsplit(".", 1)[0]: rows for name, rows in outputs.items() if name.endswith(".ambiguous")}
    whole = _whole_tensors("sampler_unit", {n: t for n, t in outputs.items() if not n.endswith(".ambiguous")})
    return Fixture(
        name=description["case"],
        kind="sampler_unit",
        description=description,
        inputs=_under("in.", stored),
        expectations=tuple(
            replace(expected, ignore=ties.get(expected.name.rsplit(".", 1)[0]))
            if expected.name.endswith((".kept", ".ids"))
            else expected
            for expected in whole
        ),
        rng_probe={name.split(".")[0]: (_SAMPLER_UNIT_PROBE_SEED, probe) for name in outputs},
    )
