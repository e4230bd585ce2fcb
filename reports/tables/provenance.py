"""Where a number comes from: correctness check, settings, weights and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arvbench.reports.cases import case_cell, case_names, group_by, memory_text, setup_of
from arvbench.reports.numbers import (
    count_cell,
    mapping_text,
    number_cell,
    plain,
    scientific_cell,
    significant,
    text_cell,
    yes_no_cell,
)
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.schema import Environment, Incorrect, Measured, Record, Setup


def correctness_table(records: Sequence[Record]) -> Table:
    """The comparison that each case had to pass before it was timed."""
    names = case_names(records)
    rows: list[list[Cell]] = []
    for record in records:
        if not isinstance(record.outcome, Measured | Incorrect):
            continue
        check = record.outcome.correctness
        rows.append(
            [
                case_cell(record, names),
                text_cell(check.judge),
                count_cell(check.images),
                scientific_cell(check.max_abs_diff),
                scientific_cell(check.tolerance),
                number_cell(100 * check.equal_tokens, digits=4),
                number_cell(100 * check.required_equal_tokens, digits=4),
                yes_no_cell(check.passed, good=True),
            ]
        )
    columns = [
        Column(label="Case"),
        Column(label="Judge"),
        Column(label="Images", numeric=True),
        Column(label="Largest difference", unit="logits", numeric=True),
        Column(label="Tolerance", unit="logits", numeric=True),
        Column(label="Equal tokens", unit="%", numeric=True),
        Column(label="Required", unit="%", numeric=True),
        Column(label="Passed"),
    ]
    return make_table("Correctness, checked before any time was taken", columns, rows)


def settings_table(records: Sequence[Record]) -> Table:
    """What ran: sampling settings after overrides, and every choice that the program made."""
    names = case_names(records)
    rows: list[list[Cell]] = []
    for record in records:
        setup = setup_of(record)
        if setup is None:
            continue
        rows.append(
            [
                case_cell(record, names),
                text_cell(setup.family),
                text_cell(setup.recipe),
                _size_cell(setup),
                text_cell(mapping_text(setup.settings)),
                text_cell(mapping_text(setup.settings_deviations) or "none"),
                text_cell(setup.settings_source),
                text_cell(setup.attention),
                text_cell(mapping_text(setup.kernels)),
                count_cell(setup.threads),
            ]
        )
    columns = [
        Column(label="Case"),
        Column(label="Family"),
        Column(label="Recipe"),
        Column(label="Image side", unit="px", numeric=True),
        Column(label="Settings", code=True),
        Column(label="Deviations from official", code=True),
        Column(label="Official settings stated in"),
        Column(label="Attention", code=True),
        Column(label="Kernels", code=True),
        Column(label="Threads", unit="CPU", numeric=True),
    ]
    return make_table("Settings and the choices that the program made", columns, rows)


def deviations_table(records: Sequence[Record]) -> Table:
    """Only what differs from the official settings or from the case's recipe, one row each."""
    names = case_names(records)
    rows: list[list[Cell]] = []
    for record in records:
        setup = setup_of(record)
        if setup is None:
            continue
        for name, (used, official) in deviations(setup).items():
            rows.append([case_cell(record, names), text_cell(name), _value(used), _value(official)])
    columns = [
        Column(label="Case"),
        Column(label="Setting", code=True),
        Column(label="Value that ran", code=True),
        Column(label="Official value", code=True),
    ]
    return make_table("Deviations from the official settings", columns, rows)


UNRECORDED = object()
"""Stands for an official value that the record does not hold."""


def deviations(setup: Setup) -> dict[str, tuple[object, object]]:
    """Setting -> (value that ran, official value); the official value is UNRECORDED in a case without a recipe."""
    found: dict[str, tuple[object, object]] = {}
    for name, pair in sorted(setup.recipe_deviations.items()):
        both = isinstance(pair, Mapping) and {"used", "official"} <= pair.keys()
        found[name.removeprefix("settings.")] = (pair["used"], pair["official"]) if both else (pair, UNRECORDED)
    for name, value in sorted(setup.settings_deviations.items()):
        found.setdefault(name, (value, UNRECORDED))
    return found


def _value(value: object) -> Cell:
    if value is UNRECORDED:
        return NOTHING
    return text_cell("none" if value is None else value)


