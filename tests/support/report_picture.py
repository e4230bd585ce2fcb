"""Picture of a report's first screen in README: `python tests/support/report_picture.py docs/report.png`.

The records are those of tests/golden/identities/records.jsonl that the demo suite made. Their samples are drawn anew,
from the same labels and noise: pictures are not committed with records. Needs Chromium and Pillow.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from identities import RECORDS
from PIL import Image

from arvbench.adapters import load_sampler
from arvbench.harness.jobs import Job
from arvbench.harness.measure.sample_sheet import draw_sample_sheet
from arvbench.reports.build import build_report
from arvbench.results.records import read_records
from arvbench.results.schema import Measured, Record

SIZE = (1280, 900)


def with_samples(record: Record, folder: Path) -> Record:
    """Return the record with its sample sheet, drawn below `folder`; as it is where it asks for none."""
    case, outcome = record.case, record.outcome
    if not case.sample_sheet or not isinstance(outcome, Measured):
        return record
    sampler = load_sampler(case.model, weights=case.weights, backend=case.backend)
    settings = sampler.spec.settings.replace(**case.settings)
    job = Job(record_id=record.record_id, case=case, folder=folder)
    sheet = draw_sample_sheet(job, sampler, settings, lambda event: None)
    return record.model_copy(update={"outcome": outcome.model_copy(update={"sample_sheet": sheet})})


def photograph(page: Path) -> Image.Image:
    """Return the first screen of a page as Chromium shows it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("this needs Chromium")
    shot = page.with_suffix(".png")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--force-color-profile=srgb"]
    window = f"--window-size={SIZE[0]},{SIZE[1]}"
    command = [chromium, *options, window, f"--screenshot={shot}", page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")


def main(out: Path) -> None:
    """Write the picture."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        records = [with_samples(record, folder) for record in read_records(RECORDS) if record.suite == "demo"]
        lines = (record.model_dump_json() + "\n" for record in records)
        (folder / "records.jsonl").write_text("".join(lines))
        build_report([folder / "records.jsonl"], folder / "report.html")
        picture = photograph(folder / "report.html")
        # A palette by octree keeps the few colours among many greys.
        picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
