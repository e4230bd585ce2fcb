"""Logits, features and weights that are not finite: an error that names the place, and never an id."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from arvbench.adapters import load_sampler
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise
from arvbench.errors import UserError

DEMOS = ["demo/var", "demo/mvar", "demo/hmar", "demo/llamagen", "demo/nar", "demo/par", "demo/flexvar"]
PER_IMAGE, UPSTREAM = partial(PerImageNoise, 0, [0, 1]), partial(UpstreamNoise, 0)
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("noise", "value"),
    [
        pytest.param(PER_IMAGE, NAN, id="per-image-nan"),
        pytest.param(UPSTREAM, INFINITY, id="upstream-inf"),
        pytest.param(PER_IMAGE, INFINITY, id="per-image-inf", marks=pytest.mark.slow),
        pytest.param(UPSTREAM, NAN, id="upstream-nan", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", DEMOS)
def test_nothing_is_drawn_from_logits_that_are_not_finite(name, noise, value):
    sampler = load_sampler(name, weights="demo")
    parameters = dict(sampler.modules()["transformer"].named_parameters())
    parameters[next(key for key in parameters if key.endswith(("head.weight", "output.weight")))].data.fill_(value)
    with pytest.raises(UserError, match=r"logits are not finite in step \d+ \(.*bfloat16 .* smaller cfg"):
        sampler.sample([1, 3], sampler.spec.settings, noise=noise())


def test_a_refinement_that_is_not_finite_is_named_by_its_own_step():
    sampler = load_sampler("demo/hmar", weights="demo")
    sampler.transformer.mask_head.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite in step 2 \(mask"):
        sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0]))


@pytest.mark.parametrize("name", DEMOS)
def test_guidance_that_overflows_is_an_error(name):
    sampler = load_sampler(name, weights="demo")
    with pytest.raises(UserError, match="not finite"):
        sampler.sample([1], sampler.spec.settings.replace(cfg=3e38), noise=PerImageNoise(0, [0]))


@pytest.mark.parametrize("name", DEMOS)
@pytest.mark.parametrize("change", [{"cfg": float("inf")}, {"cfg": float("nan")}, {"cfg": True}, {"top_k": True}])
def test_settings_are_finite_numbers(name, change):
    sampler = load_sampler(name, weights="random:0")
    with pytest.raises(UserError, match=next(iter(change))):
        sampler.spec.settings.replace(**change)


@pytest.mark.parametrize("name", ["demo/var", "demo/par"])
def test_decoded_images_and_features_are_finite(name):
    sampler = load_sampler(name, weights="demo")
    sampler.tokenizer.post_quant_conv.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="decoded images hold NaN"):
        sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0]))
    with pytest.raises(UserError, match="features are not finite"):
        sampler.encode(torch.full((1, 3, 32, 32), float("nan")))


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 1e5), (torch.float16, -7e4), (torch.bfloat16, 3.4e38)])
def test_a_weight_that_the_dtype_cannot_hold_is_named(tmp_path, dtype, value):
    from safetensors.torch import load_file, save_file

    from arvbench.adapters.loading import DEMO_FOLDER

    state = {
        name: t.float() if t.is_floating_point() else t
        for name, t in load_file(DEMO_FOLDER / "nar.safetensors").items()
    }
    state["transformer.layers.1.attention.wo.weight"][3, 2] = value
    save_file(state, tmp_path / "large.SAFETENSORS")
    load_sampler("demo/nar", weights=tmp_path / "large.SAFETENSORS")
    with pytest.raises(UserError, match=r"layers\.1\.attention\.wo\.weight holds .* cannot hold"):
        load_sampler("demo/nar", weights=tmp_path / "large.SAFETENSORS", dtype=dtype)
