"""Bad input for the families with continuous tokens, as a user meets it: one line, exit 2, and nothing written."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from latent_forms import TINY_FLOWAR, TINY_HIMAR, TINY_MAR, TINY_XAR, weights_of
from safetensors.torch import save_file

from arvbench.adapters import MODELS
from arvbench.adapters.loading import meta_modules
from arvbench.harness.cli import main

FAMILIES = ["xar", "flowar", "mar", "himar"]
SPECS = dict(zip(FAMILIES, (TINY_XAR, TINY_FLOWAR, TINY_MAR, TINY_HIMAR), strict=True))


@pytest.fixture
def refused(tmp_path, capsys):
    """Run `arvbench sample tiny-FAMILY`, which is refused, and return its one line."""

    def line(family, *arguments, weights="random:1"):
        out = tmp_path / "x.npz"
        command = ["sample", f"tiny-{family}", "--weights", str(weights), "--images", "2", "--out", str(out)]
        assert main([*command, *arguments]) == 2
        warning, *errors = [row for row in capsys.readouterr().err.splitlines() if row.startswith(("warning", "error"))]
        assert not out.exists() and len(errors) <= (warning.startswith("warning"))
        return errors[0] if errors else warning

    with ExitStack() as scope:
        for family in FAMILIES:
            scope.enter_context(MODELS.scoped(f"tiny-{family}", f"latent_forms:TINY_{family.upper()}"))
        yield line


ALL = [(family, change) for family in FAMILIES for change in
       ("cfg=-1", "cfg=nan", "cfg=inf", "num_steps=0", "num_steps=1001", "num_steps=2.5", "top_k=5", "top_p=0.5",
        "scale=2", "uint8_rule=floor")]  # fmt: skip
OWN = [
    *(("flowar", change) for change in ("cfg=1", "cfg=0.5", "guidance=0", "guidance=1.5", "num_steps=1")),
    *((family, change) for family in ("mar", "himar") for change in
      ("num_iter=0", "num_iter=65537", "num_steps=1", "temperature=-1", "cfg_schedule=cosine", "last_number=1000")),
    *(("himar", change) for change in ("re_cfg=1", "cfg=1", "re_cfg=-1", "pivot_iter=0", "map_steps=0", "map_steps=1")),
]  # fmt: skip


@pytest.mark.parametrize(("family", "change"), [*ALL, *OWN])
def test_a_setting_out_of_range_names_its_key(refused, monkeypatch, family, change):
    monkeypatch.setattr("arvbench.adapters.loading.build_sampler", lambda *_, **__: pytest.fail("weights were read"))
    assert change.partition("=")[0] in refused(family, "--set", f"settings.{change}")


@pytest.mark.parametrize(
    ("family", "change"), [("mar", "num_iter=17"), ("himar", "pivot_iter=5"), ("himar", "num_iter=17")]
)
def test_passes_that_would_predict_nothing_are_refused(refused, family, change):
    assert f"tiny-{family}: {change.partition('=')[2]} passes over" in refused(family, "--set", f"settings.{change}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", ["window:0", "window:2", "scalekv:0.5", "nonsense", "static:4"])
def test_a_cache_that_does_not_apply_is_refused_before_weights_are_read(refused, monkeypatch, family, policy):
    monkeypatch.setattr("arvbench.adapters.loading.build_sampler", lambda *_, **__: pytest.fail("weights were read"))
    assert policy.partition(":")[0] in refused(family, "--cache", policy)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_of_another_family_names_those_that_can(refused, family):
    assert f"does not run on tiny-{family}" in refused(family, "--method", "skip:1")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), "has NaN or infinity in"), (float("inf"), "has NaN or infinity in"),
     (3e38, "latents are not finite in step")],
)  # fmt: skip
def test_weights_that_give_no_finite_latents_write_no_image(refused, tmp_path, family, value, error):
    tensors = weights_of(SPECS[family])
    last = next(reversed(list(meta_modules(SPECS[family])["transformer"].named_parameters())))[0]
    tensors[f"transformer.{last}"].fill_(value)
    save_file(tensors, tmp_path / "broken.safetensors")
    assert error in refused(family, weights=tmp_path / "broken.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_that_overflows_is_refused(refused, family):
    both = ["--set", "settings.cfg=3e38", *(["--set", "settings.re_cfg=3e38"] if family == "himar" else [])]
    assert "not finite" in (line := refused(family, *both)) or "NaN or infinity" in line
