"""Samples straight from a model: image i is the same in every range, process and order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arvbench.adapters.call import Samples
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import HostError, UnknownName, UserError
from arvbench.harness.data.labels import labels_for
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.images.live import LiveSource, SeededLabels
from arvbench.harness.quality.images.resize import Resize

SOURCE = str(Path(__file__).resolve().parents[4] / "src")
COUNT, BATCH, SEED = 22, 8, 3
LABELS = labels_for("balanced-shuffled", COUNT, 10, seed=SEED)


class Double:
    """A sampler whose `sample` is replaced; all other attributes are the original's."""

    def __init__(self, sampler, sample):
        self._sampler, self.sample = sampler, sample

    def __getattr__(self, name):
        return getattr(self._sampler, name)


@pytest.fixture(scope="module")
def sampler():
    return load_sampler("demo/var", weights="demo", backend="optimized")


@pytest.fixture(scope="module")
def live(sampler):
    def make(**changes):
        seeded = {key: changes.pop(key) for key in ("labels", "run_seed", "scheme") if key in changes}
        seeded = SeededLabels(**({"labels": LABELS, "run_seed": SEED, "scheme": "balanced-shuffled"} | seeded))
        model, settings = changes.pop("sampler", sampler), changes.pop("settings", sampler.spec.settings)
        return LiveSource(model, settings, seeded, **({"batch": BATCH} | changes))

    return make


@pytest.fixture(scope="module")
def whole(live):
    return live().read(0, COUNT)


def test_it_draws_the_images_of_the_sampler(sampler, whole):
    for start in range(0, COUNT, BATCH):
        numbers = range(start, min(start + BATCH, COUNT))
        samples = sampler.sample(
            LABELS[start : numbers.stop], sampler.spec.settings, noise=PerImageNoise(SEED, numbers)
        )
        assert torch.equal(whole[start : numbers.stop], samples.images)


@pytest.mark.parametrize(
    "ranges", [[(0, 8), (8, 16), (16, 22)], [(16, 22), (0, 8)], [(5, 11)], [(20, 22), (3, 4), (9, 9)]]
)
def test_any_range_is_that_part_of_a_whole_read(live, whole, ranges):
    source = live()
    for start, stop in ranges:
        assert torch.equal(source.read(start, stop), whole[start:stop])


def test_reading_on_draws_no_batch_twice(live, whole, sampler):
    batches = []

    def counted(labels, *arguments, **options):
        batches.append(len(labels))
        return sampler.sample(labels, *arguments, **options)

    source = live(sampler=Double(sampler, counted))
    assert torch.equal(torch.cat([source.read(i, min(i + 3, COUNT)) for i in range(0, COUNT, 3)]), whole)
    assert batches == [8, 8, 6]


ELSEWHERE = """
import sys, torch
from arvbench.adapters.loading import load_sampler
from arvbench.harness.data.labels import labels_for
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.images.live import LiveSource, SeededLabels
torch.set_num_threads(1)
sampler = load_sampler("demo/var", weights="demo", backend="optimized")
count, batch, seed, start, stop = map(int, sys.argv[1:])
labels = labels_for("balanced-shuffled", count, 10, seed=seed)
source = LiveSource(sampler, sampler.spec.settings, SeededLabels(labels=labels, run_seed=seed), batch=batch)
print(images_sha256(source.read(start, stop)))
"""


def test_another_process_draws_the_same_bytes(programs, whole):
    done = programs.run("-c", ELSEWHERE, COUNT, BATCH, SEED, 6, 20)
    assert done.stdout.strip() == images_sha256(whole[6:20])


