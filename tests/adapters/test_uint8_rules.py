"""From float to byte, by the three rules of the official repositories."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters import MODELS
from arvbench.adapters.pixels import from_uint8, to_uint8, to_unit_range
from arvbench.errors import UserError

RULES = ("truncate", "round", "127.5x+128")


def outputs(count: int) -> torch.Tensor:
    """Decoder output, nominally in [-1, 1]."""
    return torch.rand(count, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1


def test_rules_at_their_edges():
    x = torch.tensor([-0.1, 0.0, 0.5 / 255 - 1e-5, 0.5 / 255 + 1e-5, 1 / 255 + 1e-5, 0.5, 0.999, 1.0, 1.1])
    assert to_uint8(x, "truncate").tolist() == [0, 0, 0, 0, 1, 127, 254, 255, 255]
    for rule in ("round", "127.5x+128"):
        assert to_uint8(x, rule).tolist() == [0, 0, 0, 1, 1, 128, 255, 255, 255]


def test_the_third_rule_is_the_official_expression_on_the_decoders_output():
    """LlamaGen clamps 127.5 y + 128 and casts. Going through [0, 1] and back costs y its last bit, and no byte."""
    y = outputs(2_000_000)
    official = torch.clamp(127.5 * y + 128.0, 0, 255).to(torch.uint8)
    assert torch.equal(to_uint8(to_unit_range(y), "127.5x+128"), official)


def test_rounding_and_the_third_rule_differ_only_where_fp32_decides():
    x = to_unit_range(outputs(2_000_000))
    different = to_uint8(x, "round") != to_uint8(x, "127.5x+128")
    assert different.float().mean() < 1e-5
    numbers = 255 * x[different].double() + 0.5
    assert (numbers - numbers.round()).abs().max() < 3e-5
    # There is such a value, so the two rules need two names.
    near = torch.arange(1, 256) / 255 - 0.5 / 255
    around = torch.cat([near, near.nextafter(torch.ones(255)), near.nextafter(torch.zeros(255))])
    assert not torch.equal(to_uint8(around, "round"), to_uint8(around, "127.5x+128"))


def test_bytes_survive_the_rules_that_round():
    every_byte = torch.arange(256, dtype=torch.uint8)
    for rule in ("round", "127.5x+128"):
        assert torch.equal(to_uint8(to_unit_range(from_uint8(every_byte)), rule), every_byte)


@pytest.mark.parametrize("rule", RULES)
def test_the_float_image_is_left_alone_and_half_precision_is_widened(rule):
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    to_uint8(x, rule)
    assert torch.equal(x, before)
    half = x.bfloat16()
    assert torch.equal(to_uint8(half, rule), to_uint8(half.float(), rule))


def test_another_rule_is_refused():
    with pytest.raises(UserError, match=r"no uint8 rule 'floor'; known: truncate, round, 127\.5x\+128"):
        to_uint8(torch.zeros(1), "floor")


def test_official_settings_have_the_rule_of_their_repository():
    official = {"var": "truncate", "mvar": "truncate", "hmar": "round", "flexvar": "round"}
    official |= dict.fromkeys(("llamagen", "nar", "par", "detailflow", "dar"), "127.5x+128")
    official |= dict.fromkeys(("xar", "flowar", "mar", "himar"), "round")
    for name, spec in MODELS.items():
        assert spec.settings.uint8_rule == official[spec.family], name
