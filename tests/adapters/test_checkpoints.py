from __future__ import annotations

import argparse
import os
import pickle
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import FILES, tiny_var
from torch import nn

from arvbench.adapters import MODELS
from arvbench.adapters.checkpoints import load_strict, random_tensors, read_tensors
from arvbench.adapters.loading import build_sampler, load_sampler, locate_weights, meta_modules
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import CheckpointError, HostError, UnknownName, UserError


@pytest.fixture
def spec():
    """A model whose weights are two files, as the official models' are."""
    return tiny_var(checkpoint=FILES)


@pytest.fixture
def state(spec):
    return {part: random_tensors(m, 3, torch.device("cpu")) for part, m in meta_modules(spec).items()}


@pytest.fixture
def folder(tmp_path, state):
    torch.save(state["transformer"], tmp_path / "tiny.pth")
    torch.save(state["tokenizer"], tmp_path / "vae.pth")
    return tmp_path


def image(sampler):
    return sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0])).images


def test_official_files_are_loaded_as_they_are(spec, folder):
    sampler = build_sampler(spec, weights=str(folder))
    assert set(sampler.weights.sha256) == {"tiny.pth", "vae.pth"}
    assert not sampler.weights.random
    assert torch.equal(image(sampler), image(build_sampler(spec, weights="random:3")))


def test_one_file_finds_the_tokenizer_beside_it(spec, folder):
    by_file = build_sampler(spec, weights=str(folder / "tiny.pth"))
    assert torch.equal(image(by_file), image(build_sampler(spec, weights=str(folder))))


@pytest.mark.parametrize("arguments", ["text", argparse.Namespace(lr=1e-4, name="tiny")])
def test_training_checkpoints_keep_the_model_deeper_beside_their_command_line(spec, folder, state, arguments):
    torch.save({"trainer": {"var_wo_ddp": state["transformer"], "epoch": 3}, "args": arguments}, folder / "tiny.pth")
    torch.save({"trainer": {"vae_local": state["tokenizer"]}}, folder / "vae.pth")
    assert torch.equal(image(build_sampler(spec, weights=str(folder))), image(build_sampler(spec, weights="random:3")))


def test_a_bundle_holds_both_parts_in_half_precision(tmp_path, state):
    from arvbench.harness.training.demo import save_bundle

    spec = tiny_var()
    save_bundle(build_sampler(spec, weights="random:3"), tmp_path / "tiny.safetensors")
    sampler = build_sampler(spec, weights=str(tmp_path / "tiny.safetensors"))
    assert torch.equal(sampler.transformer.head.weight, state["transformer"]["head.weight"].half().float())


def test_random_weights_depend_on_the_seed_and_are_marked(spec):
    one, two = (build_sampler(spec, weights=f"random:{seed}") for seed in (1, 2))
    assert one.weights.random
    assert not one.weights.sha256
    assert not torch.equal(one.transformer.head.weight, two.transformer.head.weight)
    assert torch.equal(one.transformer.head.weight, build_sampler(spec, weights="random:1").transformer.head.weight)


