"""Options that several verbs share, and readers of their texts: comma lists, KEY=VALUE, NAME=PATH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from arvbench.errors import UserError, shown
from arvbench.paths import user_path

Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
CaseModels = Annotated[
    list[str] | None,
    typer.Option("--models", metavar="PATTERN", help="Only these models, such as 'var-*,demo/var'; repeatable."),
]
CaseDevice = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N, for every case.")]
CaseSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Setting for every case, as in `arvbench run`; repeatable."),
]
CaseWeights = Annotated[
    str | None, typer.Option("--weights", metavar="DIR", help="Folder of official files, or demo, hub, random:SEED.")
]
InceptionWeights = Annotated[
    Path | None, typer.Option("--inception-weights", metavar="PATH", help="Weights of the Inception networks.")
]
ExtractorWeights = Annotated[
    list[str] | None,
    typer.Option("--extractor-weights", metavar="NAME=PATH", help="Weights of another extractor; repeatable."),
]
WorkFolder = Annotated[
    Path | None,
    typer.Option("--work", metavar="DIR", help="Keep features here; the same command goes on after a kill."),
]


def comma_list(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of a repeatable option: `--metrics fid,is --metrics kid` has three; none without the option.

    Raises UserError for an option without a name: to take it for the absent option would choose everything.
    """
    names = tuple(name.strip() for text in texts or () for name in text.split(",") if name.strip())
    if texts and not names:
        raise UserError("an option that takes names got none; leave the option away for all")
    return names


def case_settings(texts: Sequence[str] | None, device: str | None, weights: str | None) -> dict[str, Any]:
    """Return the command line's settings of cases by key; --device and --weights are short for --set."""
    short = {"device": device, "weights": weights}
    settings = settings_by_key(texts, example="batch=8")
    return settings | {key: value for key, value in short.items() if value is not None}


def settings_by_key(texts: Sequence[str] | None, *, prefix: str = "", example: str) -> dict[str, Any]:
    """Read every KEY=VALUE of `--set`, values as YAML; keys are returned without `prefix`, which all must have.

    Raises UserError, which shows `example`, for another form.
    """
    from arvbench.harness.suites.yaml_files import parse_value

    settings = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.startswith(prefix) or key == prefix:
            raise UserError(f"--set {text!r}: write {prefix}KEY=VALUE, such as --set {example}")
        try:
            settings[key.removeprefix(prefix)] = parse_value(value)
        except UserError as error:
            raise UserError(f"--set {shown(key)}: {error}") from error
    return settings


def extractor_files(inception: Path | None, others: Sequence[str] | None) -> dict[str, Path]:
    """Return the files of `--inception-weights PATH` and `--extractor-weights NAME=PATH` by name in the table WEIGHTS.

    Raises UnknownName for a name that is not in that table, UserError for another form or a missing file.
    """
    if inception is None and not others:
        return {}
    from arvbench.harness.quality.extractors.weights import WEIGHTS, find_weights

    files = {} if inception is None else {"inception": user_path(inception)}
    for text in others or ():
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UserError(f"--extractor-weights {text!r}: write NAME=PATH; names: {', '.join(WEIGHTS)}")
        files[name] = user_path(path)
    for name in files:
        find_weights(name, files)
    return files
