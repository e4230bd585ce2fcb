"""`arvbench reproduce`: files that are missing, the rehearsal with a demo model, and its verdicts."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from demo_runs import numbers_of, recorded

from arvbench.adapters.loading import demo_models
from arvbench.adapters.registry import MODELS
from arvbench.errors import HostError, UserError
from arvbench.harness.cli import command_line, main
from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.harness.reproduce import reproduce as attempts
from arvbench.harness.reproduce.smoke import smoke_checks
from arvbench.harness.reproduce.targets import targets_of
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.worker import run_job
from arvbench.harness.suites.recipes import read_recipes
from arvbench.results.published.demo import demo_runs
from arvbench.results.records import read_records
from arvbench.results.reproduction import Outcome, Reproduction
from arvbench.results.schema import Failed, Measured, Status

SOURCE = Path(__file__).resolve().parents[3] / "src"
IMAGES = 16
FEW = ["--images", str(IMAGES), "--batch", "8"]


class InThisProcess(LocalEngine):
    """Measures in this process, which has imported everything."""

    jobs = 0

    def run(self, job: Job, listener: EventListener) -> Result:
        type(self).jobs += 1
        return run_job(job, listener)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> Path:
    """Folder of a rehearsal with few images."""
    folder = tmp_path_factory.mktemp("reproduce") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "LocalEngine", InThisProcess)
        assert main(["reproduce", "demo/var", *FEW, "--out", str(folder)]) == 5
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder without any file of weights, and a machine that has none either."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("ARVBENCH_INCEPTION", "ARVBENCH_REFERENCES", "ARVBENCH_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def made(folder: Path) -> Reproduction:
    return Reproduction.model_validate_json((folder / "reproduction.json").read_text())


def test_a_rehearsal_passes_the_smoke_image_and_few_images_decide_nothing(rehearsal):
    found = made(rehearsal)
    assert [check.passed for check in found.smoke] == [True, True, True]
    assert "10 of 10 images equal" in found.smoke[2].text
    assert found.outcome is Outcome.INCONCLUSIVE and found.exit_code == 5
    assert "of 16 images: a verdict needs the published 1,000" in found.reason
    assert [judged.target.metric for judged in found.numbers] == ["fid", "label-accuracy"]
    record = read_records(rehearsal).records[-1]
    assert isinstance(record.outcome, Measured)
    assert found.record_ids[-1] == record.record_id and found.weights_sha256 == record.outcome.setup.weights_sha256


def test_the_suspects_begin_with_what_differs_and_their_commands_exist(rehearsal):
    suspects = made(rehearsal).suspects
    assert suspects[0].cause == "number of images" and suspects[0].state == "differs"
    assert {
        "top-k, top-p",
        "guidance",
        "class balance",
        "bytes",
        "data type",
        "PNG or JPEG",
        "noise",
        "other weights",
    } < {suspect.cause for suspect in suspects}
    root = command_line()
    for suspect in suspects:
        name, verb, *rest = shlex.split(suspect.command)
        assert name == "arvbench"
        root.commands[verb].make_context(verb, rest)  # type: ignore[attr-defined]


def test_the_suites_of_the_suspects_are_ones_that_the_runner_takes(rehearsal, capsys):
    for suspect in made(rehearsal).suspects:
        _, verb, *rest = shlex.split(suspect.command)
        if verb == "run":
            assert main(["run", *rest, "--dry-run"]) == 0, suspect.command
    assert "demo/var" in capsys.readouterr().out


def test_the_same_command_goes_on_and_measures_nothing_twice(rehearsal, monkeypatch, capsys):
    monkeypatch.setattr(attempts, "LocalEngine", InThisProcess)
    before, jobs = made(rehearsal), InThisProcess.jobs
    arguments = shlex.split(before.command)
    assert arguments[:2] == ["arvbench", "reproduce"]
    assert main([*arguments[1:], "--json"]) == 5
    assert InThisProcess.jobs == jobs and json.loads(capsys.readouterr().out)["record_ids"] == list(before.record_ids)


def test_what_is_printed_fits_80_columns_but_for_commands(rehearsal, monkeypatch, capsys):
    monkeypatch.setattr(attempts, "LocalEngine", InThisProcess)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["reproduce", "demo/var", *FEW, "--out", str(rehearsal)]) == 5
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("  $ ")) <= 80
    assert "left to the report" not in "".join(lines) and any("inconclusive: FID is of 16" in line for line in lines)


def test_a_smoke_image_that_is_another_ends_the_attempt(rehearsal, monkeypatch, tmp_path):
    (smoke, *_) = read_records(rehearsal).records
    monkeypatch.setattr("arvbench.harness.reproduce.smoke._EQUAL_SHARE", 1.1)  # nothing is equal enough
    checks = smoke_checks(smoke, rehearsal)
    assert [check.passed for check in checks] == [True, True, False]
    monkeypatch.setattr(attempts, "LocalEngine", InThisProcess)
    jobs = InThisProcess.jobs
    out = [*FEW, "--out", str(rehearsal)]
    before = (rehearsal / "reproduction.json").read_text()
    try:
        assert main(["reproduce", "demo/var", *out]) == 1
        found = made(rehearsal)
        assert found.outcome is Outcome.NOT_REPRODUCED and "recorded image" in found.reason and not found.numbers
        assert InThisProcess.jobs == jobs
    finally:
        (rehearsal / "reproduction.json").write_text(before)


def test_a_smoke_image_of_one_colour_is_wrong(rehearsal, tmp_path):
    import io

    from PIL import Image

    (smoke, *_) = read_records(rehearsal).records
    assert isinstance(smoke.outcome, Measured) and smoke.outcome.sample_sheet is not None
    grey = io.BytesIO()
    Image.new("RGB", (32, 320), (90, 90, 90)).save(grey, "PNG")
    (tmp_path / "samples").mkdir()
    (tmp_path / smoke.outcome.sample_sheet.path).write_bytes(grey.getvalue())
    _, pixels, recorded_image = smoke_checks(smoke, tmp_path)
    assert pixels.passed is False and "10 of one colour" in pixels.text and recorded_image.passed is False


@pytest.mark.parametrize(
    ("status", "kind"),
    [(Status.OOM, HostError), (Status.TIMEOUT, HostError), (Status.ERROR, UserError), (Status.UNSUPPORTED, UserError)],
)
def test_a_smoke_image_that_failed_says_why(rehearsal, status, kind):
    (smoke, *_) = read_records(rehearsal).records
    failed = smoke.model_copy(update={"outcome": Failed(status=status, reason="weights do not fit")})
    with pytest.raises(kind, match="weights do not fit"):
        smoke_checks(failed, rehearsal)


def test_without_the_files_every_one_is_named_with_where_it_is_and_the_exit_code_is_3(here, capsys):
    assert main(["reproduce", "var-d16"]) == 3
    printed = capsys.readouterr()
    for text in (
        "transformer: var_d16.pth",
        "tokenizer: vae_ch160v4096z32.pth",
        "https://huggingface.co/FoundationVision/var",
        "size     436 MB",
        "VIRTUAL_imagenet256_labeled.npz",
        "b32732719497e42660a9affb4a966068cba0855ac449b82015e34ec376d20758",
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "Rehearse the same path with what is here: arvbench reproduce demo/var",
    ):
        assert text in printed.out, text
    assert printed.err.startswith("error: var-d16 cannot be reproduced here without var_d16.pth, vae_")
    assert printed.err.count("\n") == 1
    assert not list(here.iterdir())


def test_only_what_is_missing_is_named(here, capsys):
    (here / "ckpts").mkdir()
    (here / "ckpts" / "var_d16.pth").touch()
    (here / "VIRTUAL_imagenet256_labeled.npz").touch()
    (here / "inception.pth").touch()
    arguments = ["--weights", "ckpts", "--reference", "VIRTUAL_imagenet256_labeled.npz", "--json"]
    assert main(["reproduce", "var-d16", *arguments, "--inception-weights", "inception.pth"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert [need["file"] for need in content["needs"]] == ["vae_ch160v4096z32.pth"]
    assert content["rehearse"] == "arvbench reproduce demo/var" and content["needs"][0]["put"] == "into ckpts"


@pytest.mark.parametrize("model", ["nar-b", "hmar-d16", "llamagen-b-384", "flexvar-d24", "mvar-d32", "par-xl-4x-384"])
def test_every_family_says_what_it_needs(here, capsys, model):
    assert main(["reproduce", model, "--json"]) == 3
    needs = json.loads(capsys.readouterr().out)["needs"]
    checkpoint = MODELS[model].checkpoint
    assert [need["file"] for need in needs[:2]] == [checkpoint.transformer_file, checkpoint.tokenizer_file]
    assert len(needs) == 4 and all(need["source"].startswith("https://") for need in needs)


def test_a_dry_run_says_what_would_be_met_and_writes_nothing(here, capsys):
    assert main(["reproduce", "demo/var", "--dry-run", "--images", "100"]) == 0
    printed = capsys.readouterr().out
    assert "published  FID 0.782" in printed and "100 of 1,000 published" in printed and "a verdict needs" in printed
    assert main(["reproduce", "var-d16", "--dry-run"]) == 3
    printed = capsys.readouterr().out
    assert "FID 3.55" in printed and "cfg 1.5, top_k 900, top_p 0.96" in printed and "var_d16.pth" in printed
    assert main(["reproduce", "var-d16", "--dry-run", "--json"]) == 3
    plan = json.loads(capsys.readouterr().out)
    assert plan["published"][0]["value"] == 3.55 and len(plan["needs"]) == 4
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["var-d61"], "no model 'var-d61'; did you mean"),
        (["llamagen-b-256"], "no official recipe"),
        (["mvar-d30"], "no FID of mvar-d30 by its official recipe is published"),
        (["var-d16", "--weights", "random:0"], "random weights have no quality to reproduce"),
        (["var-d16", "--weights", "nowhere"], "no weights at nowhere"),
        (["var-d16", "--reference", "nowhere.npz"], "no reference at nowhere.npz"),
        (["var-d16", "--inception-weights", "nowhere.pth"], "nowhere.pth"),
        (["demo/var", "--weights", "random:0"], "random weights have no quality"),
        (["demo/var", "--reference", "x.npz"], "takes neither --weights nor --reference"),
        (["demo/var", "--device", "gpu"], "no device 'gpu'"),
        (["demo/var", "--out", ""], "an empty path"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(here, capsys, arguments, reason):
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and reason in error and error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["demo/var", "--images", "1"], ["demo/var", "--batch", "0"], []])
def test_a_malformed_command_line_is_exit_code_2(here, arguments):
    assert main(["reproduce", *arguments]) == 2


def test_a_device_that_is_not_here_is_exit_code_3(here, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main(["reproduce", "demo/var", "--device", "cuda"]) == 3
    assert "no usable GPU" in capsys.readouterr().err


def test_every_official_recipe_has_a_target_of_its_own_settings_or_says_that_it_has_none():
    without = []
    for model, name in read_recipes():
        if name != "official":
            continue
        try:
            recipe, targets = targets_of(model)
        except UserError:
            without.append(model)
            continue
        assert recipe is not None and targets.judged[0].metric == "fid"
        assert all(target.value != targets.judged[0].value or target.source != targets.judged[0].source
                   for target in targets.others)  # fmt: skip
    assert {model.partition("-")[0] for model, _ in read_recipes() if model not in without} >= {
        "var", "mvar", "hmar", "flexvar", "llamagen", "nar", "par"
    }  # fmt: skip
    assert "mvar-d30" in without
    assert targets_of("var-d16")[1].judged[0].value == 3.55
    assert targets_of("flexvar-d24")[1].judged[0].value == 2.21  # 2.08 is of 13 steps


def test_every_demo_model_can_be_rehearsed_and_its_record_is_that_of_the_committed_run():
    runs = demo_runs().runs
    assert runs.keys() == recorded().keys() <= set(demo_models())
    for model, record in recorded().items():
        assert runs[model].numbers == numbers_of(record), "renew it with `python tests/support/demo_runs.py`"
        assert isinstance(record.outcome, Measured)
        assert runs[model].weights_sha256 == record.outcome.setup.weights_sha256


def test_a_damaged_file_of_recorded_runs_is_named(tmp_path):
    (tmp_path / "runs.json").write_text("{}")
    with pytest.raises(UserError, match=r"runs\.json holds no recorded runs"):
        demo_runs(tmp_path / "runs.json")


@pytest.mark.slow
def test_a_demo_model_is_reproduced_by_all_its_images(tmp_path):
    assert main(["reproduce", "demo/var", "--out", str(tmp_path / "run")]) == 0
    found = made(tmp_path / "run")
    assert found.outcome is Outcome.REPRODUCED and not found.suspects
    assert all(judged.outcome is Outcome.REPRODUCED for judged in found.numbers)


@pytest.mark.slow
def test_a_killed_attempt_goes_on_to_the_same_numbers(tmp_path):
    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "arvbench", "reproduce", "demo/var", "--images", "600", "--out", str(folder)]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SOURCE)}, stderr=subprocess.DEVNULL)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed)
    while not list(killed.glob("features/*/*")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = read_records(killed).records
    assert start(killed).wait() == 5 and start(whole).wait() == 5
    assert made(killed).numbers == made(whole).numbers
    assert read_records(killed).records[: len(first)] == first
