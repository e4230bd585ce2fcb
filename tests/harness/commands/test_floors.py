"""`arvbench models --floors`: a table that fits a narrow terminal, on this processor or a GPU of the table."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters.loading import load_sampler
from arvbench.errors import UserError
from arvbench.harness.commands import floors
from arvbench.harness.commands.models import models
from arvbench.results.gpus import gpu_named
from arvbench.results.roofline import Machine, stated_machine

CPU = Machine(name="made up", flops_per_s={"float32": 1e11}, copies=((1e9, 1e10),))


@pytest.fixture
def two_models(monkeypatch):
    from arvbench.adapters import loading
    from arvbench.adapters.registry import MODELS

    monkeypatch.setattr(loading, "known_specs", lambda: iter([(name, MODELS[name]) for name in ("demo/var", "nar-l")]))


def test_the_plan_without_weights_is_that_of_a_loaded_model():
    loaded = load_sampler("demo/var", weights="demo", backend="optimized")
    assert floors.planned("demo/var", torch.float32) == loaded.schedule(loaded.spec.settings, batch=1)


def test_a_faster_gpu_has_lower_floors_and_every_row_adds_up(two_models):
    slow, fast = (
        list(floors.floor_rows(stated_machine(gpu_named(name)), torch.bfloat16)) for name in ("L4", "H200-SXM")
    )
    assert [row.name for row in slow] == ["demo/var", "nar-l"]
    for one, other in zip(slow, fast, strict=True):
        assert other.images.ns < one.images.ns and one.images.ns == one.tokens.ns + one.decode.ns


@pytest.mark.parametrize("gpu", [None, "h200-sxm"])
def test_the_table_names_the_machine_and_its_ceilings_in_80_columns(gpu, two_models, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(floors, "processor", lambda: CPU)
    models(floors=True, gpu=gpu)
    out = capsys.readouterr().out
    assert ("H200-SXM" in out and "datasheet" in out) if gpu else ("made up" in out and "measured just now" in out)
    assert "nar-l" in out and "memory" in out and max(map(len, out.splitlines())) <= 80


def test_an_unknown_gpu_lists_the_known_ones_and_options_that_exclude_each_other_say_so():
    with pytest.raises(UserError, match=r"no GPU 'H1000' in the table; known: A100-40GB-SXM"):
        models(floors=True, gpu="H1000")
    with pytest.raises(UserError, match="give both"):
        models(gpu="L4")
    with pytest.raises(UserError, match="no JSON"):
        models(floors=True, as_json=True)
