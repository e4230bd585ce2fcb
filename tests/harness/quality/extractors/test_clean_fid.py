"""clean-fid's modes are the library's own pipeline, given local weights and a seed, and leave the process as it was."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace

import cleanfid.features
import cleanfid.fid
import cleanfid.inception_pytorch
import cleanfid.inception_torchscript
import numpy as np
import pytest
import torch
from metric_inputs import inputs_of
from PIL import Image
from random_inception import write_random_inception
from random_torchscript import environment_trusting, write_torchscript
from torch import nn

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.extractors.torchscript import TRUST_VARIABLE
from arvbench.harness.quality.extractors.weights import WEIGHTS
from arvbench.harness.quality.protocols import clean_fid
from arvbench.harness.quality.protocols.protocol import Options

MODES = {
    "clean-fid": "clean",
    "clean-fid-legacy-tensorflow": "legacy_tensorflow",
    "clean-fid-legacy-pytorch": "legacy_pytorch",
}
CPU = torch.device("cpu")


def blurry_images(count, height, width, seed=0):
    """uint8 images whose resize is not all noise."""
    coarse = torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(seed)) * 300 - 20
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A TorchScript and a pytorch-fid file with the same random weights."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        "inception-torchscript": write_torchscript(folder / "random.pt"),
        "pytorch-fid-inception": write_random_inception(folder / "random.pth"),
    }


@pytest.fixture(autouse=True)
def no_weights_around(monkeypatch, tmp_path):
    for weights in WEIGHTS.values():
        monkeypatch.delenv(weights.variable, raising=False)
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trusting(files):
    return environment_trusting(files["inception-torchscript"])


@pytest.fixture
def trusted(files, trusting, monkeypatch):
    for name, value in trusting.items():
        monkeypatch.setenv(name, value)
    return files


@pytest.fixture(scope="module")
def kept():
    """Networks that tests share: extractors by name, and the library's by mode."""
    return {}


@pytest.fixture
def loaded(trusted, kept):
    """Return an extractor, which is loaded once."""

    def load(name):
        if name not in kept:
            kept[name] = load_extractor(name, extractor_files=trusted)
        return kept[name]

    return load


@pytest.fixture
def library_model(trusted, kept, tmp_path, monkeypatch):
    """The library's own `build_feature_extractor`, which finds our files where it would download."""
    folder = tmp_path / "for-the-library"
    folder.mkdir()
    (folder / "inception-2015-12-05.pt").symlink_to(trusted["inception-torchscript"])
    wrapper = cleanfid.features.InceptionV3W

    def build(mode):
        if mode not in kept:
            kept[mode] = built(mode)
        return kept[mode]

    def built(mode):
        with monkeypatch.context() as patch:
            patch.setattr(
                cleanfid.features,
                "InceptionV3W",
                lambda _path, download, resize_inside: wrapper(
                    str(folder), download=False, resize_inside=resize_inside
                ),
            )
            patch.setattr(
                cleanfid.inception_pytorch,
                "load_state_dict_from_url",
                lambda *_, **__: torch.load(trusted["pytorch-fid-inception"]),
            )
            return cleanfid.features.build_feature_extractor(mode, CPU, use_dataparallel=False)

    return build


def save_pngs(images_N3HW, folder):
    folder.mkdir()
    for index, image_3HW in enumerate(images_N3HW):
        Image.fromarray(image_3HW.permute(1, 2, 0).numpy()).save(folder / f"{index:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [
        *(pytest.param(name, mode, (310, 340), id=f"{name}-reduced") for name, mode in MODES.items()),
        pytest.param("clean-fid", "clean", (48, 40), id="clean-fid-enlarged"),
        *(
            pytest.param(name, mode, (48, 40), id=f"{name}-enlarged", marks=pytest.mark.slow)
            for name, mode in MODES.items()
            if mode != "clean"
        ),
    ],
)
def test_features_are_the_librarys_own_bit_for_bit(name, mode, size, loaded, library_model, tmp_path):
    images = blurry_images(2, *size)
    extractor = loaded(name)
    ours = extractor.extract(images)["2048"]
    theirs = cleanfid.fid.get_folder_features(
        str(save_pngs(images, tmp_path / "pngs")),
        library_model(mode),
        num_workers=0,
        device=CPU,
        mode=mode,
        verbose=False,
    )
    assert ours.std(dim=0).mean() > 1e-3, "a degenerate network would prove nothing"
    assert torch.equal(ours, torch.from_numpy(theirs))
    assert extractor.layers == {"2048": ours.shape[1]}


