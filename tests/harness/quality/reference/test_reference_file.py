"""References that are files of statistics: the ADM evaluator's layout, checked, and files of one's own making."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_adm import DIMS, fake_adm, official_arrays, write_npz

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import UserError
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.images.npz import NpzSource
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.metrics.frechet import frechet_distance
from arvbench.harness.quality.metrics.moments import moments_of
from arvbench.harness.quality.reference import load_reference, official
from arvbench.harness.quality.reference.make import ReferenceRequest, choose_kept, make_reference, needs_of
from arvbench.harness.quality.reference.statistics import ADM_LAYERS

IMAGES = load_digits_rgb().images_N3HW[:300]
LABELS = load_digits_rgb().labels_N[:300]
ADM = {"pool": "features", "spatial": "moments"}
POOL, SPATIAL = 320, 310
"""Dimensions of the layers here: more than images, as in the official files, and with matrices below a megabyte."""


@pytest.fixture(scope="module", autouse=True)
def _short_layers():
    with pytest.MonkeyPatch.context() as patch:
        for layer, dims in (("pool", POOL), ("spatial", SPATIAL)):
            patch.setitem(DIMS, layer, dims)
            patch.setitem(ADM_LAYERS, layer, (*ADM_LAYERS[layer][:2], dims))
        yield


@pytest.fixture(scope="module")
def extractor():
    return fake_adm()


@pytest.fixture(scope="module")
def arrays(extractor):
    """Statistics of 300 images, 40 of which are in the file."""
    return official_arrays(extractor, IMAGES, kept=40)


@pytest.fixture
def path(tmp_path, arrays):
    return write_npz(tmp_path / "ref.npz", arrays)


def test_statistics_are_read_and_only_features_are_extracted(path, arrays):
    extractor = fake_adm()
    reference = load_reference(str(path), [(extractor, ADM)])
    data = reference.data["adm-inception"]
    np.testing.assert_array_equal(data.moments("pool").mean_D.numpy(), arrays["mu"].astype(np.float64))
    np.testing.assert_array_equal(data.moments("spatial").cov_DD.numpy(), arrays["sigma_s"])
    assert data.moments("pool").mean_D.dtype == data.moments("pool").cov_DD.dtype == torch.float64
    assert data.moments("pool").count is None, "published statistics do not say of how many images they are"
    assert torch.equal(data.features("pool"), extractor.extract(IMAGES[:40], ["pool"])["pool"])
    assert (reference.images, reference.image_shape, reference.origin) == (40, (32, 32), "statistics")
    assert (reference.official, reference.use, reference.notes) == ("", "", ())


def test_statistics_alone_cost_no_pass_over_the_images(path):
    silent = replace(fake_adm(), network=lambda _images: pytest.fail("extracted"))
    needs = [(silent, {"pool": "moments", "spatial": "moments"})]
    assert load_reference(str(path), needs).data["adm-inception"].moments("spatial").cov_DD.shape == (SPATIAL, SPATIAL)


def test_other_extractors_see_the_images_of_the_file_and_a_note_says_so(path):
    other = fake_adm(name="clip")
    reference = load_reference(str(path), [(other, {"pool": "moments"})])
    assert reference.data["clip"].moments("pool").count == 40
    assert reference.notes == (
        "clip: statistics are those of the 40 images in ref.npz, not of the data set behind its mu and sigma",
    )


def test_without_mu_the_statistics_are_those_of_the_images(tmp_path, arrays, extractor):
    samples = write_npz(tmp_path / "samples.npz", {"arr_0": arrays["arr_0"], "arr_1": LABELS[:40].numpy()})
    reference = load_reference(str(samples), [(extractor, ADM)])
    assert reference.origin == "images" and torch.equal(reference.labels_M, LABELS[:40])
    assert reference.data["adm-inception"].moments("pool").count == 40


def test_statistics_without_images_serve_fid_and_nothing_else(tmp_path, arrays, extractor):
    alone = write_npz(tmp_path / "alone.npz", {key: arrays[key] for key in ("mu", "sigma")})
    reference = load_reference(str(alone), [(extractor, {"pool": "moments"})])
    assert (reference.images, reference.image_shape) == (0, None)
    assert reference.data["adm-inception"].moments("pool").mean_D.shape == (POOL,)
    with pytest.raises(UserError, match=r"alone\.npz holds means and covariances only: precision, recall"):
        reference.data["adm-inception"].features("pool")
    with pytest.raises(UserError, match=r"alone\.npz holds means and covariances only: precision, recall.*--metrics"):
        load_reference(str(alone), [(extractor, {"pool": "features"})])
    with pytest.raises(UserError, match=r"alone\.npz has no statistics of clip \(pool\) and no images to extract them"):
        load_reference(str(alone), [(extractor, {"pool": "moments"}), (fake_adm(name="clip"), {"pool": "moments"})])
    with pytest.raises(UserError, match=r"alone\.npz has mu and sigma, and no mu_s and sigma_s: sFID needs"):
        load_reference(str(alone), [(extractor, {"spatial": "moments"})])


def test_another_resolution_is_refused_from_the_header(path):
    silent = replace(fake_adm(), network=lambda _images: pytest.fail("extracted"))
    with pytest.raises(UserError, match=r"samples are 64 x 64 and reference ref\.npz is 32 x 32"):
        load_reference(str(path), [(silent, ADM)], samples_shape=(64, 64))


def spoilt(arrays, **changes):
    return {key: value for key, value in (dict(arrays) | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": np.zeros(POOL - 1)}, rf"mu has shape \({POOL - 1},\), expected \({POOL},\)"),
        (
            {"sigma_s": np.zeros((POOL, POOL))},
            rf"sigma_s has shape \({POOL}, {POOL}\), expected \({SPATIAL}, {SPATIAL}\)",
        ),
        ({"mu": np.zeros(POOL, np.float16)}, "mu is float16, expected float32 or float64"),
        ({"sigma": np.zeros((POOL, POOL), np.int64)}, "sigma is int64, expected float32 or float64"),
        ({"sigma": None}, r"has mu without its partner \(mu and sigma belong together\)"),
        ({"mu_s": None}, "has sigma_s without its partner"),
        ({"mu": np.full(POOL, np.nan)}, "mu holds NaN or infinite values"),
        ({"sigma": -np.eye(POOL)}, "sigma has negative variances"),
        ({"sigma": np.tri(POOL)}, "sigma is not symmetric"),
        ({"mu": np.array([{"a": 1}], dtype=object)}, "mu holds pickled objects, which are refused"),
        ({"arr_0": np.zeros((4, 32, 32, 3))}, "arr_0 is float64"),
        ({"arr_0": np.array([None, 1], dtype=object)}, "arr_0 holds pickled objects, which are refused"),
        ({"labels": np.zeros(3, np.int64)}, "labels must be 40 integers"),
    ],
)
def test_files_other_than_references_are_named(tmp_path, arrays, extractor, changes, message):
    path = write_npz(tmp_path / "bad.npz", spoilt(arrays, **changes))
    with pytest.raises(UserError, match=rf"bad\.npz.*{message}"):
        load_reference(str(path), [(extractor, ADM)])


@pytest.mark.parametrize("keep", [0, 100, 0.7])
def test_a_truncated_file_is_named(path, extractor, keep):
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(UserError, match=r"ref\.npz is not a readable \.npz, or it is truncated or damaged"):
        load_reference(str(path), [(extractor, ADM)])


def test_flipped_bytes_in_the_statistics_are_found(path, extractor):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ref\.npz is not a readable \.npz, or it is truncated or damaged.*CRC"):
        load_reference(str(path), [(extractor, ADM)])


def test_a_published_file_is_recognised_by_its_digest_under_any_name(path, extractor, monkeypatch):
    digest = load_reference(str(path), [(extractor, ADM)]).sha256
    entry = replace(official.PUBLISHED["adm-imagenet256"], sha256=digest)
    monkeypatch.setitem(official.PUBLISHED, entry.name, entry)
    reference = load_reference(str(path), [(extractor, ADM)])
    assert (reference.official, reference.use, reference.origin) == ("adm-imagenet256", "gFID", "published")
    assert reference.notes == ()


def test_a_published_name_with_other_content_is_not_taken_for_it(tmp_path, arrays, extractor):
    for name, expected in (
        ("VIRTUAL_imagenet256_labeled.npz", r"is another file: its sha256 is [0-9a-f]{12}\.\.\., .*b32732719497"),
        ("VIRTUAL_imagenet64_labeled.npz", r"holds 40 images of 32 x 32, not 10,000 of 64 x 64"),
    ):
        reference = load_reference(str(write_npz(tmp_path / name, arrays)), [(extractor, ADM)])
        assert (reference.official, reference.use, reference.origin) == ("", "", "statistics")
        (note,) = reference.notes
        assert note.startswith(f"{name} is named like the published reference and")
        assert re.search(expected, note)


def test_a_published_name_is_believed_where_the_digest_is_unknown_and_a_note_says_so(tmp_path, arrays, extractor):
    path = write_npz(tmp_path / "adm_in256_stats.npz", {key: arrays[key] for key in ("mu", "sigma")})
    reference = load_reference(str(path), [(extractor, {"pool": "moments"})])
    assert (reference.official, reference.use) == ("adm-imagenet256-statistics", "gFID")
    assert reference.image_shape == (256, 256)
    assert "digest of that is unknown" in reference.notes[0]
    with pytest.raises(UserError, match=r"samples are 32 x 32 and reference adm_in256_stats\.npz is 256 x 256"):
        load_reference(str(path), [(extractor, {"pool": "moments"})], samples_shape=(32, 32))


def test_unpublished_weights_against_published_statistics_are_noted(tmp_path, arrays):
    path = write_npz(tmp_path / "adm_in256_stats.npz", {key: arrays[key] for key in ("mu", "sigma")})
    reference = load_reference(str(path), [(fake_adm(note="weights are not the published ones"), {"pool": "moments"})])
    assert "of the published Inception weights: weights are not the published ones" in reference.notes[-1]


def test_the_512_px_file_has_a_tenth_of_the_images_and_says_so():
    path = Path("VIRTUAL_imagenet512.npz")
    published, notes = official.recognise(path, "0" * 64, 1000, (512, 512))
    assert published.name == "adm-imagenet512" and "it holds 1,000 images where the 256-px file has 10,000" in notes[-1]
    published, notes = official.recognise(path, "0" * 64, 10_000, (512, 512))
    assert published is None and "holds 10,000 images of 512 x 512, not 1,000 of 512 x 512" in notes[0]


def test_every_published_file_has_an_address_and_a_use():
    for name, published in official.PUBLISHED.items():
        assert published.name == name and published.url.endswith(published.file_name)
        assert published.use == "gFID" and published.image_px in (64, 128, 256, 512)
        assert published.sha256 == "" or len(published.sha256) == 64


def test_protocols_share_extractors_and_features_include_moments():
    loaded = []

    def load(name):
        loaded.append(name)
        return fake_adm(name=name)

    needs = {e.name: dict(layers) for e, layers in needs_of(["adm-v1", "torch-fidelity", "adm-v1", "clean-fid"], load)}
    assert loaded == ["adm-inception", "fidelity-inception", "clean-fid"]
    assert needs["adm-inception"] == {"pool": "features", "spatial": "moments"}
    assert "features" in needs["fidelity-inception"].values()
    with pytest.raises(UserError, match="no protocol 'adm'; did you mean"):
        needs_of(["adm"], load)
    with pytest.raises(UserError, match="no protocol is named"):
        needs_of([], load)


@pytest.fixture
def source():
    return TensorSource(IMAGES, name="train", labels_N=LABELS)


def make_file(source, out, needs, *, protocols=("adm-v1",), **request):
    return make_reference(source, needs, ReferenceRequest(out=out, protocols=protocols, **request))


def test_distance_to_the_made_file_is_the_distance_to_the_images(source, extractor, tmp_path):
    small = load_extractor("digits-cnn")
    needs = [(extractor, ADM), (small, {"64": "features"})]
    written = make_file(source, tmp_path / "made.npz", needs, protocols=("adm-v1", "digits-cnn"), use="rFID")
    np.savez(tmp_path / "images.npz", IMAGES.permute(0, 2, 3, 1).numpy())
    direct = load_reference(str(tmp_path / "images.npz"), needs)
    silent = [(replace(e, network=lambda _images: pytest.fail("extracted")), layers) for e, layers in needs]
    read = load_reference(str(tmp_path / "made.npz"), silent)
    assert (read.sha256, read.use, read.origin, read.notes) == (written.sha256, "rFID", "made", ())
    assert torch.equal(read.labels_M, LABELS) and read.images == 300
    samples = moments_of([small.extract(IMAGES.flip(3), ["64"])["64"]])
    distances = [frechet_distance(samples, found.data["digits-cnn"].moments("64")).value for found in (direct, read)]
    assert distances[0] > 0.1 and distances[1] == pytest.approx(distances[0], rel=1e-9)
    ours, theirs = read.data["adm-inception"], direct.data["adm-inception"]
    for layer in ("pool", "spatial"):
        assert torch.equal(ours.moments(layer).mean_D, theirs.moments(layer).mean_D)
        torch.testing.assert_close(ours.moments(layer).cov_DD, theirs.moments(layer).cov_DD, rtol=1e-12, atol=1e-15)
        assert ours.moments(layer).count == 300
    assert torch.equal(ours.features("pool"), theirs.features("pool"))


def test_the_official_evaluator_finds_its_arrays(source, extractor, tmp_path):
    make_file(source, tmp_path / "made.npz", [(extractor, ADM)], keep=40)
    with np.load(tmp_path / "made.npz", allow_pickle=False) as stored:
        shapes = {key: (str(stored[key].dtype), stored[key].shape) for key in stored.files}
        expected = official_arrays(extractor, IMAGES, kept=40)
        for key in ("mu", "sigma", "mu_s", "sigma_s"):
            np.testing.assert_allclose(stored[key], expected[key], rtol=1e-4, atol=1e-6)
        kept = stored["arr_0"]
    assert shapes["arr_0"] == ("uint8", (40, 32, 32, 3))
    assert shapes["sigma"] == ("float64", (POOL, POOL)) and shapes["mu_s"] == ("float64", (SPATIAL,))
    assert shapes["features/adm-inception/pool"] == ("float32", (40, POOL))
    assert "features/adm-inception/spatial" not in shapes
    assert np.array_equal(kept, IMAGES[choose_kept(300, 40, 0)].permute(0, 2, 3, 1).numpy())


def test_kept_images_are_chosen_by_the_seed_and_stay_in_order():
    kept = choose_kept(300, 40, 0)
    assert len(kept.unique()) == 40 and torch.equal(kept, kept.sort().values)
    assert torch.equal(kept, choose_kept(300, 40, 0)) and not torch.equal(kept, choose_kept(300, 40, 1))
    assert choose_kept(300, 300, 0).tolist() == choose_kept(300, 1000, 5).tolist() == list(range(300))
    assert len(choose_kept(300, 0, 0)) == 0


def test_a_part_of_the_images_stands_for_all_only_with_a_note(source, extractor, tmp_path):
    make_file(source, tmp_path / "made.npz", [(extractor, ADM)], keep=40)
    read = load_reference(str(tmp_path / "made.npz"), [(extractor, ADM)])
    kept = choose_kept(300, 40, 0)
    assert read.images == 40 and torch.equal(read.labels_M, LABELS[kept])
    assert torch.equal(read.data["adm-inception"].features("pool"), extractor.extract(IMAGES[kept], ["pool"])["pool"])
    assert read.data["adm-inception"].moments("pool").count == 300
    assert "features are those of the 40 images in made.npz, not of the 300 images that" in read.notes[0]
    other = load_reference(str(tmp_path / "made.npz"), [(fake_adm(name="clip"), {"pool": "moments"})])
    assert other.data["clip"].moments("pool").count == 40
    assert "clip: statistics are those of the 40 images" in other.notes[0]


def test_statistics_alone_can_be_made(source, extractor, tmp_path):
    make_file(source, tmp_path / "made.npz", [(extractor, ADM)], keep=0)
    read = load_reference(str(tmp_path / "made.npz"), [(extractor, {"pool": "moments", "spatial": "moments"})])
    assert (read.images, read.image_shape, read.labels_M) == (0, (32, 32), None)
    assert read.data["adm-inception"].moments("pool").count == 300


def test_other_networks_have_keys_of_their_own(source, tmp_path):
    other = fake_adm(name="clip")
    written = make_file(source, tmp_path / "made.npz", [(other, {"pool": "features"})], protocols=("x",), keep=40)
    silent = replace(other, network=lambda _images: pytest.fail("extracted"))
    read = load_reference(str(tmp_path / "made.npz"), [(silent, {"pool": "features"})])
    assert read.data["clip"].moments("pool").count == 300
    assert written.record.extractors["clip"].layers == {"pool": POOL}
    with np.load(tmp_path / "made.npz") as stored:
        assert "mu" not in stored.files and "moments/clip/pool/cov" in stored.files


def test_a_file_made_with_other_weights_is_refused(source, extractor, tmp_path):
    out = tmp_path / "made.npz"
    make_file(source, out, [(extractor, ADM)], keep=4)
    with pytest.raises(UserError, match=r"made\.npz was made with other weights of adm-inception \(sha256 0{12}"):
        load_reference(str(out), [(replace(extractor, sha256="1" * 64), ADM)])
    with pytest.raises(UserError, match="other preprocessing of adm-inception"):
        load_reference(str(out), [(replace(extractor, preprocessing="another"), ADM)])


def test_a_file_is_whole_or_not_there_and_never_written_over(source, extractor, tmp_path, monkeypatch):
    out = tmp_path / "made.npz"
    needs = [(fake_adm(), {"pool": "moments", "spatial": "moments"})]
    first = make_file(source, out, needs, keep=4)
    with pytest.raises(UserError, match=r"made\.npz already exists: choose another name, or replace it with --force"):
        make_file(source, out, needs, keep=4)
    again = make_file(source, out, needs, keep=4, force=True)
    assert again.sha256 == first.sha256, "the same images give the same bytes"

    class Failing(TensorSource):
        def read(self, start, stop):
            if stop - start < 256 - 44 and start > 0 and stop < 256:
                raise UserError("the disk went away")
            return super().read(start, stop)

    with pytest.raises(UserError, match="went away"):
        make_file(Failing(IMAGES), out, needs, keep=40, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["made.npz"]
    assert sha256_of(out) == first.sha256


def test_images_that_change_between_the_two_readings_are_noticed(extractor, tmp_path):
    class Changing(TensorSource):
        reads = 0

        def read(self, start, stop):
            self.reads += 1
            images = super().read(start, stop)
            return images if self.reads <= 2 else 255 - images

    with pytest.raises(UserError, match="changed while they were read"):
        make_file(Changing(IMAGES), tmp_path / "made.npz", [(extractor, ADM)])
    assert list(tmp_path.iterdir()) == []


def test_a_made_file_is_a_file_of_samples_too(source, extractor, tmp_path):
    make_file(source, tmp_path / "made.npz", [(extractor, {"pool": "moments"})])
    samples = NpzSource(tmp_path / "made.npz")
    assert torch.equal(samples.read(0, 300), IMAGES) and torch.equal(samples.labels_N, LABELS)


@pytest.mark.parametrize("field", ["version", "images", "use"])
def test_a_record_that_this_version_cannot_read_is_refused(source, extractor, tmp_path, field):
    out = tmp_path / "made.npz"
    make_file(source, out, [(extractor, {"pool": "moments"})], keep=4)
    with np.load(out) as stored:
        arrays = dict(stored)
    content = json.loads(arrays["arvbench"].tobytes())
    content["reference"][field] = "something else"
    arrays["arvbench"] = np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)
    with pytest.raises(UserError, match=rf"arvbench is not a record that this version reads: {field}: "):
        load_reference(str(write_npz(tmp_path / "other.npz", arrays)), [(extractor, {"pool": "moments"})])
