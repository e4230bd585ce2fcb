"""Readiness of this machine for a suite, found out before the first case."""

from __future__ import annotations

from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import ExtractorFiles
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.fingerprint import quality_files
from arvbench.harness.suites.suite import Suite, check_cases


def check_host(suite: Suite, engine: Engine, extractor_files: ExtractorFiles) -> None:
    """Raise UserError or HostError before the first case: refused settings, a missing device, a missing file."""
    try:
        check_cases(suite.first_launches)
    except UserError as error:
        raise UserError(f"{suite.source}: {error}") from error
    for device in dict.fromkeys(case.config.device for case in suite.cases):
        engine.environment(device)
    for quality in dict.fromkeys(case.config.quality for case in suite.cases if case.config.quality):
        quality_files(quality, extractor_files)
