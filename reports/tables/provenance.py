"""Provenance of the numbers: correctness check, settings, weights and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from arvbench.reports.cases import PreparedCase, cores_text, group_by, memory_text, prepared
from arvbench.reports.names import case_column, short_names
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
from arvbench.results.launches import launches_of
from arvbench.results.schema import Correctness, Environment, Gpu, Incorrect, Measured, Record, Setup


class _CheckedCase(NamedTuple):
    record: Record
    check: Correctness


def _share_cell(share: float | None) -> Cell:
    """Per cent of tokens; empty for latents, of which none are counted."""
    return number_cell(None if share is None else 100 * share, digits=4)


def correctness_table(records: Sequence[Record]) -> Table:
    """Correctness check that each case had to pass before timing."""
    columns: list[Column[_CheckedCase]] = [
        case_column(records),
        Column("Judge", cell=lambda case: text_cell(case.check.judge)),
        Column("Images", numeric=True, cell=lambda case: count_cell(case.check.images)),
        Column(
            "Largest difference",
            "logits or latents",
            numeric=True,
            cell=lambda case: scientific_cell(case.check.max_abs_diff),
        ),
        Column("Tolerance", "logits or latents", numeric=True, cell=lambda case: scientific_cell(case.check.tolerance)),
        Column("Equal tokens", "%", numeric=True, cell=lambda case: _share_cell(case.check.equal_tokens)),
        Column("Required", "%", numeric=True, cell=lambda case: _share_cell(case.check.required_equal_tokens)),
        Column("Passed", cell=lambda case: yes_no_cell(case.check.passed, good=True)),
    ]
    rows = [
        _CheckedCase(record, record.outcome.correctness)
        for record in records
        if isinstance(record.outcome, Measured | Incorrect)
    ]
    return make_table("Correctness, checked before any time was taken", columns, rows)


def settings_table(records: Sequence[Record]) -> Table:
    """Sampling settings after overrides, and every automatic choice."""
    columns: list[Column[PreparedCase]] = [
        case_column(records),
        Column("Family", cell=lambda case: text_cell(case.setup.family)),
        Column("Recipe", cell=lambda case: text_cell(case.setup.recipe)),
        Column("Image side", "px", numeric=True, cell=lambda case: _size_cell(case.setup)),
        Column("Settings", code=True, cell=lambda case: text_cell(mapping_text(case.setup.settings))),
        Column(
            "Deviations from official",
            code=True,
            cell=lambda case: text_cell(mapping_text(case.setup.settings_deviations) or "none"),
        ),
        Column("Official settings stated in", cell=lambda case: text_cell(case.setup.settings_source)),
        Column("Attention", code=True, cell=lambda case: text_cell(case.setup.attention)),
        Column("Kernels", code=True, cell=lambda case: text_cell(mapping_text(case.setup.kernels))),
        Column("Threads", "CPU", numeric=True, cell=lambda case: count_cell(case.setup.threads)),
    ]
    return make_table("Settings and the choices that the program made", columns, prepared(records))


class Deviation(NamedTuple):
    """A setting that differs from the official one, or from the case's recipe."""

    setting: str
    used: object
    official: object
    """UNRECORDED in a case without a recipe."""


UNRECORDED = object()
"""Placeholder for an official value missing from the record."""


def deviations(setup: Setup) -> list[Deviation]:
    """List the deviations of one case: those from its recipe, then those from the settings of its model."""
    by_name: dict[str, Deviation] = {}
    for key, pair in sorted(setup.recipe_deviations.items()):
        name = key.removeprefix("settings.")
        both = isinstance(pair, Mapping) and {"used", "official"} <= pair.keys()
        by_name[name] = Deviation(name, pair["used"], pair["official"]) if both else Deviation(name, pair, UNRECORDED)
    for name, value in sorted(setup.settings_deviations.items()):
        by_name.setdefault(name, Deviation(name, value, UNRECORDED))
    return list(by_name.values())


class _CaseDeviation(NamedTuple):
    record: Record
    deviation: Deviation


def deviations_table(records: Sequence[Record]) -> Table:
    """Deviations from the official settings or from the case's recipe, one row each."""
    columns: list[Column[_CaseDeviation]] = [
        case_column(records),
        Column("Setting", code=True, cell=lambda row: text_cell(row.deviation.setting)),
        Column("Value that ran", code=True, cell=lambda row: _value_cell(row.deviation.used)),
        Column("Official value", code=True, cell=lambda row: _value_cell(row.deviation.official)),
    ]
    rows = [_CaseDeviation(record, deviation) for record, setup in prepared(records) for deviation in deviations(setup)]
    return make_table("Deviations from the official settings", columns, rows)


def _value_cell(value: object) -> Cell:
    if value is UNRECORDED:
        return NOTHING
    return text_cell("none" if value is None else value)


