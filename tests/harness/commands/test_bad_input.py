"""Bad input for caches, methods and memory, as a user meets it: one line and exit 2, or a record that says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arvbench.adapters.next_scale.sampler import NextScaleSampler
from arvbench.harness.cli import main
from arvbench.harness.jobs import Job
from arvbench.harness.run.worker import run_job
from arvbench.results.schema import CaseConfig, Status


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command that is refused, and return its one line."""
    monkeypatch.chdir(tmp_path)

    def line(*arguments):
        assert main([*arguments]) == 2
        (only,) = capsys.readouterr().err.strip().splitlines()
        assert not list(tmp_path.glob("**/records.jsonl"))
        return only

    return line


@pytest.mark.parametrize(
    ("model", "cache", "reason"),
    [
        ("demo/var", "window:0", "must be a number of steps in 1..6"),
        ("demo/var", "scalekv:0", "budget 0 must be in 1..130"),
        ("demo/var", "hack:131", "budget 131 must be in 1..130"),
        ("demo/par", "linear:9999", "must be in 1..64"),
        ("demo/var", "hack:lots", "budget 'lots' is neither a number of tokens"),
        ("demo/var", "scalekv:nan", "neither a number of tokens"),
        ("demo/llamagen", "scalekv:0.5", "it runs on: var, flexvar, hmar"),
        ("demo/nar", "linear:0.5", "it runs on: llamagen, par"),
        ("demo/mvar", "int8", "it runs on: var, flexvar, hmar"),
        ("demo/hmar", "window:2", "kv_cache"),
    ],
)
def test_a_policy_that_cannot_run_is_one_line(refused, model, cache, reason):
    assert reason in refused("run", "demo", "--models", model, "--set", f"cache={cache}", "--out", "r")


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("code:3,refiner=var-d16", "share a tokenizer"),
        ("code:6,refiner=demo/var", "6 drafted scales must be in 1..5"),
        ("code:3,refiner=demo/par", "is not one"),
    ],
)
def test_a_refiner_that_does_not_fit_is_one_line(refused, method, reason):
    assert reason in refused("run", "demo", "--models", "demo/var", "--set", f"method={method}", "--out", "r")


def test_weights_with_different_tokenizers_are_one_line(refused):
    method = "code:3,refiner=demo/var,weights=random:1"
    command = ["sample", "demo/var", "--weights", "random:0", "--images", "1", "--out", "x.npz", "--method", method]
    assert "have different tokenizers" in refused(*command)


def test_a_method_of_another_family_names_those_that_can(refused):
    assert "it runs on: var" in refused("run", "demo", "--models", "demo/nar", "--set", "method=skip:1", "--out", "r")


def test_fp8_without_hardware_for_it_is_an_unsupported_record(tmp_path, monkeypatch):
    shape_of = NextScaleSampler.cache_shape

    def on_a_gpu(*args, **options):
        return replace(shape_of(*args, **options), device=torch.device("cuda", 0))

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(NextScaleSampler, "cache_shape", on_a_gpu)
    case = CaseConfig(model="demo/var", weights="random:0", cache="fp8", threads=1, repeats=1, max_warmup=1)
    outcome = run_job(Job(record_id="0", case=case, folder=tmp_path), lambda event: None).outcome
    assert outcome.status is Status.UNSUPPORTED
    assert outcome.reason.startswith("cache policy fp8 needs a GPU with float8")
    assert "this one has 8.6: take int8" in outcome.reason