def refused(spec, folder) -> str:
    """Return the one-line error of building `spec` from `folder`."""
    with pytest.raises(CheckpointError) as caught:
        build_sampler(spec, weights=str(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_and_unexpected_keys_are_listed(spec, folder, state):
    broken = dict(state["transformer"])
    broken["blocks.0.attn.extra"] = broken.pop("blocks.0.attn.q_bias")
    torch.save(broken, folder / "tiny.pth")
    message = refused(spec, folder)
    assert "1 missing (blocks.0.attn.q_bias)" in message
    assert "1 unexpected (blocks.0.attn.extra)" in message


def test_another_shape_is_named(spec, folder, state):
    torch.save(state["transformer"] | {"head.bias": torch.zeros(7)}, folder / "tiny.pth")
    assert "head.bias (7,) instead of (24,)" in refused(spec, folder)


def test_a_wrong_file_names_the_model_it_looks_like(spec, folder):
    with torch.device("meta"):
        demo = meta_modules(MODELS["demo/var"])["transformer"]
    torch.save({k: torch.zeros(t.shape, dtype=t.dtype) for k, t in demo.state_dict().items()}, folder / "tiny.pth")
    assert "looks most like the transformer of demo/var (100%" in refused(spec, folder)


def test_tokenizer_and_transformer_swapped_is_recognised(spec, folder):
    (folder / "tiny.pth").write_bytes((folder / "vae.pth").read_bytes())
    assert "the tokenizer of" in refused(spec, folder)


def test_a_nan_is_named(spec, folder, state):
    weight = state["transformer"]["blocks.1.ffn.fc1.weight"].clone()
    weight[0, 0] = float("nan")
    torch.save(state["transformer"] | {"blocks.1.ffn.fc1.weight": weight}, folder / "tiny.pth")
    assert "NaN or infinity in blocks.1.ffn.fc1.weight" in refused(spec, folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_truncated_file_is_called_so(spec, folder, share):
    content = (folder / "tiny.pth").read_bytes()
    (folder / "tiny.pth").write_bytes(content[: int(share * len(content))])
    assert "damaged or truncated" in refused(spec, folder)


def test_a_truncated_safetensors_file_is_called_so(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        read_tensors(tmp_path / "x.safetensors")


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", ["torch", "torch-legacy", "pickle"])
def test_a_pickle_that_runs_code_does_not_run(spec, folder, protocol):
    victim = folder / "pwned"
    if protocol == "pickle":
        (folder / "tiny.pth").write_bytes(pickle.dumps({"head.weight": Evil(victim)}))
    else:
        content = {"head.weight": Evil(victim)}
        torch.save(content, folder / "tiny.pth", _use_new_zipfile_serialization=protocol == "torch")
    message = refused(spec, folder)
    assert "refused" in message
    assert "weights_only" not in message
    assert not victim.exists()


def test_the_content_of_a_file_without_a_state_dict_is_named(spec, folder):
    torch.save({"epoch": 3, "note": "text"}, folder / "tiny.pth")
    assert "no state dict" in refused(spec, folder)
    assert "epoch, note" in refused(spec, folder)


def test_a_missing_file_says_where_to_get_it(spec, folder):
    (folder / "vae.pth").unlink()
    message = refused(spec, folder)
    assert "vae.pth is missing" in message
    assert "nobody/nothing" in message
    assert "no weights at" in refused(spec, folder / "nowhere")
    assert "no weights at" in refused(tiny_var(), folder / "nowhere.safetensors")


def test_a_bundle_is_as_strict_as_two_files(tmp_path, state):
    tensors = {f"{part}.{name}": t.clone() for part, own in state.items() for name, t in own.items()}
    save_file(tensors | {"extra.foo": torch.zeros(1)}, tmp_path / "b.safetensors")
    assert "extra.foo belongs to neither transformer nor tokenizer" in refused(tiny_var(), tmp_path / "b.safetensors")
    save_file(tensors | {"transformer.foo": torch.zeros(1)}, tmp_path / "b.safetensors")
    assert "1 unexpected (foo)" in refused(tiny_var(), tmp_path / "b.safetensors")
    assert "not a bundle" in refused(tiny_var(), tmp_path)


def test_weights_are_located_without_being_read(spec, folder):
    assert locate_weights(spec, str(folder)) == {"transformer": folder / "tiny.pth", "tokenizer": folder / "vae.pth"}
    assert locate_weights(spec, "random:1") == locate_weights(spec, "hub") == {}
    for weights in ("demo", str(folder / "nowhere"), "random:x"):
        with pytest.raises(UserError):
            locate_weights(spec, weights)


def test_official_files_are_requested_from_the_hub(spec, folder, monkeypatch):
    requests = []

    def download(repo, name):
        requests.append((repo, name))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert torch.equal(image(build_sampler(spec, weights="hub")), image(build_sampler(spec, weights=str(folder))))
    assert requests == [("nobody/nothing", "tiny.pth"), ("nobody/nothing", "vae.pth")]


def test_an_unreachable_hub_is_reported_with_the_remedy(spec, monkeypatch):
    def download(repo, name):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(CheckpointError, match=r"could not get tiny\.pth of nobody/nothing .* pass its folder"):
        build_sampler(spec, weights="hub")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"weights": weights}, "random:0") for weights in ("random", "random:x", "random:-1")),
        ({"weights": "random:0", "backend": "fast"}, "backend 'fast'"),
        ({"weights": "random:0", "device": "gpu"}, "device 'gpu'"),
    ],
)
def test_unknown_options_are_refused(spec, options, message):
    with pytest.raises(UserError, match=message):
        build_sampler(spec, **options)


def test_demo_weights_exist_for_demo_models_only():
    with pytest.raises(CheckpointError, match="var-d16 has no demo weights; models that have: demo/var"):
        load_sampler("var-d16", weights="demo")


def test_an_unknown_model_names_near_misses():
    with pytest.raises(UnknownName, match=r"no model 'vard16'; did you mean 'var-d16'"):
        load_sampler("vard16", weights="random:0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_a_host_error(spec):
    with pytest.raises(HostError, match="no usable GPU"):
        build_sampler(spec, weights="random:0", device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found_and_minus_infinity_in_a_mask_is_none(value, dtype):
    module = nn.Linear(40, 50, dtype=dtype)
    module.register_buffer("mask", torch.zeros(50, dtype=dtype))
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for name in ("weight", "mask"):
        wrong = tensors | {name: tensors[name].clone()}
        wrong[name].view(-1)[17] = value
        usable = name == "mask" and value == float("-inf")
        with nullcontext() if usable else pytest.raises(CheckpointError, match=f"a file has NaN or infinity in {name}"):
            load_strict(module, wrong, source="a file")
