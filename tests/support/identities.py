"""Texts that must not change by accident: `python tests/support/identities.py` writes them to tests/golden/identities.

Whoever rewrites one of these files changes what a recorded number means, or what users' scripts read: CHANGELOG says
so. `records.jsonl` is a run of the demo suite, without its pictures, and the made-up records of support/records.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch

FOLDER = Path(__file__).parent.parent / "golden" / "identities"
RECORDS = FOLDER / "records.jsonl"

LAYERS: Mapping[str, tuple[str, ...]] = {
    "adm-inception": ("pool", "spatial", "logits"),
    "fidelity-inception": ("2048", "logits_unbiased"),
    "clean-fid": ("2048",),
    "clean-fid-legacy-tensorflow": ("2048",),
    "clean-fid-legacy-pytorch": ("2048",),
    "clip-vit-b-32": ("embedding",),
    "clip-vit-l-14-336": ("embedding",),
    "dinov2-vit-l-14": ("cls",),
}
"""Layers of the extractors whose weights are not part of the package."""
DIMS = 8
"""Of every layer of a stand-in: no id depends on it, and all metrics are quick."""


def extractor(name: str, **options: Any) -> Any:
    """The digit classifier, or a stand-in with the layers of `name`, made of random projections."""
    from arvbench.harness.quality.extractors.extractor import Extractor, load_extractor

    if name not in LAYERS:
        return load_extractor(name, **options)
    seeded = torch.Generator().manual_seed(len(name))
    weights = {layer: torch.randn(48, DIMS, generator=seeded) for layer in LAYERS[name]}

    def network(images_B3HW: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled_BP = torch.nn.functional.adaptive_avg_pool2d(images_B3HW.float() / 255, 4).flatten(1)
        return {layer: torch.sin(pooled_BP @ weight) for layer, weight in weights.items()}

    return Extractor(
        name=name,
        network=network,
        layers=dict.fromkeys(LAYERS[name], DIMS),
        device=torch.device("cpu"),
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        preprocessing=f"preprocessing of {name}",
    )


def protocol_ids() -> str:
    """Id, words and parameters of every metric of every protocol, on one fixed input.

    No id depends on a value: KID by the libraries, which is most of the work, is not computed.
    """
    import cleanfid.fid
    import torch_fidelity.metric_kid as fidelity

    from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
    from arvbench.harness.quality.images.source import Provenance
    from arvbench.harness.quality.images.tensors import TensorSource
    from arvbench.harness.quality.protocols.protocol import PROTOCOLS, Options

    count = 4100  # FID at infinity needs twice the 2048 dimensions of the real layers
    seeded = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=seeded, dtype=torch.uint8)
    provenance = Provenance(labels="balanced", uint8_rule="truncate", model="demo/var", note="made up")
    source = TensorSource(images, name="noise", labels_N=torch.arange(count) % 10, provenance=provenance)
    found: dict[str, dict[str, Any]] = {}
    no_kid = {fidelity.KEY_METRIC_KID_MEAN: 0.0, fidelity.KEY_METRIC_KID_STD: 0.0}
    with (
        mock.patch("arvbench.harness.quality.features.feature_pass.load_extractor", extractor),
        mock.patch.object(cleanfid.fid, "kernel_distance", return_value=0.0),
        mock.patch.object(fidelity, "kid_features_to_metric", return_value=no_kid),
    ):
        # One that takes statistics alone has no id against digits; its own test compares its ids.
        names = tuple(name for name in PROTOCOLS if not PROTOCOLS[name].statistics_only)
        asked = EvaluationRequest(protocols=names, reference="digits", options=Options(bootstrap=0))
        for number in evaluate(source, asked).numbers:
            found.setdefault(number.protocol_name, {})[number.metric] = {
                "id": number.protocol_id,
                "words": number.protocol,
                "parameters": number.detail.get("parameters", {}),
            }
    return _json(found)


def suites() -> str:
    """Names and complete configurations of the cases of every built-in suite."""
    from arvbench.harness.suites.built_in import built_in_suites
    from arvbench.harness.suites.suite import load_suite

    return _json(
        {
            name: {case.case_id: case.config.model_dump_json() for case in load_suite(name).first_launches}
            for name in built_in_suites()
        }
    )


def schedules() -> str:
    """The analytic plan of every demo model under every cache policy it runs with, for three images."""
    from arvbench.adapters import load_sampler
    from arvbench.adapters.registry import MODELS

    plans: dict[str, dict[str, Any]] = {}
    for name in (name for name, spec in MODELS.items() if spec.demo):
        sampler = load_sampler(name, weights="random:0")
        for policy in sampler.cache_policies():
            settings = sampler.spec.settings
            if policy in ("grow", "static") and hasattr(settings, "kv_cache"):
                settings = settings.replace(kv_cache=True)
            schedule = sampler.schedule(settings, batch=3, cache=policy)
            plans[f"{name} {policy}"] = {
                "settings": settings.model_dump(mode="json"),
                "decode_flops": schedule.decode_flops,
                "steps": [" ".join(f"{f.name}={getattr(step, f.name)}" for f in fields(step)) for step in schedule],
            }
    return _json(plans)


def markdown() -> str:
    """The answer of the report of the committed records, as Markdown."""
    return _report("report.md")


def tables() -> str:
    """All tables of the committed records as Markdown."""
    return _report("tables.md")


def page_outline() -> str:
    """Headings, captions and column names of the HTML report of the committed records, and the names of its figures."""
    marks = r"<(h[1-6]|th|figcaption|summary|caption|figure|svg)\b([^>]*)>(.*?)</\1>"
    lines = []
    for tag, attributes, inner in re.findall(marks, _report("report.html"), re.DOTALL):
        name = " ".join(re.findall(r'(?:id|aria-label)="[^"]*"', attributes))
        text = "" if tag in ("svg", "figure") else " ".join(re.sub(r"<[^>]*>", " ", inner).split())
        lines.append(f"{tag} {name} {text}".rstrip())
    return "\n".join(lines) + "\n"


def _report(name: str) -> str:
    return _reports()[name]


@cache
def _reports() -> dict[str, str]:
    """Texts of the report by the name of their file."""
    from arvbench.reports.build import build_report

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        build_report([RECORDS], out / "report.html", tables=[out / "tables.md"])
        files = [path for path in out.iterdir() if path.is_file()]
        return {path.name: path.read_text(encoding="utf-8").replace(str(FOLDER), "FOLDER") for path in files}


def models() -> str:
    """`arvbench models --json`."""
    return _output(["models", "--json"])


def help_texts() -> str:
    """`--help` of the program and of every verb, at 80 columns."""
    from arvbench.harness.cli import command_line

    calls = [["--help"]]
    for verb, command in command_line().commands.items():  # type: ignore[attr-defined]
        calls.append([verb, "--help"])
        calls += [[verb, inner, "--help"] for inner in getattr(command, "commands", {})]
    return "".join(f"$ arvbench {' '.join(call)}\n{_output(call)}\n" for call in sorted(calls))


def _output(arguments: list[str]) -> str:
    from arvbench.harness.cli import command_line

    printed = io.StringIO()
    columns = {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"}
    with mock.patch.dict(os.environ, columns), contextlib.redirect_stdout(printed):
        command_line()(args=arguments, prog_name="arvbench", terminal_width=80, standalone_mode=False)
    return printed.getvalue()


def _json(content: object) -> str:
    return json.dumps(content, indent=1, sort_keys=False) + "\n"


IDENTITIES: Mapping[str, Callable[[], str]] = {
    "protocol_ids.json": protocol_ids,
    "suites.json": suites,
    "report.md": markdown,
    "tables.md": tables,
    "page_outline.txt": page_outline,
    "models.json": models,
    "schedules.json": schedules,
    "help.txt": help_texts,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or IDENTITIES:
        (FOLDER / name).write_text(IDENTITIES[name](), encoding="utf-8")
        print(name)
