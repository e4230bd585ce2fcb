"""An attempt to reproduce a published number: smoke image, all images, verdict, suspects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.harness.reproduce.cases import Attempt, command_of, full_suite, smoke_suite
from arvbench.harness.reproduce.judge import judge, whole
from arvbench.harness.reproduce.smoke import smoke_checks
from arvbench.harness.reproduce.suspects import suspects_of
from arvbench.harness.reproduce.targets import Targets
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.ready import check_host
from arvbench.harness.run.runner import RunListener, RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Suite
from arvbench.paths import printable
from arvbench.results.reproduction import (
    EXIT_CODES,
    REPRODUCTION_NAME,
    Outcome,
    Reproduction,
    SmokeCheck,
)
from arvbench.results.schema import Failed, Measured, Record, Setup


def reproduce(attempt: Attempt, targets: Targets, listener: RunListener) -> Reproduction:
    """Make the attempt, or finish one that was interrupted, and write its verdict into the folder.

    Raises UserError for weights that are refused and for a case that failed, HostError for a machine without room.
    """
    store = RecordStore(attempt.folder)
    smoke = _run(smoke_suite(attempt), store, attempt, listener)
    checks = smoke_checks(smoke, attempt.folder)
    if any(check.passed is False for check in checks):
        made = _stopped(attempt, smoke, checks)
    else:
        record = _run(full_suite(attempt), store, attempt, listener)
        made = _judged(attempt, targets, (smoke, record), checks)
    _write(attempt.folder / REPRODUCTION_NAME, made)
    return made


def _run(suite: Suite, store: RecordStore, attempt: Attempt, listener: RunListener) -> Record:
    """Measure the case of a suite, or take its record."""
    engine = LocalEngine()
    check_host(suite, engine, attempt.extractor_files)
    store.prepare()
    options = RunOptions(extractor_files=attempt.extractor_files, retry_failed=True)
    return run_suite(suite, store, engine, listener, options=options)[0]


def _stopped(attempt: Attempt, smoke: Record, checks: Sequence[SmokeCheck]) -> Reproduction:
    """Return the verdict on an attempt whose smoke image is wrong: more images would be, too."""
    failed = ", ".join(check.name for check in checks if check.passed is False)
    return _made(attempt, (smoke,), checks, Outcome.NOT_REPRODUCED, f"the smoke image is wrong: {failed}")


def _judged(
    attempt: Attempt, targets: Targets, records: tuple[Record, Record], checks: Sequence[SmokeCheck]
) -> Reproduction:
    outcome = records[1].outcome
    if isinstance(outcome, Failed):
        raise UserError(f"{attempt.model} failed: {outcome.status.value}: {outcome.reason}")
    if not isinstance(outcome, Measured):
        reason = "the backend differs from its judge at this batch"
        return _made(attempt, records, checks, Outcome.NOT_REPRODUCED, reason)
    numbers = judge(targets.judged, outcome.quality)
    verdict, reason = whole(numbers)
    made = _made(attempt, records, checks, verdict, reason)
    reference = attempt.recipe.reference if attempt.recipe else attempt.reference
    off = verdict is not Outcome.REPRODUCED
    return made.model_copy(
        update={
            "numbers": numbers,
            "also_published": targets.others,
            "suspects": suspects_of(attempt, outcome, reference) if off else (),
            "notes": (*outcome.setup.recipe_notes, *(finding.text for finding in outcome.findings)),
        }
    )


def _made(
    attempt: Attempt, records: Sequence[Record], checks: Sequence[SmokeCheck], outcome: Outcome, reason: str
) -> Reproduction:
    return Reproduction(
        model=attempt.model,
        recipe="official" if attempt.recipe else "that of the recorded run",
        images=attempt.images,
        weights_sha256=_digests(records[0]),
        outcome=outcome,
        exit_code=EXIT_CODES[outcome],
        reason=reason,
        smoke=tuple(checks),
        record_ids=tuple(record.record_id for record in records),
        command=command_of(attempt),
    )


def _digests(record: Record) -> dict[str, str]:
    setup: Setup | None = getattr(record.outcome, "setup", None)
    return dict(setup.weights_sha256) if setup is not None else {}


def _write(path: Path, made: Reproduction) -> None:
    try:
        write_whole(path, made.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {printable(path)}: {error.strerror or error}; choose another --out") from error