def test_modes_differ_from_each_other(loaded):
    images = blurry_images(1, 100, 80)
    clean, tensorflow, pytorch = (loaded(name).extract(images)["2048"] for name in MODES)
    for a, b in ((clean, tensorflow), (clean, pytorch), (tensorflow, pytorch)):
        assert (a - b).abs().max() > 1e-4


def test_legacy_tensorflow_agrees_with_torch_fidelitys_emulation(trusted, loaded):
    """One network and one resize, in two independent implementations."""
    from torch_fidelity.utils import create_feature_extractor

    fidelity = create_feature_extractor(
        "inception-v3-compat",
        ["2048"],
        cuda=False,
        verbose=False,
        feature_extractor_weights_path=str(trusted["pytorch-fid-inception"]),
    )
    images = blurry_images(1, 64, 64)
    ours = loaded("clean-fid-legacy-tensorflow").extract(images)["2048"]
    with torch.no_grad():
        (theirs,) = fidelity(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_earlier_calls(trusted):
    """A TorchScript executor may optimise after its first calls."""
    extractor = load_extractor("clean-fid-legacy-tensorflow", extractor_files=trusted)
    images = blurry_images(1, 32, 32)
    first, *later = (extractor.extract(images)["2048"] for _ in range(4))
    assert all(torch.equal(first, again) for again in later)


def test_nothing_is_downloaded_or_left_patched(trusted, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(cleanfid.inception_torchscript, "check_download_inception", refuse)
    monkeypatch.setattr(cleanfid.inception_pytorch, "load_state_dict_from_url", refuse)
    filters = copy.copy(warnings.filters)
    for name in MODES:
        extractor = load_extractor(name, extractor_files=trusted)
        extractor.extract(blurry_images(1, 8, 8))
        assert "not the published ones" in extractor.note
    assert cleanfid.inception_pytorch.load_state_dict_from_url is refuse
    assert warnings.filters == filters, "the library's resizer switches all warnings off"


@pytest.mark.parametrize(("name", "inside"), [("clean-fid", False), ("clean-fid-legacy-tensorflow", True)])
def test_archive_resizes_only_in_the_tensorflow_mode(name, inside, trusted, monkeypatch):
    """At 299 x 299 a second resize would change nothing here, and might in the published archive."""
    calls = []
    wrapper = cleanfid.inception_torchscript.InceptionV3W
    real = wrapper.__init__
    monkeypatch.setattr(wrapper, "__init__", lambda self, *a, **kw: calls.append(kw) or real(self, *a, **kw))
    load_extractor(name, extractor_files=trusted)
    assert calls == [{"download": False, "resize_inside": inside}]


@pytest.mark.parametrize("name", MODES)
def test_missing_weights_are_named_with_their_address(name):
    with pytest.raises(UserError, match=r"fetch .*inception-2015-12-05.*https://.*sha256 [0-9a-f]{64}"):
        load_extractor(name)


class WritesWhenLoaded(nn.Module):
    """A TorchScript program that writes a file as soon as it is loaded."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.marker, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.marker = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.marker)


def test_program_that_is_not_the_published_one_does_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "inception.pt"
    torch.jit.script(WritesWhenLoaded(str(marker))).save(str(path))
    for name in ("clean-fid", "clean-fid-legacy-tensorflow"):
        with pytest.raises(
            CheckpointError, match=r"inception\.pt is a TorchScript archive, a program.*fetch that from"
        ):
            load_extractor(name, extractor_files={"inception-torchscript": path})
    assert not marker.exists()
    torch.jit.load(str(path))
    assert marker.exists(), "the program is harmless, so the test shows nothing"


def test_published_digest_needs_no_trust(files, monkeypatch):
    entry = WEIGHTS["inception-torchscript"]
    monkeypatch.setitem(WEIGHTS, entry.name, replace(entry, sha256=sha256_of(files[entry.name])))
    assert load_extractor("clean-fid", extractor_files=files).note == ""


@pytest.mark.parametrize("content", ["truncated", "another network", "no archive"])
def test_archive_that_is_not_the_network_is_refused_with_the_reason(content, files, tmp_path, monkeypatch):
    path = tmp_path / "other.pt"
    if content == "another network":
        torch.jit.script(nn.Linear(2, 2)).save(str(path))
    else:
        whole = files["inception-torchscript"].read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content == "truncated" else b"hello")
    monkeypatch.setenv(TRUST_VARIABLE, environment_trusting(path)[TRUST_VARIABLE])
    with pytest.raises(CheckpointError, match=r"other\.pt is damaged, truncated or another network"):
        load_extractor("clean-fid", extractor_files={"inception-torchscript": path})


def test_pytorch_file_that_would_run_code_does_not(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"

    class RunsCode:
        def __reduce__(self):
            return (marker.touch, ())

    path.write_bytes(pickle.dumps({"fc.weight": RunsCode()}, protocol=2))
    with pytest.raises(CheckpointError, match="could run code"):
        load_extractor("clean-fid-legacy-pytorch", extractor_files={"pytorch-fid-inception": path})
    assert not marker.exists()


def test_pytorch_weights_of_another_network_are_refused_and_the_library_is_put_back(tmp_path):
    before = cleanfid.inception_pytorch.load_state_dict_from_url
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth .*does not fit: .*missing"):
        load_extractor("clean-fid-legacy-pytorch", extractor_files={"pytorch-fid-inception": tmp_path / "other.pth"})
    assert cleanfid.inception_pytorch.load_state_dict_from_url is before


def test_fid_and_kid_of_folders_are_the_librarys(loaded, library_model, tmp_path, monkeypatch):
    """From image files to numbers, both through `compute_fid` and `compute_kid`; three dimensions keep sqrtm quick."""
    sets = [blurry_images(3, 24, 24, seed) for seed in (1, 2)]
    folders = [str(save_pngs(images, tmp_path / name)) for images, name in zip(sets, "ab", strict=True)]
    model, seen = library_model("legacy_pytorch"), {}

    def three(batch):
        key = batch.numpy().tobytes()
        if key not in seen:
            seen[key] = model(batch)[:, :3]
        return seen[key]

    options = {"mode": "legacy_pytorch", "num_workers": 0, "device": CPU, "verbose": False}
    fid = cleanfid.fid.compute_fid(*folders, custom_feat_extractor=three, **options)
    monkeypatch.setattr(cleanfid.fid, "build_feature_extractor", lambda *_, **__: three)
    np.random.seed(clean_fid.KID_SEED)
    kid = cleanfid.fid.compute_kid(*folders, **options)

    extractor = loaded("clean-fid-legacy-pytorch")
    features = [extractor.extract(images)["2048"][:, :3].contiguous() for images in sets]
    inputs = inputs_of(*features, layer="2048", options=Options(bootstrap=0))
    numbers = [metric.measure(inputs) for metric in clean_fid.LEGACY_PYTORCH.metrics]
    assert [metric.name for metric in clean_fid.LEGACY_PYTORCH.metrics] == ["fid", "kid"]
    assert numbers[0].value == pytest.approx(fid, rel=1e-5)
    assert numbers[1].value == kid
    assert all(number.library == "clean-fid 0.1.35" and number.spread is None for number in numbers)
