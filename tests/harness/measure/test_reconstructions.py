"""Reconstructions: equal bytes however they are read, and shared by the cases of a run whose tokenizers are equal."""

from __future__ import annotations

import copy

import pytest
import torch

from arvbench.adapters.loading import load_sampler
from arvbench.adapters.pixels import from_uint8, to_uint8
from arvbench.errors import UserError
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.jobs import FEATURES_FOLDER, SHARED_PREFIX, Job
from arvbench.harness.measure.case_quality import measure_case_quality, reconstruction_quality
from arvbench.harness.measure.reconstructions import Reconstructions
from arvbench.results.schema import CaseConfig, QualityRequest

QUALITY = {"protocols": ["digits-cnn"], "reference": "digits", "images": 24, "metrics": ["fid"], "bootstrap": 0}
BATCH = 8


@pytest.fixture(scope="module")
def images():
    return load_digits_rgb().images_N3HW[:70]


def loaded(name: str):
    """A demo model that remembers how many images it encoded."""
    sampler = load_sampler(f"demo/{name}", weights="demo", backend="optimized")
    real, sampler.encoded = sampler.encode, 0

    def encode(images, **options):
        sampler.encoded += len(images)
        return real(images, **options)

    sampler.encode = encode
    return sampler


def source(sampler, images, **changes) -> Reconstructions:
    return Reconstructions(sampler, images, **({"batch": BATCH, "uint8_rule": "round"} | changes))


def test_ranges_give_the_bytes_of_whole_batches_each_made_once(images):
    sampler = loaded("nar")
    parts = [sampler.decode(sampler.encode(from_uint8(part))) for part in images.split(BATCH)]
    expected = torch.cat([to_uint8(part, "round") for part in parts])
    sampler.encoded = 0
    whole = source(sampler, images)
    read = [whole.read(start, min(start + 25, 70)) for start in range(0, 70, 25)]
    assert torch.equal(torch.cat(read), expected) and sampler.encoded == len(images)
    assert read[0].stride() == expected[:25].stride(), "the last bits of features depend on it"
    assert whole.read(5, 5).shape == (0, 3, 32, 32)
    with pytest.raises(IndexError):
        whole.read(60, 71)


def measured(sampler, folder, *, run: str = "r"):
    case = CaseConfig(model=sampler.spec.name, weights="demo", batch=BATCH, threads=1, quality=QUALITY)
    job = Job(record_id=f"of-{sampler.spec.name.partition('/')[2]}", case=case, folder=folder, run=run)
    settings = sampler.spec.settings.replace(uint8_rule="round")
    sampler.encoded = 0
    return measure_case_quality(job, sampler, settings, lambda _event: None).numbers[-1]


def shared(folder) -> list[str]:
    return [path.name for path in (folder / FEATURES_FOLDER).glob(f"{SHARED_PREFIX}*")]


def test_cases_of_a_run_with_equal_tokenizers_make_them_once(tmp_path):
    par, nar, flexvar = (loaded(name) for name in ("par", "nar", "flexvar"))
    alone = measured(nar, tmp_path / "alone", run="")
    assert alone.metric == "reconstruction-fid" and nar.encoded == 24
    assert shared(tmp_path / "alone") == [], "nobody would remove it"
    first = measured(par, tmp_path)
    assert measured(nar, tmp_path) == first == alone
    assert (par.encoded, nar.encoded) == (24, BATCH), "of the others, only the batch that proves them equal"
    assert len(shared(tmp_path)) == 1 and not list(
        (tmp_path / FEATURES_FOLDER / shared(tmp_path)[0]).glob("measured-*")
    )
    assert measured(flexvar, tmp_path) != first and flexvar.encoded == 24 and len(shared(tmp_path)) == 2


def test_whatever_changes_the_images_changes_their_key(images):
    sampler = loaded("nar")
    key = source(sampler, images).key
    assert source(loaded("par"), images).key == key
    others = [
        source(sampler, images[1:]).key,
        source(sampler, images, batch=4).key,
        source(sampler, images, uint8_rule="truncate").key,
        source(load_sampler("demo/nar", weights="demo", backend="reference"), images).key,
        source(load_sampler("demo/nar", weights="random:0", backend="optimized"), images).key,
    ]
    other = copy.copy(sampler)
    other.__class__ = type(
        "Other", (type(sampler),), {"tokens_of": lambda self, x, s: type(sampler).tokens_of(self, x, s)}
    )
    others.append(source(other, images).key)
    with torch.no_grad():
        weight = next(sampler.modules()["tokenizer"].parameters())
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    others.append(source(sampler, images).key)
    assert len({key, *others}) == len(others) + 1


def test_a_damaged_file_of_shared_features_is_named(tmp_path):
    measured(loaded("par"), tmp_path)
    (chunk,) = (tmp_path / FEATURES_FOLDER / shared(tmp_path)[0]).rglob("chunk-*.safetensors")
    content = bytearray(chunk.read_bytes())
    content[-200] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(UserError, match=r"chunk-000000.*is damaged"):
        measured(loaded("nar"), tmp_path)


@pytest.mark.parametrize("changes", [{"metrics": ["kid"]}, {"reference": "nothing.npz"}])
def test_no_reconstructions_are_made_for_a_request_that_has_no_use_for_them(changes):
    sampler = loaded("nar")
    request = QualityRequest(**(QUALITY | changes))
    assert reconstruction_quality(sampler, request, sampler.spec.settings, BATCH) == () and sampler.encoded == 0
