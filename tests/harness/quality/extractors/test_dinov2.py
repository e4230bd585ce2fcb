"""DINOv2: the official model's numbers from timm's architecture, the preprocessing of dgm-eval, and strict files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.special import erf
from timm.layers import resample_abs_pos_embed
from torch import nn
from torchvision import transforms

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.quality.extractors import dinov2, load_extractor
from arvbench.harness.quality.extractors.pil_resize import normalised, resize_each, stretched
from arvbench.harness.quality.extractors.weights import WEIGHTS

NAME = "dinov2-vit-l-14"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIMS, DEPTH, HEADS, TRAINED_GRID, GRID, PATCH = 32, 2, 4, 37, 16, 14


def images_of(*size, count=3, seed=0):
    coarse = torch.rand(count, 3, 7, 5, generator=torch.Generator().manual_seed(seed)) * 300 - 20
    return nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)


def official_state(dims=DIMS, depth=DEPTH, seed=0):
    """A state dict with the names of dinov2_vitl14_pretrain.pth, random."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, std):
        return torch.randn(shape, generator=generator) * std

    state = {
        "cls_token": normal(1, 1, dims, std=0.5),
        "pos_embed": normal(1, 1 + TRAINED_GRID**2, dims, std=0.5),
        "mask_token": normal(1, dims, std=1),
        "patch_embed.proj.weight": normal(dims, 3, PATCH, PATCH, std=1 / math.sqrt(3 * PATCH**2)),
        "patch_embed.proj.bias": normal(dims, std=0.1),
    }
    for block in (f"blocks.{index}" for index in range(depth)):
        for norm in ("norm1", "norm2"):
            state[f"{block}.{norm}.weight"] = 1 + normal(dims, std=0.1)
            state[f"{block}.{norm}.bias"] = normal(dims, std=0.1)
        for layer, out, inner in (
            ("attn.qkv", 3 * dims, dims),
            ("attn.proj", dims, dims),
            ("mlp.fc1", 4 * dims, dims),
            ("mlp.fc2", dims, 4 * dims),
        ):
            state[f"{block}.{layer}.weight"] = normal(out, inner, std=2 / math.sqrt(inner))
            state[f"{block}.{layer}.bias"] = normal(out, std=0.1)
        for scale in ("ls1", "ls2"):
            state[f"{block}.{scale}.gamma"] = normal(dims, std=1)
    return state | {"norm.weight": 1 + normal(dims, std=0.1), "norm.bias": normal(dims, std=0.1)}


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch, tmp_path):
    """timm's factory with the arguments of the real call and fewer, narrower blocks; no weights of the user's."""
    build = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, **kw: build(*args, **kw, embed_dim=DIMS, depth=DEPTH, num_heads=HEADS)
    )
    monkeypatch.delenv(WEIGHTS[NAME].variable, raising=False)
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def official_file(tmp_path):
    path = tmp_path / "official.pth"
    torch.save(official_state(), path)
    return path


def features(path, images):
    return load_extractor(NAME, extractor_files={NAME: path}).extract(images)["cls"]


