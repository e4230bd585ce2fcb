"""The official path with made-up records: files that are here, verdict, and the suspects of an official number."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import records as make

from arvbench.harness.cli import command_line, main
from arvbench.harness.reproduce import reproduce as attempts
from arvbench.harness.suites.suite import Suite
from arvbench.results.reproduction import Reproduction
from arvbench.results.schema import CaseConfig, Measured, Record

REFERENCE = "VIRTUAL_imagenet256_labeled.npz"


@pytest.fixture
def files(tmp_path, monkeypatch) -> list[str]:
    """Options with empty official files, in a working folder of their own."""
    monkeypatch.chdir(tmp_path)
    Path("ckpts").mkdir()
    for name in ("ckpts/var_d16.pth", "ckpts/vae_ch160v4096z32.pth", REFERENCE, "inception.pth"):
        Path(name).touch()
    return ["--weights", "ckpts", "--reference", REFERENCE, "--inception-weights", "inception.pth", "--out", "run"]


def outcome_of(case: CaseConfig, fid: float, **changes: object) -> Measured:
    numbers = make.adm_numbers(case)
    shifted = numbers[0].model_copy(update={"value": fid, "interval": (fid - 0.06, fid + 0.07)})
    made = make.record("var-d16", weights="ckpts", recipe="official", batch=case.batch, quality=(shifted, *numbers[1:]))
    assert isinstance(made.outcome, Measured)
    setup = made.outcome.setup.model_copy(update={"weights_random": False, **changes})
    return made.outcome.model_copy(update={"setup": setup})


@pytest.fixture
def measured(monkeypatch):
    """Measure nothing: `measured(fid)` is what every case gives, with changes of its setup."""

    def give(fid: float, **changes: object) -> list[CaseConfig]:
        cases: list[CaseConfig] = []

        def run_suite(
            suite: Suite, store: object, engine: object, listener: object, *, options: object
        ) -> list[Record]:
            (case,) = suite.cases
            cases.append(case.config)
            made = make.record("var-d16", number=len(cases), weights="ckpts", batch=case.config.batch)
            outcome = outcome_of(case.config, fid, **changes)
            if case.config.sample_sheet:
                outcome = outcome.model_copy(update={"sample_sheet": make.sample_sheet(Path("run"))})
            return [made.model_copy(update={"case": case.config, "outcome": outcome})]

        monkeypatch.setattr(attempts, "run_suite", run_suite)
        monkeypatch.setattr(attempts, "check_host", lambda *_: None)
        monkeypatch.setattr("arvbench.harness.reproduce.smoke.images_of", lambda png, sheet: make_noise())
        return cases

    return give


def make_noise():
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


def verdict() -> Reproduction:
    return Reproduction.model_validate_json(Path("run/reproduction.json").read_text())


def test_a_number_within_the_rule_is_reproduced(files, measured, capsys):
    cases = measured(3.58)
    assert main(["reproduce", "var-d16", *files]) == 0
    found = verdict()
    assert found.outcome.value == "reproduced" and not found.suspects and found.numbers[0].target.value == 3.55
    assert [check.passed for check in found.smoke] == [True, True, None] and "none of var-d16" in found.smoke[2].text
    assert {target.value for target in found.also_published} == {3.55, 3.3}
    smoke, full = cases
    assert (smoke.batch, smoke.sample_sheet, smoke.quality) == (1, 1, None)
    assert full.quality is not None and full.quality.images == 50_000 and full.quality.protocols == ("adm-v1",)
    assert full.quality.labels == "balanced" and full.recipe == "official" and full.settings["top_k"] == 900
    assert "reproduced: FID differs by 0.03" in capsys.readouterr().out


def test_a_number_beyond_the_rule_is_not_and_every_cause_has_its_command(files, measured, capsys):
    deviations = {"settings.cfg": {"used": 2.0, "official": 1.5}}
    measured(4.20, recipe_deviations=deviations)
    assert main(["reproduce", "var-d16", *files, "--json"]) == 1
    found = Reproduction.model_validate(json.loads(capsys.readouterr().out))
    assert found.outcome.value == "not reproduced" and found.exit_code == 1
    causes = {suspect.cause: suspect for suspect in found.suspects}
    assert causes.keys() == {
        "top-k, top-p", "guidance", "class balance", "number of images", "bytes", "reference file", "data type",
        "PNG or JPEG", "another protocol", "other weights", "noise",
    }  # fmt: skip
    assert found.suspects[0].cause == "guidance" and causes["guidance"].state == "differs"
    assert causes["data type"].state == "not stated" and causes["reference file"].state == "as the recipe"
    assert (
        "b32732719497" in causes["reference file"].text and causes["reference file"].command == f"sha256sum {REFERENCE}"
    )
    assert "--inception-weights inception.pth" in causes["another protocol"].command
    root = command_line()
    for suspect in found.suspects:
        name, verb, *rest = shlex.split(suspect.command)
        if name == "arvbench":
            root.commands[verb].make_context(verb, rest)  # type: ignore[attr-defined]


def test_the_command_of_an_attempt_makes_it_again(files, measured):
    measured(3.58)
    more = ["--images", "5000", "--batch", "64", "--workers", "2"]
    assert main(["reproduce", "var-d16", *files, *more]) == 0
    words = shlex.split(verdict().command)
    assert words[:3] == ["arvbench", "reproduce", "var-d16"]
    for option, value in [*zip(more[::2], more[1::2], strict=True), ("--weights", "ckpts"), ("--out", "run")]:
        assert words[words.index(option) + 1] == value
