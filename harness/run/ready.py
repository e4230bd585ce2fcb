"""Readiness of this machine for a suite, found out before the first case."""

from __future__ import annotations

from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import ExtractorFiles
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.fingerprint import calibration_file, quality_files
from arvbench.harness.suites.suite import Suite, check_cases
from arvbench.results.schema import CaseConfig


def check_host(suite: Suite, engine: Engine, extractor_files: ExtractorFiles) -> None:
    """Raise UserError or HostError before the first case: refused settings, a missing device, a missing file."""
    try:
        check_cases(suite.first_launches)
    except UserError as error:
        raise UserError(f"{suite.source}: {error}") from error
    for case in suite.first_launches:
        _check_calibration(case.config)
    for device in dict.fromkeys(case.config.device for case in suite.cases):
        engine.environment(device)
    for quality in dict.fromkeys(case.config.quality for case in suite.cases if case.config.quality):
        quality_files(quality, extractor_files)


def _check_calibration(case: CaseConfig) -> None:
    """Raise UserError for a calibration of other weights; those that are yet to be downloaded are checked later."""
    name = case.cache or ""
    if calibration_file(case.cache) is None or case.weights == "hub":
        return
    from arvbench.adapters.cache.check import check_weights
    from arvbench.adapters.cache.request import read_request
    from arvbench.adapters.loading import weights_info
    from arvbench.adapters.methods.request import spec_of

    weights = weights_info(spec_of(case.model, case.method), case.weights)
    check_weights(case.model, read_request(name).options, weights)