def recipes_table(records: Sequence[Record]) -> Table:
    """Cases that follow an official recipe: what they changed, and what no setting makes official."""
    names = case_names(records)
    rows: list[list[Cell]] = []
    for record in records:
        setup = setup_of(record)
        if setup is None or setup.recipe is None:
            continue
        changed = ", ".join(deviations(setup)) or "nothing"
        rows.append(
            [
                case_cell(record, names),
                text_cell(setup.recipe),
                Cell(text=plain(changed), sort=changed, tone="good" if changed == "nothing" else "warn"),
                text_cell("; ".join(setup.recipe_notes)),
            ]
        )
    columns = [
        Column(label="Case"),
        Column(label="Recipe"),
        Column(label="Changed"),
        Column(label="What differs whatever is set", prose=True),
    ]
    return make_table("Official recipes", columns, rows)


def weights_table(records: Sequence[Record]) -> Table:
    """Which weights were loaded."""
    names = case_names(records)
    rows: list[list[Cell]] = []
    for record in records:
        setup = setup_of(record)
        if setup is None:
            continue
        digests = sorted(setup.weights_sha256.items())
        rows.append(
            [
                case_cell(record, names),
                text_cell(setup.weights_source),
                count_cell(setup.transformer_parameters),
                count_cell(setup.tokenizer_parameters),
                text_cell(", ".join(f"{name} {digest}" for name, digest in digests)),
            ]
        )
    columns = [
        Column(label="Case"),
        Column(label="Weights"),
        Column(label="Transformer", unit="parameters", numeric=True),
        Column(label="Tokenizer", unit="parameters", numeric=True),
        Column(label="File and sha256", code=True),
    ]
    return make_table("Weights", columns, rows)


def environment_tables(records: Sequence[Record]) -> list[Table]:
    """One table for each environment that cases ran in, all of its fields; clocks and the like as the range seen."""
    names = case_names(records)
    groups = group_by(records, lambda record: _lasting(record.environment))
    tables: list[Table] = []
    for number, members in enumerate(groups.values(), start=1):
        cases = ", ".join(names[record.record_id] for record in members)
        fields = _environment_fields([record.environment for record in members])
        rows = [
            [text_cell(label), text_cell(value if value is not None else "not known")]
            for label, value in [*fields, ("Cases", cases)]
        ]
        caption = "Environment" if len(groups) == 1 else f"Environment {number} of {len(groups)}"
        tables.append(make_table(caption, [Column(label="Field"), Column(label="Value", prose=True)], rows))
    return tables


def _lasting(environment: Environment) -> str:
    """The environment without what changes from minute to minute on one machine."""
    momentary = {"sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "throttle_reasons"}
    return environment.model_dump_json(exclude={"gpu": momentary})


def _environment_fields(environments: Sequence[Environment]) -> list[tuple[str, str | None]]:
    one = environments[0]
    commit = None if one.git_commit is None else f"{one.git_commit}{' (with local changes)' if one.git_dirty else ''}"
    fields: list[tuple[str, str | None]] = [
        ("arvbench", one.arvbench_version),
        ("Source sha256", one.source_sha256),
        ("Git commit", commit if commit is not None else "not run from a checkout"),
        ("Operating system", one.os),
        ("Python", one.python),
        ("CPU", f"{plain(one.cpu)}, {one.cores} cores"),
        ("Memory", memory_text(one.memory_bytes)),
        ("GPU", "none used"),
        ("CUDA", one.cuda or "none"),
        ("TF32", "allowed" if one.tf32 else "off"),
        ("Libraries", mapping_text(one.libraries)),
    ]
    if one.gpu is None:
        return fields
    gpus = [environment.gpu for environment in environments if environment.gpu is not None]
    throttled = sorted({reason for gpu in gpus for reason in gpu.throttle_reasons})
    at = fields.index(("GPU", "none used"))
    fields[at : at + 1] = [
        ("GPU", f"{plain(one.gpu.name)}, {memory_text(one.gpu.memory_bytes)}"),
        ("Compute capability", one.gpu.compute_capability),
        ("GPU driver", one.gpu.driver),
        ("SM clock", _span([gpu.sm_clock_mhz for gpu in gpus], "MHz")),
        ("Memory clock", _span([gpu.memory_clock_mhz for gpu in gpus], "MHz")),
        ("GPU temperature", _span([gpu.temperature_c for gpu in gpus], "°C")),
        ("GPU power", _span([gpu.power_w for gpu in gpus], "W")),
        ("Throttling", ", ".join(throttled) or "none seen"),
    ]
    return fields


def _span(values: Sequence[float | None], unit: str) -> str | None:
    """Smallest to largest of the known values."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = significant(min(known)), significant(max(known))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _size_cell(setup: Setup) -> Cell:
    """Height of the images, and width where it differs."""
    if setup.image_width_px is None:
        return count_cell(setup.image_px)
    return Cell(text=f"{setup.image_px} x {setup.image_width_px}", sort=float(setup.image_px))
