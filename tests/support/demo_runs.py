"""Makes results/published/demo_runs.json: `python tests/support/demo_runs.py` from the run behind README's table.

The numbers are those of tests/golden/identities/records.jsonl; the smoke images are drawn now.
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from arvbench.harness.reproduce.cases import SMOKE_SUITE, Attempt, smoke_suite
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.runner import run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Case
from arvbench.results.published.demo import DEMO_RUNS, DemoNumber, DemoRun, DemoRuns
from arvbench.results.records import read_records
from arvbench.results.schema import Measured, Record

RECORDS = Path(__file__).parent.parent / "golden" / "identities" / "records.jsonl"
SOURCE = "the recorded run of suite demo behind the table of README"
RELATIVE_TOLERANCE = 0.03
"""Of FID: the least change that the gate counts."""
ACCURACY_TOLERANCE = 0.005
METRICS = ("fid", "label-accuracy")


class Silent:
    """Listener of a run that prints nothing."""

    def case_reused(self, case: Case, record: Record) -> None: ...
    def case_started(self, case: Case, part: object) -> None: ...
    def case_event(self, case: Case, event: object) -> None: ...
    def case_half_finished(self, case: Case, seconds: float, *, reused: bool) -> None: ...
    def case_finished(self, case: Case, record: Record) -> None: ...


def recorded() -> dict[str, Record]:
    """Return the records of the demo suite with quality, by model."""
    records = [record for record in read_records(RECORDS) if record.suite == "demo"]
    return {r.case.model: r for r in records if isinstance(r.outcome, Measured) and r.outcome.quality}


def numbers_of(record: Record) -> dict[str, DemoNumber]:
    """Return the numbers of a record that a rehearsal is compared with."""
    assert isinstance(record.outcome, Measured)
    by_metric = {number.metric: number for number in record.outcome.quality}
    return {
        metric: DemoNumber(
            value=by_metric[metric].value,
            interval=by_metric[metric].interval,
            protocol_id=by_metric[metric].protocol_id,
            tolerance=ACCURACY_TOLERANCE
            if metric == "label-accuracy"
            else float(f"{RELATIVE_TOLERANCE * by_metric[metric].value:.2g}"),
        )
        for metric in METRICS
    }


def smoke(model: str, folder: Path) -> tuple[str, tuple[int, ...]]:
    """Draw the smoke image of a model: its PNG in base64, and its classes."""
    attempt = Attempt(
        model=model,
        weights="demo",
        device="cpu",
        reference="digits",
        images=2,
        published_images=2,
        batch=1,
        workers=1,
        folder=folder,
        recipe=None,
    )
    (record,) = run_suite(smoke_suite(attempt), RecordStore(folder), LocalEngine(), Silent())
    assert isinstance(record.outcome, Measured) and record.outcome.sample_sheet is not None, record.outcome
    sheet = record.outcome.sample_sheet
    return base64.b64encode((folder / sheet.path).read_bytes()).decode(), sheet.classes


def main() -> None:
    runs, commits = {}, set()
    for model, record in recorded().items():
        assert isinstance(record.outcome, Measured)
        commits.add(str(record.environment.git_commit))
        with tempfile.TemporaryDirectory() as folder:
            png, classes = smoke(model, Path(folder))
        runs[model] = DemoRun(
            images=record.outcome.quality[0].n_samples,
            weights_sha256=record.outcome.setup.weights_sha256,
            numbers=numbers_of(record),
            smoke_png=png,
            smoke_classes=classes,
        )
        print(model, SMOKE_SUITE)
    DEMO_RUNS.write_text(
        DemoRuns(source=SOURCE, commit=", ".join(sorted(commits)), runs=runs).model_dump_json(indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