@pytest.mark.parametrize("batch", [1, 7, COUNT])
def test_another_batch_gives_the_same_tokens_and_bytes_within_a_step(sampler, live, whole, batch):
    """Measured on 128 images of all demo models, batches 1, 7, 16, 64: at most one step, in 1e-4 of bytes or fewer."""
    difference = (live(batch=batch).read(0, COUNT).int() - whole.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3
    tokens = [
        torch.cat(sampler.sample(LABELS[i:j], sampler.spec.settings, noise=PerImageNoise(SEED, range(i, j))).tokens, 1)
        for i, j in ((0, 3), (0, 7))
    ]
    assert torch.equal(tokens[0], tokens[1][:3])


def test_labels_and_seeds_belong_to_images(live):
    for batch in (1, BATCH, 100):
        source = live(batch=batch)
        assert source.labels_N.tolist() == LABELS and source.labels_N.dtype == torch.int64
        assert source.seeds_N.tolist() == list(range(COUNT))


def test_equal_labels_get_different_noise_and_the_label_matters(live):
    same = live(labels=[3] * 4).read(0, 4)
    assert all(not torch.equal(same[i], same[j]) for i in range(4) for j in range(i))
    other = live(labels=[3, 3, 5, 3]).read(0, 4)
    assert [torch.equal(a, b) for a, b in zip(same, other, strict=True)] == [True, True, False, True]
    assert not torch.equal(live(run_seed=SEED + 1, labels=[3] * 4).read(0, 4), same)


def test_provenance_says_how_the_images_came_to_be(live, sampler):
    provenance = live(resize="bicubic:16").provenance
    assert (provenance.labels, provenance.uint8_rule, provenance.resize) == (
        "balanced-shuffled",
        sampler.spec.settings.uint8_rule,
        "bicubic:16",
    )
    assert "demo/var" in provenance.model and '"cfg"' in provenance.model and "run seed 3" in provenance.seeds
    assert live().provenance.sampling == "" and live().provenance.resize == "none"


def test_the_key_knows_everything_that_changes_bytes(live, sampler):
    settings = sampler.spec.settings
    others = [
        {"batch": 4},
        {"run_seed": 4},
        {"labels": LABELS[::-1]},
        {"labels": LABELS[:-1]},
        {"settings": settings.replace(cfg=2)},
        {"settings": settings.replace(uint8_rule="round")},
        {"resize": "bicubic:16"},
        {"cache_policy": "grow"},
        {"sampler": load_sampler("demo/var", weights="random:0", backend="optimized")},
        {"sampler": load_sampler("demo/var", weights="random:1", backend="optimized")},
        {"sampler": load_sampler("demo/var", weights="demo", backend="reference"), "cache_policy": "static"},
        {"sampler": load_sampler("demo/var", weights="demo", backend="optimized", dtype=torch.bfloat16)},
    ]
    keys = [live().key, *(live(**changes).key for changes in others)]
    assert len(set(keys)) == len(keys)
    assert live().key == live().key == live(cache_policy="static").key


@pytest.mark.parametrize("rule", ["truncate", "round", "127.5x+128"])
def test_a_resize_comes_before_the_bytes(live, sampler, rule):
    settings = sampler.spec.settings.replace(uint8_rule=rule)
    source = live(settings=settings, resize="bicubic:16", labels=LABELS[:4])
    decoded = sampler.sample(LABELS[:4], settings, noise=PerImageNoise(SEED, range(4))).decoded
    assert source.shape == (16, 16)
    assert torch.equal(source.read(0, 4), Resize("bicubic", 16).of_decoded(decoded, rule))
    bytes_first = Resize("bicubic", 16).of_bytes(to_uint8(decoded, rule))
    assert not torch.equal(source.read(0, 4), bytes_first)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"labels": [10]}, UserError, "label 10 is out of range"),
        ({"labels": []}, UserError, "no labels"),
        ({"batch": 0}, UserError, "batch 0"),
        ({"resize": "bicubic"}, UserError, "no resize"),
        ({"cache_policy": "bogus"}, UnknownName, "no cache policy 'bogus'"),
    ],
)
def test_misfits_are_refused_before_anything_is_drawn(live, changes, kind, message):
    with pytest.raises(kind, match=message):
        live(**changes)


def test_images_with_nan_are_an_error_and_no_black_picture(live, sampler):
    def broken(*arguments, **options):
        samples = sampler.sample(*arguments, **options)
        decoded = samples.decoded.clone()
        decoded[-1, 0, 0, 0] = float("nan")
        return Samples(images=samples.images, decoded=decoded, tokens=samples.tokens, labels=samples.labels)

    with pytest.raises(UserError, match=r"images 8\.\.15 of demo/var hold NaN"):
        live(sampler=Double(sampler, broken)).read(8, 9)


TOO_LARGE = "batch 8 of demo/var does not fit into memory: take a smaller one"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.OutOfMemoryError("x"), HostError, TOO_LARGE),
        (MemoryError(), HostError, TOO_LARGE),
        (RuntimeError("not enough memory"), HostError, TOO_LARGE),
        (RuntimeError("shapes do not match"), RuntimeError, "shapes do not match"),
    ],
)
def test_only_a_batch_that_does_not_fit_becomes_a_host_error(live, sampler, error, kind, message):
    def failing(*arguments, **options):
        raise error

    with pytest.raises(kind, match=message):
        live(sampler=Double(sampler, failing)).read(0, 1)


def test_flexvar_draws_the_size_that_its_scales_say():
    flexvar = load_sampler("demo/flexvar", weights="demo")
    for scales in (None, "1_2_3_4_5_6_8"):
        settings = flexvar.spec.settings if scales is None else flexvar.spec.settings.replace(scales=scales)
        source = LiveSource(flexvar, settings, SeededLabels(labels=[1, 2]))
        assert source.read(0, 2).shape[2:] == source.shape
