"""CLIP extractors: preprocessing as published, open_clip's own image tower, and files that are only data."""

from __future__ import annotations

import json
import logging
import sys
import types
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.quality.extractors import clip, load_extractor
from arvbench.harness.quality.extractors.pil_resize import middle_square, resize_each, shorter_side_cropped
from arvbench.harness.quality.extractors.torchscript import TRUST_VARIABLE
from arvbench.harness.quality.extractors.weights import WEIGHTS

NAMES = ("clip-vit-b-32", "clip-vit-l-14-336")
TINY = {
    "embed_dim": 10,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 128, "head_width": 64, "patch_size": 14},
    "text_cfg": {"context_length": 4, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
}
SIDE_PX = TINY["vision_cfg"]["image_size"]


def images_of(*size, count=3, seed=0):
    coarse = torch.rand(count, 3, 7, 5, generator=torch.Generator().manual_seed(seed)) * 300 - 20
    return nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny CLIP of open_clip, both towers, random weights that fp16 holds exactly (as OpenAI's files do)."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "arvbench-tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = open_clip.create_model("arvbench-tiny-clip", pretrained=None).eval()
        for parameter in built.parameters():
            parameter.data = (parameter.data + 0.05 * torch.randn(parameter.shape)).half().float()
    return built


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    """No weights of the user's in reach."""
    for weights in WEIGHTS.values():
        monkeypatch.delenv(weights.variable, raising=False)
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def weights_file(model, tmp_path):
    path = tmp_path / "open_clip_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def tiny_extractor(name, path):
    """The extractor of that name with the small tower."""
    variant = {variant.name: variant for variant in (clip.VIT_B_32, clip.VIT_L_14_336)}[name]
    return clip.load_tower(replace(variant, model="arvbench-tiny-clip"), {name: path}, torch.device("cpu"))


def embedding(name, path, images):
    return tiny_extractor(name, path).extract(images)["embedding"]


@pytest.mark.parametrize("size", [(28, 28), (40, 40), (90, 41), (19, 23)])
def test_vit_b_32_is_open_clips_encode_image_after_its_own_transform(size, model, weights_file):
    """Its transform is Resize (shorter side), CenterCrop, ToTensor, Normalize: that of OpenAI and clean-fid."""
    images = images_of(*size)
    transform = open_clip.image_transform(
        SIDE_PX, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    prepared = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    with torch.no_grad():
        theirs = model.encode_image(prepared)
    ours = embedding("clip-vit-b-32", weights_file, images)
    assert ours.std(dim=0).min() > 1e-3, "a degenerate network would prove nothing"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(28, 28), (40, 40), (90, 41), (18, 23)])
def test_vit_l_14_336_has_the_preprocessing_of_cmmd(size, model, weights_file):
    """Written out: middle square with margins rounded down, Pillow's bicubic filter, bytes, CLIP's normalisation."""
    images = images_of(*size, seed=1)
    prepared = []
    for image in images:
        height, width = size
        side = min(size)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[:, top : top + side, left : left + side].permute(1, 2, 0).numpy()
        resized = np.asarray(Image.fromarray(square).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
        normal = (resized / np.float32(255) - np.float32(open_clip.OPENAI_DATASET_MEAN)) / np.float32(
            open_clip.OPENAI_DATASET_STD
        )
        prepared.append(torch.from_numpy(normal).permute(2, 0, 1))
    with torch.no_grad():
        theirs = model.encode_image(torch.stack(prepared).float())
    torch.testing.assert_close(embedding("clip-vit-l-14-336", weights_file, images), theirs, rtol=1e-5, atol=1e-6)


def test_resize_of_clip_fid_is_clean_fids_own(monkeypatch):
    """clean-fid's clip_features needs OpenAI's package only to load weights; an empty one lets its resize be called."""
    monkeypatch.setitem(sys.modules, "clip", types.ModuleType("clip"))
    monkeypatch.delitem(sys.modules, "cleanfid.clip_features", raising=False)
    from cleanfid.clip_features import img_preprocess_clip

    for size in ((256, 256), (224, 224), (64, 64), (300, 231)):
        images = images_of(*size, count=1)
        theirs = img_preprocess_clip(images[0].permute(1, 2, 0).numpy())
        ours = resize_each(images, 224, shorter_side_cropped)
        assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), theirs)
    monkeypatch.delitem(sys.modules, "cleanfid.clip_features")


def test_two_preprocessings_differ_where_the_crop_is_odd():
    images = images_of(90, 41, count=1)
    assert not torch.equal(resize_each(images, 28, middle_square), resize_each(images, 28, shorter_side_cropped))


@pytest.mark.parametrize("name", NAMES)
def test_extractor_describes_itself(name, weights_file):
    extractor = tiny_extractor(name, weights_file)
    assert extractor.layers == {"embedding": TINY["embed_dim"]}
    assert extractor.sha256 == sha256_of(weights_file)
    assert f"{SIDE_PX} x {SIDE_PX}" in extractor.preprocessing
    assert extractor.image_px is None
    assert f"{name} weights in another container" in extractor.note


