"""A protocol id changes with every part of the protocol and with nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from arvbench.harness.quality.identity import (
    Identity,
    digest_of_images,
    image_digests,
    images_sha256,
    protocol_id,
)

BASE = Identity(
    metric="fid",
    extractor="inception",
    extractor_sha256="ab" * 32,
    protocol="adm-v1",
    layer="2048",
    preprocessing="resize",
    reference_sha256="cd" * 32,
    n_samples=50_000,
    image_shape=(256, 256),
    label_scheme="50 per class, in order",
    uint8_rule="truncate",
    resize="none",
    sampling="",
    library="torch-fidelity 0.4.0",
    parameters={"splits": 10},
)
OTHER = {"n_samples": 50_001, "image_shape": (256, 512), "parameters": {"splits": 5}}


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_every_part_changes_the_id(name):
    changed = replace(BASE, **{name: OTHER.get(name, "another")})
    assert changed.id != BASE.id


def test_order_of_keys_does_not_matter_at_any_depth():
    forwards = {"metric": "fid", "parameters": {"a": 1, "b": 2}}
    backwards = {"parameters": {"b": 2, "a": 1}, "metric": "fid"}
    assert protocol_id(forwards) == protocol_id(backwards)


def test_key_and_value_cannot_trade_places():
    assert protocol_id({"a": "b"}) != protocol_id({"b": "a"})
    assert protocol_id({"a": 1}) != protocol_id({"a": "1"})


def test_id_is_twelve_hex_digits_and_stable_across_versions():
    assert protocol_id({"b": [1, 2.5], "a": "é"}) == "1d5aa48ef9cd"


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_values_that_have_no_canonical_text_are_refused(value):
    with pytest.raises((TypeError, ValueError)):
        protocol_id({"a": value})


def test_image_digest_ignores_batching_but_not_order_shape_or_pixels():
    images = torch.arange(4 * 3 * 2 * 2).to(torch.uint8).view(4, 3, 2, 2)
    whole = images_sha256(images)
    batched = torch.cat([image_digests(part) for part in images.split(3)])
    assert digest_of_images(batched, (2, 2)) == whole
    assert images_sha256(images.flip(0)) != whole
    assert images_sha256(images.view(4, 3, 1, 4)) != whole
    one_off = images.clone()
    one_off[3, 2, 1, 1] += 1
    assert images_sha256(one_off) != whole


def test_equal_images_have_equal_digests_wherever_they_stand():
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[4] = images[1]
    digests = image_digests(images)
    assert torch.equal(digests[4], digests[1])
    assert len({bytes(row.tolist()) for row in digests}) == 4