def cubic(x, a=-0.75):
    """Keys' kernel with the coefficient of PyTorch's bicubic."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def position_matrix():
    """(16, 37): weight of each trained position along one axis; scale 37 / 16.1, edges repeated."""
    matrix = np.zeros((GRID, TRAINED_GRID))
    for i in range(GRID):
        source = (i + 0.5) * TRAINED_GRID / (GRID + 0.1) - 0.5
        for tap in range(math.floor(source) - 1, math.floor(source) + 3):
            matrix[i, min(max(tap, 0), TRAINED_GRID - 1)] += cubic(source - tap)
    return matrix


def layer_norm(x, state, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(x, state, name, heads):
    count, tokens, dims = x.shape
    qkv = linear(x, state, f"{name}.qkv").reshape(count, tokens, 3, heads, dims // heads)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(dims // heads)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    return linear(mixed.transpose(0, 2, 1, 3).reshape(count, tokens, dims), state, f"{name}.proj")


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


class Doubles:
    """A state dict as float64 arrays, each made when it is needed."""

    def __init__(self, state):
        self.state = state

    def __getitem__(self, name):
        return self.state[name].double().numpy()


def class_tokens(state, pixels_B3PP, depth=DEPTH, heads=HEADS):
    """x_norm_clstoken of the official model, in NumPy and float64."""
    state = Doubles(state)
    count, dims = len(pixels_B3PP), state["cls_token"].shape[-1]
    tiles = pixels_B3PP.double().numpy().reshape(count, 3, GRID, PATCH, GRID, PATCH)
    tiles = tiles.transpose(0, 2, 4, 1, 3, 5).reshape(count, GRID**2, -1)
    patches = tiles @ state["patch_embed.proj.weight"].reshape(dims, -1).T + state["patch_embed.proj.bias"]
    along = position_matrix()
    trained = state["pos_embed"][0, 1:].reshape(TRAINED_GRID, TRAINED_GRID, dims)
    positions = np.einsum("iy,jx,yxd->ijd", along, along, trained, optimize=True).reshape(GRID**2, dims)
    first = np.broadcast_to(state["cls_token"][0] + state["pos_embed"][0, :1], (count, 1, dims))
    x = np.concatenate([first, patches + positions], axis=1)
    for block in (f"blocks.{index}" for index in range(depth)):
        mixed = attention(layer_norm(x, state, f"{block}.norm1"), state, f"{block}.attn", heads)
        x = x + state[f"{block}.ls1.gamma"] * mixed
        hidden = gelu(linear(layer_norm(x, state, f"{block}.norm2"), state, f"{block}.mlp.fc1"))
        x = x + state[f"{block}.ls2.gamma"] * linear(hidden, state, f"{block}.mlp.fc2")
    return torch.from_numpy(layer_norm(x, state, "norm")[:, 0])


def test_class_token_is_that_of_an_independent_implementation(official_file):
    images = images_of(60, 50, count=2)
    ours = features(official_file, images)
    prepared = normalised(resize_each(images, 224, stretched), IMAGENET_MEAN, IMAGENET_STD)
    theirs = class_tokens(official_state(), prepared)
    assert ours.shape == (2, DIMS)
    assert ours.std(dim=0).mean() > 1e-2, "a degenerate network would prove nothing"
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=2e-5)


def test_positions_are_interpolated_as_officially_and_not_as_in_timm():
    positions = official_state()["pos_embed"]
    ours = dinov2.interpolated_positions(positions, GRID)
    along = torch.from_numpy(position_matrix())
    trained = positions[0, 1:].double().view(TRAINED_GRID, TRAINED_GRID, DIMS)
    expected = torch.einsum("iy,jx,yxd->ijd", along, along, trained).reshape(GRID**2, DIMS)
    torch.testing.assert_close(ours[0, 1:].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[:, 0], positions[:, 0])
    assert (ours - resample_abs_pos_embed(positions, new_size=[GRID, GRID])).abs().max() > 0.1


def test_positions_of_the_same_grid_are_left_alone():
    positions = torch.randn(1, 1 + GRID**2, 3)
    assert torch.equal(dinov2.interpolated_positions(positions, GRID), positions)


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (300, 180), (32, 32)])
def test_preprocessing_is_dgm_evals(size):
    images = images_of(*size)
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    theirs = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    ours = normalised(resize_each(images, 224, stretched), IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(ours, theirs)


def test_official_file_and_timms_give_the_same_features(official_file, tmp_path):
    timm_state = {name: tensor for name, tensor in official_state().items() if name != "mask_token"}
    save_file(timm_state, tmp_path / "model.safetensors")
    save_file({name: tensor.half().float() for name, tensor in timm_state.items()}, tmp_path / "rounded.safetensors")
    save_file({name: tensor.half() for name, tensor in timm_state.items()}, tmp_path / "half.safetensors")
    images = images_of(40, 40)
    assert torch.equal(features(official_file, images), features(tmp_path / "model.safetensors", images))
    rounded, half = (features(tmp_path / f"{name}.safetensors", images) for name in ("rounded", "half"))
    assert torch.equal(rounded, half)
    assert not torch.equal(rounded, features(official_file, images))


def test_features_do_not_depend_on_the_batch(official_file):
    images = images_of(40, 40, count=4)
    whole = features(official_file, images)
    one_by_one = torch.cat([features(official_file, images[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(whole, one_by_one, rtol=1e-4, atol=1e-5)


def test_extractor_describes_itself(official_file):
    extractor = load_extractor(NAME, extractor_files={NAME: official_file})
    assert (extractor.name, extractor.layers) == (NAME, {"cls": DIMS})
    assert extractor.sha256 == sha256_of(official_file)
    assert "Pillow bicubic resize to 224 x 224" in extractor.preprocessing
    assert "offset 0.1" in extractor.preprocessing
    assert "not the published ones" in extractor.note
    assert extractor.image_px is None


def test_true_architecture_has_the_official_names_and_shapes(monkeypatch):
    monkeypatch.undo()
    model = dinov2.empty_model()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    official = {name: tuple(tensor.shape) for name, tensor in official_state(dims=1024, depth=1).items()}
    expected = {name: shape for name, shape in official.items() if name != "mask_token"}
    expected["pos_embed"] = (1, 1 + GRID**2, 1024)
    for index in range(1, 24):
        expected |= {n.replace("blocks.0", f"blocks.{index}"): s for n, s in expected.items() if "blocks.0." in n}
    assert shapes == expected
    assert model.blocks[0].attn.num_heads == 16
    assert next(model.parameters()).is_meta


def test_missing_weights_are_named_with_their_address():
    with pytest.raises(UserError, match=r"fetch dinov2_vitl14_pretrain\.pth from https://dl\.fbaipublicfiles.*sha256 "):
        load_extractor(NAME)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"register_tokens": torch.zeros(1, 4, DIMS)}, r"1 unexpected \(register_tokens\)"),
        ({"pos_embed": torch.zeros(1, 1000, DIMS)}, r"pos_embed \(1, 1000, 32\) instead of \(1, 257, 32\)"),
        ({"pos_embed": torch.zeros(1370, DIMS)}, r"pos_embed \(1370, 32\) instead of"),
        ({"norm.weight": torch.zeros(DIMS + 1)}, r"norm\.weight \(33,\) instead of"),
        ({"norm.weight": torch.full((DIMS,), float("nan"))}, "NaN or infinity in norm.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_reason(change, reason, tmp_path):
    torch.save(official_state() | change, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=rf"other\.pth \(wanted: dinov2_vitl14_pretrain\.pth\) .*{reason}"):
        features(tmp_path / "other.pth", images_of(20, 20))


def test_missing_tensors_are_named(tmp_path):
    state = official_state()
    del state["cls_token"], state["pos_embed"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"2 missing \(cls_token, pos_embed\)"):
        features(tmp_path / "other.pth", images_of(20, 20))


def test_published_name_with_other_bytes_is_refused(tmp_path):
    path = tmp_path / "dinov2_vitl14_pretrain.pth"
    torch.save(official_state(), path)
    with pytest.raises(CheckpointError, match="is damaged: its sha256"):
        features(path, images_of(20, 20))


@pytest.mark.slow
def test_true_architecture_is_the_official_model_with_its_1024_numbers(monkeypatch, tmp_path):
    monkeypatch.undo()
    path = tmp_path / "random.pth"
    # Values that fp16 holds, so that a file of half the size has them.
    state = {name: tensor.half() for name, tensor in official_state(dims=1024, depth=24).items()}
    torch.save(state, path)
    images = images_of(256, 256, count=1)
    ours = features(path, images)
    prepared = normalised(resize_each(images, 224, stretched), IMAGENET_MEAN, IMAGENET_STD)
    assert ours.shape == (1, 1024)
    torch.testing.assert_close(ours.double(), class_tokens(state, prepared, depth=24, heads=16), rtol=1e-3, atol=1e-3)
