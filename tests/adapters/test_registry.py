from __future__ import annotations

import subprocess
import sys

import pytest

from arvbench.adapters import MODELS
from arvbench.adapters.loading import known_specs
from arvbench.errors import ContractError, HostError, UnknownName
from arvbench.registry import Registry


def test_listing_models_imports_neither_torch_nor_triton():
    code = (
        "import sys; from arvbench.adapters import MODELS; assert 'var-d16' in list(MODELS); "
        "print([m for m in ('torch', 'triton', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"}
    )
    assert done.stdout.strip() == "[]"


def test_every_entry_is_a_spec_of_its_own_name():
    assert [spec.name for _, spec in known_specs()] == list(MODELS)


def test_other_distributions_can_add_models(tmp_path):
    package = tmp_path / "other_model-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other-model\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[arvbench.models]\nother = other_model:SPEC\nvar-d16 = evil:SPEC\n")
    code = (
        "from arvbench.adapters.registry import MODELS; import arvbench.registry as r; "
        "print('other' in MODELS, MODELS._entries['var-d16'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"src:{tmp_path}"},
    )
    assert done.stdout.strip() == "True arvbench.adapters.var:VAR_D16"


def test_an_entry_that_points_nowhere_is_a_broken_contract():
    table: Registry[object] = Registry("thing", {"a": "arvbench.errors:Nothing"})
    with pytest.raises(ContractError, match="Nothing"):
        table["a"]
    with pytest.raises(UnknownName, match="known: a"):
        table["zzz"]


def test_an_entry_can_be_added_for_a_while_and_replaces_none():
    table: Registry[object] = Registry("thing", {"a": "arvbench.errors:UserError"})
    with table.scoped("b", "arvbench.errors:HostError"):
        assert list(table) == ["a", "b"] and table["b"] is HostError
    assert "b" not in table
    with pytest.raises(ContractError, match="thing 'a' already exists"), table.scoped("a", "arvbench.errors:HostError"):
        pytest.fail("replaced")


def test_a_broken_plug_in_is_named_and_costs_no_other_model():
    with MODELS.scoped("broken", "no_such_distribution:SPEC"):
        with pytest.raises(HostError, match="model 'broken' cannot be used: importing no_such_distribution failed"):
            MODELS["broken"]
        names = [name for name, _ in known_specs()]
    assert "var-d16" in names
    assert "broken" not in names
