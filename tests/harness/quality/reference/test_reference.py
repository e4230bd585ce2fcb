"""References that are images or a named data set, and their cache between two evaluations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_adm import fake_adm
from PIL import Image

from arvbench.errors import ContractError, UserError
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.metrics.moments import moments_of
from arvbench.harness.quality.reference import load_reference, reference_files, reference_images

FEATURES = {"64": "features"}


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("digits-cnn")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A separate cache for every test."""
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path, image_3HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_3HW.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def folder(tmp_path):
    """Seventy digits in two subfolders named against the order in which they are written."""
    images = load_digits_rgb().images_N3HW[:70]
    for index in range(35):
        write(tmp_path / "images" / "7" / f"seven_{index:02d}.png", images[35 + index])
        write(tmp_path / "images" / "3" / f"{index:02d}.png", images[index])
    return tmp_path / "images"


def test_a_folder_is_read_once_for_all_extractors(folder, extractor):
    images, other = load_digits_rgb().images_N3HW[:70], fake_adm()
    heard = []
    needs = [(extractor, FEATURES), (other, {"pool": "features", "spatial": "moments"})]
    reference = load_reference(str(folder), needs, progress=heard.append)
    assert (reference.name, reference.images, reference.image_shape) == ("images", 70, (32, 32))
    assert (reference.origin, reference.use, reference.official, reference.notes) == ("images", "", "", ())
    assert reference.sha256 == images_sha256(images)
    assert reference.labels_M.tolist() == [3] * 35 + [7] * 35
    assert heard == [70] and other.network.images == 70
    expected = extractor.extract(images, ["64"])["64"]
    assert torch.equal(reference.data["digits-cnn"].features("64"), expected)
    assert torch.equal(reference.data["digits-cnn"].moments("64").cov_DD, moments_of([expected]).cov_DD)
    assert reference.data["adm-inception"].features("pool").shape == (70, 2048)
    assert reference.data["adm-inception"].moments("spatial").count == 70


def test_an_npz_of_images_is_the_same_reference_as_their_folder(folder, extractor, tmp_path):
    images = load_digits_rgb().images_N3HW[:70]
    np.savez(tmp_path / "images.npz", images.permute(0, 2, 3, 1).numpy())
    of_file = load_reference(str(tmp_path / "images.npz"), [(extractor, FEATURES)])
    of_folder = load_reference(str(folder), [(extractor, FEATURES)])
    assert of_file.sha256 == of_folder.sha256
    assert of_file.origin == "images" and of_file.labels_M is None
    pairs = [reference.data["digits-cnn"].moments("64") for reference in (of_file, of_folder)]
    assert torch.equal(pairs[0].cov_DD, pairs[1].cov_DD)


def test_a_missing_reference_is_refused_with_the_accepted_kinds(tmp_path, extractor):
    with pytest.raises(UserError, match=r"nowhere' is neither 'digits' nor an existing file or folder.*official"):
        load_reference(str(tmp_path / "nowhere"), [(extractor, FEATURES)])


def test_a_folder_without_images_is_refused(tmp_path, extractor):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="no images"):
        load_reference(str(tmp_path), [(extractor, FEATURES)])


def test_another_resolution_is_refused_before_any_image_is_extracted(folder):
    other = fake_adm()
    with pytest.raises(UserError, match=r"samples are 64 x 48 and reference images is 32 x 32: .*--resize"):
        load_reference(str(folder), [(other, {"pool": "moments"})], samples_shape=(48, 64))
    assert other.network.images == 0
    reference = load_reference(str(folder), [(other, {"pool": "moments"})], samples_shape=(32, 32))
    assert reference.image_shape == (32, 32)


