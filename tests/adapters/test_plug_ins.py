"""Models of other distributions: one that cannot be used costs its own name, and says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arvbench.adapters.loading import known_specs, load_sampler, unusable_models
from arvbench.adapters.registry import MODELS
from arvbench.errors import CheckpointError, HostError
from arvbench.harness.cli import main

GOOD = """
from dataclasses import replace
from arvbench.adapters.var import DEMO, VarSampler
SPEC = replace(DEMO, name="x/model", demo=False)
class Holder:
    SPEC = SPEC
class Broken(VarSampler):
    @staticmethod
    def build_modules(spec):
        raise ZeroDivisionError("no\\nmodules")
UNBUILT = replace(SPEC, sampler=Broken)
OTHER = replace(SPEC, name="x/other")
NUMBER = 7
"""
MODULES = {
    "missing_library": "import no_such_library",
    "licence": "raise ValueError('needs\\na licence')",
    "syntax": "def f(:",
    "leaves": "raise SystemExit(0)",
    "exits": "import sys; sys.exit('bye')",
    "asserts": "assert False",
    "recursion": "def f(): f()\nf()",
    "own_base": "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise KeyError",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "good_plug_in.py").write_text(GOOD)
    monkeypatch.delitem(sys.modules, "good_plug_in", raising=False)
    return tmp_path


@pytest.mark.parametrize("kind", MODULES)
def test_whatever_a_plug_in_raises_costs_its_own_model_and_no_other(kind: str, folder: Path) -> None:
    (folder / f"plug_in_{kind}.py").write_text(MODULES[kind])
    with MODELS.scoped("x/model", f"plug_in_{kind}:SPEC"):
        with pytest.raises(
            HostError, match=rf"model 'x/model' cannot be used: importing plug_in_{kind} failed"
        ) as refused:
            MODELS["x/model"]
        assert "\n" not in str(refused.value)
        assert [*unusable_models()] == ["x/model"]
        assert "x/model" not in dict(known_specs()) and "var-d16" in dict(known_specs())


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ("NUMBER", "of type int, not a ModelSpec"),
        ("OTHER", "its spec has the name 'x/other'"),
        ("ABSENT", "has no 'ABSENT'"),
        ("Holder.ABSENT", "has no 'Holder.ABSENT'"),
        ("", "has no ''"),
    ],
)
def test_an_entry_point_that_names_something_else_is_refused(attribute: str, reason: str, folder: Path) -> None:
    with MODELS.scoped("x/model", f"good_plug_in:{attribute}"), pytest.raises(HostError, match=reason):
        MODELS["x/model"]


@pytest.mark.parametrize(
    "reference", ["good_plug_in:Holder.SPEC", "good_plug_in:SPEC [extra, more]", "good_plug_in:SPEC"]
)
def test_every_form_of_an_object_reference_is_read(reference: str, folder: Path) -> None:
    with MODELS.scoped("x/model", reference):
        assert MODELS["x/model"].name == "x/model"


def test_a_model_that_cannot_be_built_costs_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    strange = tmp_path / "strange.pth"
    import torch

    torch.save({"a": torch.zeros(3)}, strange)
    with MODELS.scoped("x/model", "good_plug_in:UNBUILT"):
        with pytest.raises(HostError, match=r"building it failed \(ZeroDivisionError: no modules\)"):
            load_sampler("x/model", weights="random:0")
        with pytest.raises(CheckpointError):
            load_sampler("var-d16", weights=strange)
        assert main(["models"]) == 0
        output = capsys.readouterr()
    assert "left out: model 'x/model' cannot be used: building it failed" in output.err
    assert "var-d16" in output.out and "x/model" not in output.out


def test_installed_plug_ins_are_shown_by_doctor_and_a_copied_demo_is_explained(tmp_path: Path) -> None:
    sources = {
        "good": "from dataclasses import replace\nfrom arvbench.adapters.var import DEMO\n"
        "SPEC = replace(DEMO, name='x/good', demo=False)\n",
        "demo": "from dataclasses import replace\nfrom arvbench.adapters.var import DEMO\n"
        "SPEC = replace(DEMO, name='x/demo')\n",
        "bad": "raise RuntimeError('broken')\n",
    }
    for name, source in sources.items():
        package = tmp_path / f"x_{name}-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: x-{name}\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text(f"[arvbench.models]\nx/{name} = x_{name}_module:SPEC\n")
        (tmp_path / f"x_{name}_module.py").write_text(source)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-m", "arvbench", "doctor", "--json"],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    shown = {check["name"]: check for check in json.loads(ended.stdout) if check["topic"] == "plug-ins"}
    assert {name: check["ok"] for name, check in shown.items()} == {"x/good": True, "x/demo": False, "x/bad": False}
    assert "write demo=False" in shown["x/demo"]["detail"]
    assert "RuntimeError: broken" in shown["x/bad"]["detail"]
