"""Files of a reproduction that are not here: weights, reference, network of the evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from arvbench.adapters.loading import locate_weights
from arvbench.adapters.sampler import ModelSpec
from arvbench.errors import CheckpointError, UserError
from arvbench.files import cache_folder
from arvbench.harness.quality.extractors.weights import WEIGHTS, find_weights
from arvbench.harness.quality.reference.official import PUBLISHED, REFERENCES_VARIABLE, find_reference
from arvbench.paths import printable, user_path
from arvbench.results.published.tables import FOLDER, CheckpointRow, read_table
from arvbench.results.reproduction import Need


def needs_of(
    spec: ModelSpec, weights: str | None, reference: str, extractor_files: Mapping[str, Path]
) -> tuple[Need, ...]:
    """Return the files that are missing, none for a demo model.

    Raises UserError for a path that was named and is not there: that is a mistake, not something to fetch.
    """
    if spec.demo:
        return ()
    return (*_weights(spec, weights), *_reference(reference), *_inception(extractor_files))


def _weights(spec: ModelSpec, weights: str | None) -> list[Need]:
    assert spec.checkpoint is not None
    checkpoint = spec.checkpoint
    files = [
        ("transformer", checkpoint.hub_repo, checkpoint.transformer_file),
        ("tokenizer", checkpoint.tokenizer_repo or checkpoint.hub_repo, checkpoint.tokenizer_file),
    ]
    if weights is not None:
        try:
            locate_weights(spec, weights)
        except CheckpointError:
            folder = user_path(weights)
            if not folder.is_dir():
                raise
            here = {path.name.lower() for path in folder.iterdir() if path.is_file()}
            files = [each for each in files if each[2].lower() not in here]
            if not files:
                raise
        else:
            return []
    put = f"into {printable(weights)}" if weights else "both into one folder: --weights FOLDER"
    return [_weight_file(part, repository, name, put) for part, repository, name in files]


def _weight_file(part: str, repository: str, name: str, put: str) -> Need:
    row = next((row for row in _checkpoints() if (row.file, row.repo_id) == (name, repository)), None)
    digest = row.hash.removeprefix("sha256 ") if row is not None and row.hash.startswith("sha256 ") else ""
    return Need(
        what=part,
        file=name,
        source=f"https://huggingface.co/{repository}",
        size=row.size if row is not None and "not seen" not in row.size else "",
        sha256=digest,
        put=put,
        licence=row.weights_license if row is not None else "",
    )


@cache
def _checkpoints() -> tuple[CheckpointRow, ...]:
    return read_table(FOLDER / "checkpoints.csv", CheckpointRow)


def _reference(reference: str) -> list[Need]:
    published = next((entry for entry in PUBLISHED.values() if entry.file_name == reference), None)
    if published is None:
        if not user_path(reference).exists():
            raise UserError(f"no reference at {printable(reference)}")
        return []
    try:
        find_reference(reference)
    except UserError:
        return [
            Need(
                what="reference",
                file=published.file_name,
                source=published.url,
                size="",
                sha256=published.sha256,
                put=f"--reference PATH, or its folder in {REFERENCES_VARIABLE}",
            )
        ]
    return []


def _inception(extractor_files: Mapping[str, Path]) -> list[Need]:
    if "inception" in extractor_files:
        return []
    try:
        find_weights("inception", extractor_files)
    except UserError:
        entry = WEIGHTS["inception"]
        return [
            Need(
                what="evaluator's network",
                file=entry.file_name,
                source=entry.url,
                size="",
                sha256=entry.sha256,
                put=f"--inception-weights PATH, or into {printable(cache_folder('weights'))}",
                licence="Apache-2.0",
            )
        ]
    return []