def test_published_architectures_are_those_of_openai_with_quick_gelu(monkeypatch):
    monkeypatch.undo()
    for variant, side_px, dims, width in ((clip.VIT_B_32, 224, 512, 768), (clip.VIT_L_14_336, 336, 768, 1024)):
        tower = clip.empty_tower(variant.model)
        assert (tower.image_size, tower.output_dim) == ((side_px, side_px), dims)
        assert tower.conv1.weight.shape[0] == width
        assert tower.conv1.weight.is_meta
        assert type(tower.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def script_archive(model, path, dtype=torch.float16):
    """As published by OpenAI: a TorchScript program that carries the weights in fp16 and three buffers beside them."""

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def grow(tensors):
        holder = Holder()
        children: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = tensor
            else:
                holder.register_buffer(head, tensor)
        for name, inner in children.items():
            holder.add_module(name, grow(inner))
        return holder

    extra = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.jit.script(grow({k: v.to(dtype) for k, v in model.state_dict().items()} | extra)).save(str(path))
    return path


def test_every_container_gives_the_same_features(model, weights_file, tmp_path, monkeypatch):
    state = model.state_dict()
    files = [weights_file]
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "training.pt")
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.bin")
    archive = script_archive(model, tmp_path / "openai.pt")
    monkeypatch.setenv(TRUST_VARIABLE, sha256_of(archive))
    files += [tmp_path / n for n in ("open_clip_pytorch_model.bin", "training.pt", "half.bin")] + [archive]
    images = images_of(30, 30)
    first, *others = (embedding("clip-vit-b-32", path, images) for path in files)
    for path, other in zip(files[1:], others, strict=True):
        assert torch.equal(first, other), path.name
    assert first.dtype == torch.float32


def test_openais_archive_is_opened_by_its_digest_and_no_other_is(model, tmp_path, monkeypatch):
    archive = script_archive(model, tmp_path / "archive.pt")
    with pytest.raises(CheckpointError, match=r"archive\.pt is a TorchScript archive, a program.*open_clip_model"):
        embedding("clip-vit-b-32", archive, images_of(28, 28))
    entry = WEIGHTS["clip-vit-b-32"]
    monkeypatch.setitem(WEIGHTS, entry.name, replace(entry, sha256=sha256_of(archive)))
    assert tiny_extractor("clip-vit-b-32", archive).note == ""


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_are_named_with_their_address(name):
    with pytest.raises(UserError, match=rf"the {name} weights are not here; fetch ViT-.*\.pt from https://.*sha256 "):
        load_extractor(name)


def test_weights_of_another_size_are_refused_with_the_reason(model, tmp_path):
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state | {"visual.proj": torch.zeros(128, 11)}, tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match=r"wide\.safetensors .* does not fit: .*proj \(128, 11\) instead of"):
        embedding("clip-vit-b-32", tmp_path / "wide.safetensors", images_of(28, 28))
    del state["visual.ln_pre.bias"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(ln_pre\.bias\)"):
        embedding("clip-vit-b-32", tmp_path / "short.safetensors", images_of(28, 28))


def test_file_of_another_library_is_named_as_such(tmp_path):
    save_file({"vision_model.embeddings.class_embedding": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds no image tower of CLIP"):
        embedding("clip-vit-b-32", tmp_path / "model.safetensors", images_of(28, 28))


def test_damaged_files_are_named(weights_file, model, tmp_path):
    archive = script_archive(model, tmp_path / "whole.pt")
    for whole, name in ((weights_file, "cut.safetensors"), (archive, "cut.pt")):
        content = whole.read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            embedding("clip-vit-b-32", tmp_path / name, images_of(28, 28))


def test_loading_does_not_change_the_random_state_or_logging(weights_file, monkeypatch):
    said, listener = [], logging.Handler()
    listener.emit = said.append
    root, handlers = logging.getLogger(), [listener]
    level = root.level
    monkeypatch.setattr(root, "handlers", handlers)
    before = torch.get_rng_state()
    embedding("clip-vit-b-32", weights_file, images_of(28, 28))
    assert torch.equal(torch.get_rng_state(), before)
    assert said == [] and root.handlers == [listener] and root.level == level


@pytest.mark.slow
def test_true_vit_b_32_equals_open_clip_on_random_weights(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _, transform = open_clip.create_model_and_transforms("ViT-B-32-quickgelu", pretrained=None)
    model.eval()
    path = tmp_path / "random.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.visual.state_dict(prefix="visual.").items()}, path)
    images = images_of(256, 300)
    with torch.no_grad():
        theirs = model.encode_image(
            torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
        )
    ours = load_extractor("clip-vit-b-32", extractor_files={"clip-vit-b-32": path}).extract(images)["embedding"]
    assert ours.shape == (3, 512)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
