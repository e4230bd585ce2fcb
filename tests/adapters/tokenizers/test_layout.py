"""The convolutions of a tokenizer run with the channels innermost where oneDNN computes them faster so."""

from __future__ import annotations

import pytest
import torch
from sampling_calls import draw
from tiny_models import tiny_detailflow, tiny_flexvar, tiny_mar, tiny_token_grid, tiny_var
from torch import nn

from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.tokenizers.tokenizer import gains_channels_last
from arvbench.harness.measure.correctness import check_correctness, reference_twin

LABELS = [0, 1, 1]


def tiny_llamagen():
    return tiny_token_grid("llamagen")


def build(spec=tiny_var, backend: str = "optimized", **options) -> Sampler:
    return build_sampler(spec(), weights="random:1", backend=backend, **options)


def maps_of(sampler: Sampler) -> list[torch.Tensor]:
    """The inputs of the decoder's 3 x 3 convolutions, filled while the sampler decodes."""
    found: list[torch.Tensor] = []
    for module in sampler.modules()["tokenizer"].decoder.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    return found


@pytest.mark.parametrize("spec", [tiny_var, tiny_flexvar, tiny_llamagen, tiny_mar])
def test_images_are_those_of_the_reference_and_contiguous(spec):
    optimized, reference = build(spec), build(spec, "reference")
    maps = maps_of(optimized)
    drawn, expected = draw(optimized, LABELS), draw(reference, LABELS)
    assert len(maps) > 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps[1:])
    torch.testing.assert_close(drawn.decoded, expected.decoded, rtol=0, atol=1e-5)
    assert drawn.decoded.is_contiguous() and drawn.images.is_contiguous()
    assert optimized.decode(drawn.tokens).is_contiguous()
    assert optimized.kernels["convolution"] == "channels last" and "convolution" not in reference.kernels


def test_images_encode_to_the_codes_of_the_reference():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes, expected = build().encode(images), build(backend="reference").encode(images)
    assert all(map(torch.equal, codes, expected))


@pytest.mark.parametrize(("dtype", "device"), [(torch.bfloat16, "cpu"), (torch.float32, "meta")])
def test_other_data_types_and_devices_gain_nothing(dtype, device):
    assert not gains_channels_last(nn.Sequential(nn.Conv2d(4, 4, 3)).to(dtype), torch.device(device))


def test_a_reference_on_the_same_modules_decodes_in_the_plain_layout():
    # The judge of the correctness check shares the modules: it would check a layout by itself.
    optimized = build()
    judge = reference_twin(optimized)
    maps = maps_of(judge)
    draw(judge, LABELS)
    assert maps and not any(x.is_contiguous(memory_format=torch.channels_last) for x in maps[1:])
    assert check_correctness(optimized, optimized.spec.settings, cache_policy=None, batch=2).image_diff > 0


def test_a_tokenizer_without_convolutions_has_none_to_name():
    assert "convolution" not in build(tiny_detailflow).kernels