def test_stored_digits_equal_the_features_of_the_extractor(extractor):
    stored = load_reference("digits", [(extractor, FEATURES)])
    computed = load_reference("digits", [(replace(extractor, name="another"), FEATURES)])
    ours, theirs = stored.data["digits-cnn"], computed.data["another"]
    torch.testing.assert_close(ours.features("64"), theirs.features("64"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.moments("64").cov_DD, theirs.moments("64").cov_DD, rtol=1e-4, atol=1e-6)
    assert ours.moments("64").count == theirs.moments("64").count == 1797
    assert stored.sha256 == computed.sha256 == images_sha256(load_digits_rgb().images_N3HW)
    assert stored.image_shape == computed.image_shape == (32, 32)
    assert stored.images == 1797 and stored.origin == "data set"
    assert torch.equal(stored.labels_M, load_digits_rgb().labels_N)


def test_stored_digits_cost_no_pass_of_the_network(extractor):
    silent = replace(extractor, network=lambda _images: pytest.fail("extracted"))
    load_reference("digits", [(silent, FEATURES)])


def test_layers_that_are_not_stored_are_extracted(extractor):
    reference = load_reference("digits", [(extractor, {"64": "features", "logits": "features"})])
    assert reference.data["digits-cnn"].features("logits").shape == (1797, 10)


def test_statistics_of_other_weights_are_refused(extractor):
    with pytest.raises(ContractError, match="other weights"):
        load_reference("digits", [(replace(extractor, sha256="0" * 64), FEATURES)])


def test_pixels_and_files_of_a_reference(folder, tmp_path):
    assert torch.equal(reference_images("digits"), load_digits_rgb().images_N3HW)
    assert reference_images(str(folder)) is None
    assert reference_files("digits") == []
    files = reference_files(str(folder))
    assert len(files) == 70 and files[0] == folder / "3" / "00.png"
    np.savez(tmp_path / "x.npz", np.zeros(1))
    assert reference_files(str(tmp_path / "x.npz")) == [tmp_path / "x.npz"]
    with pytest.raises(UserError, match="neither 'digits' nor"):
        reference_files(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", ["folder", "npz", "statistics"])
def test_the_pass_has_the_callers_settings_and_its_chunks_are_cached(folder, cache, tmp_path, kind):
    images, passes, heard = load_digits_rgb().images_N3HW[:70], [], []
    path = folder
    if kind != "folder":
        path = tmp_path / "images.npz"
        other = {"moments/x/y/mean": np.zeros(2)} if kind == "statistics" else {}
        np.savez(path, arr_0=images.permute(0, 2, 3, 1).numpy(), **other)

    class Recorded(FeaturePass):
        def scan(self, source, layers, progress=None):
            passes.append((source.address.path, [(e.name, names) for e, names in layers], self.work, self.workers))
            return super().scan(source, layers, progress)

    needs, features = [(fake_adm(), {"pool": "moments"})], Recorded(workers=7, work=tmp_path / "of the samples")
    alone = load_reference(str(path), needs)
    load_reference(str(path), needs, features=features)
    assert not cache.exists(), "70 images are few"
    features = Recorded(work=tmp_path / "of the samples")  # the fake network is only in this process
    reference = load_reference(str(path), needs, features=replace(features, cache_from=69), progress=heard.append)
    (kept,) = (cache / "references").iterdir()
    layers = [("adm-inception", frozenset({"pool"}))]
    assert passes == [(path, layers, None, 7), (path, layers, kept, 1)]
    assert heard[-1] == 70 and not (tmp_path / "of the samples").exists()
    found, expected = (r.data["adm-inception"].moments("pool").cov_DD for r in (reference, alone))
    assert torch.equal(found, expected)


AT_ONCE = """
import sys, time, torch
from pathlib import Path
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.reference import load_reference
needs = [(load_extractor("digits-cnn"), {"logits": "features"})]
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
reference = load_reference(sys.argv[1], needs, features=FeaturePass(cache_from=1))
print(reference.data["digits-cnn"].moments("logits").mean_D.tolist())
"""


def test_two_processes_that_load_the_same_reference_at_once_both_succeed(folder, cache, extractor, programs, tmp_path):
    expected = load_reference(str(folder), [(extractor, {"logits": "features"})]).data["digits-cnn"].moments("logits")
    begin = tmp_path / "begin"
    running = [programs.start("-c", AT_ONCE, folder, begin) for _ in range(2)]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    begin.touch()
    for process in running:
        out, errors = process.communicate(60)
        assert process.returncode == 0, errors
        assert json.loads(out) == expected.mean_D.tolist()
    assert len(list((cache / "references").iterdir())) == 1


def test_features_of_many_images_are_kept_in_the_cache_and_of_few_are_not(folder, cache):
    load_reference(str(folder), [(fake_adm(), {"pool": "moments"})], features=FeaturePass(cache_from=70))
    assert not cache.exists()
    first, second, others = fake_adm(), fake_adm(), fake_adm(seed=1)
    before, after = (
        load_reference(str(folder), [(extractor, {"pool": "moments"})], features=FeaturePass(cache_from=69))
        for extractor in (first, second)
    )
    assert (first.network.images, second.network.images) == (70, 0)
    means = [reference.data["adm-inception"].moments("pool").mean_D for reference in (before, after)]
    assert torch.equal(*means)
    assert len(list((cache / "references").iterdir())) == 1
    load_reference(str(folder), [(others, {"pool": "moments"})], features=FeaturePass(cache_from=69))
    assert others.network.images == 70, "features of other weights are others"


def test_a_pass_that_was_interrupted_continues_in_the_cache(tmp_path):
    images, path = load_digits_rgb().images_N3HW[:600], str(tmp_path / "images.npz")
    np.savez(path, images.permute(0, 2, 3, 1).numpy())

    def interrupt(done: int) -> None:
        if done >= 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_reference(
            path, [(fake_adm(), {"pool": "moments"})], progress=interrupt, features=FeaturePass(cache_from=500)
        )
    extractor = fake_adm()
    found = load_reference(path, [(extractor, {"pool": "moments"})], features=FeaturePass(cache_from=500))
    assert extractor.network.images == 600 - 256
    expected = moments_of([extractor.extract(part)["pool"] for part in images.split(256)])
    assert torch.equal(found.data["adm-inception"].moments("pool").cov_DD, expected.cov_DD)


def test_a_reference_is_loaded_and_a_note_says_that_the_cache_failed(folder, cache):
    cache.write_text("a file where the folder would be")
    reference = load_reference(str(folder), [(fake_adm(), {"pool": "moments"})], features=FeaturePass(cache_from=69))
    (note,) = reference.notes
    assert note.startswith("features of the reference are not kept: cannot write to")
    assert reference.data["adm-inception"].moments("pool").count == 70