def recipes_table(records: Sequence[Record]) -> Table:
    """Cases that follow an official recipe: their changes, and the differences that no setting removes."""
    columns: list[Column[PreparedCase]] = [
        case_column(records),
        Column("Recipe", cell=lambda case: text_cell(case.setup.recipe)),
        Column("Changed", cell=lambda case: _changes_cell(case.setup)),
        Column(
            "What differs whatever is set", prose=True, cell=lambda case: text_cell("; ".join(case.setup.recipe_notes))
        ),
    ]
    return make_table(
        "Official recipes", columns, [case for case in prepared(records) if case.setup.recipe is not None]
    )


def _changes_cell(setup: Setup) -> Cell:
    changed = ", ".join(deviation.setting for deviation in deviations(setup))
    if not changed:
        return Cell(text="nothing", sort="nothing", tone="good")
    return Cell(text=plain(changed), sort=changed, tone="warn")


def weights_table(records: Sequence[Record]) -> Table:
    """Loaded weights."""
    columns: list[Column[PreparedCase]] = [
        case_column(records),
        Column("Weights", cell=lambda case: text_cell(case.setup.weights_source)),
        Column(
            "Transformer", "parameters", numeric=True, cell=lambda case: count_cell(case.setup.transformer_parameters)
        ),
        Column("Tokenizer", "parameters", numeric=True, cell=lambda case: count_cell(case.setup.tokenizer_parameters)),
        Column("File and sha256", code=True, cell=lambda case: _digests_cell(case.setup)),
    ]
    return make_table("Weights", columns, prepared(records))


def _digests_cell(setup: Setup) -> Cell:
    return text_cell(", ".join(f"{name} {digest}" for name, digest in sorted(setup.weights_sha256.items())))


class _Fact(NamedTuple):
    label: str
    value: str | None


_FACT_COLUMNS: tuple[Column[_Fact], ...] = (
    Column("Field", cell=lambda fact: text_cell(fact.label)),
    Column("Value", prose=True, cell=lambda fact: text_cell("not known" if fact.value is None else fact.value)),
)


def environment_tables(records: Sequence[Record]) -> list[Table]:
    """One table for each environment, with all of its fields; momentary readings, such as clocks, become ranges."""
    names = short_names(records)
    groups = group_by(records, lambda record: _lasting(record.environment))
    tables: list[Table] = []
    for number, members in enumerate(groups.values(), start=1):
        cases = _Fact("Cases", ", ".join(names[record.record_id] for record in members))
        environments = [launch.environment for record in members for launch in launches_of(record)]
        facts = [*_environment_facts(environments), cases]
        caption = "Environment" if len(groups) == 1 else f"Environment {number} of {len(groups)}"
        tables.append(make_table(caption, _FACT_COLUMNS, facts))
    return tables


def _lasting(environment: Environment) -> str:
    """Serialise an environment without readings that change from minute to minute on one machine."""
    momentary = {"sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "throttle_reasons"}
    return environment.model_dump_json(exclude={"gpu": momentary})


def _environment_facts(environments: Sequence[Environment]) -> list[_Fact]:
    one = environments[0]
    commit = "not run from a checkout"
    if one.git_commit is not None:
        commit = f"{one.git_commit}{' (with local changes)' if one.git_dirty else ''}"
    return [
        _Fact("arvbench", one.arvbench_version),
        _Fact("Source sha256", one.source_sha256),
        _Fact("Git commit", commit),
        _Fact("Operating system", one.os),
        _Fact("Python", one.python),
        _Fact("CPU", f"{plain(one.cpu)}, {cores_text(one.cores)}"),
        _Fact("Memory", memory_text(one.memory_bytes)),
        *_gpu_facts([environment.gpu for environment in environments if environment.gpu is not None]),
        _Fact("CUDA", one.cuda or "none"),
        _Fact("TF32", "allowed" if one.tf32 else "off"),
        _Fact("Libraries", mapping_text(one.libraries)),
    ]


def _gpu_facts(readings: Sequence[Gpu]) -> list[_Fact]:
    if not readings:
        return [_Fact("GPU", "none used")]
    one = readings[0]
    throttled = sorted({reason for gpu in readings for reason in gpu.throttle_reasons})
    return [
        _Fact("GPU", f"{plain(one.name)}, {memory_text(one.memory_bytes)}"),
        _Fact("Compute capability", one.compute_capability),
        _Fact("GPU driver", one.driver),
        _Fact("SM clock", _span([gpu.sm_clock_mhz for gpu in readings], "MHz")),
        _Fact("Memory clock", _span([gpu.memory_clock_mhz for gpu in readings], "MHz")),
        _Fact("GPU temperature", _span([gpu.temperature_c for gpu in readings], "°C")),
        _Fact("GPU power", _span([gpu.power_w for gpu in readings], "W")),
        _Fact("Throttling", ", ".join(throttled) or "none seen"),
    ]


def _span(values: Sequence[float | None], unit: str) -> str | None:
    """Format the range of the known values; None when there are none."""
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
