"""Files of weights as they are found: wrapped, misnamed, cut, damaged, and files that are none."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from tiny_models import FILES, tiny_var

from arvbench.adapters.checkpoints import random_tensors, read_tensors
from arvbench.adapters.loading import build_sampler, meta_modules
from arvbench.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).view(3, 2), "b": torch.arange(4)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"


def torch_bytes(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(members, compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def repacked() -> bytes:
    with zipfile.ZipFile(io.BytesIO(torch_bytes(STATE))) as file:
        return archive({name: file.read(name) for name in file.namelist()}, zipfile.ZIP_DEFLATED)


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("x.pth"))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


CONTAINERS = {
    "zip": torch_bytes(STATE),
    "legacy": torch_bytes(STATE, _use_new_zipfile_serialization=False),
    "safetensors": save(STATE),
}


def equal(got, expected=STATE) -> bool:
    return got.keys() == expected.keys() and all(torch.equal(got[name], t) for name, t in expected.items())


def refused(path, nesting=()) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path, nesting)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "X.SAFETENSORS", "x", "x.bin"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_content_decides_and_not_the_ending(tmp_path, container, name):
    (tmp_path / name).write_bytes(CONTAINERS[container])
    assert equal(read_tensors(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"\xef\xbb\xbf\n <HTML lang=en>" + b"x" * 600, "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
        (gzip.compress(CONTAINERS["zip"]), "gzip: unpack"),
        (archive({"var_d16.pth": CONTAINERS["zip"]}), r"zip archive .*'var_d16\.pth'.*unpack"),
        (archive({}), "truncated|zip archive"),
        (npz(), "npz"),
        (tar(), "tar archive"),
        (repacked(), "compressed.*without compression"),
        (b"Access to model x/y is restricted. Log in.", "text file.*restricted"),
        (json.dumps({"metadata": {}, "weight_map": {"a": "1.safetensors"}}).encode(), "index of shards"),
        (b"\0" * 4096, "zeros"),
        (b"", "damaged or truncated"),
        (b"\x93NUMPY\x01\x00", "NumPy array"),
        (b"\x08\x01\xfe\xca" * 9, "begins with 08 01 fe ca"),
        (b"\x80\x04\x95\x00", "refused: it is a Python pickle"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_file_of_another_kind_is_named_as_what_it_is(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_tensors(tmp_path / name)
    refused(tmp_path / name)


def test_a_folder_is_no_file(tmp_path):
    assert "is a folder" in refused(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_cut_anywhere_is_damaged(tmp_path, container):
    whole = CONTAINERS[container]
    # Every length of the small ones; of the zip archive, which is padded, every third.
    for length in range(0, len(whole), 3 if container == "zip" else 1):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        refused(tmp_path / "cut.pth")


def test_a_flipped_bit_among_the_weights_of_an_archive_is_found(tmp_path):
    damaged = bytearray(CONTAINERS["zip"])
    damaged[damaged.index(STATE["a.weight"].numpy().tobytes()) + 5] ^= 1
    (tmp_path / "x.pth").write_bytes(damaged)
    assert "CRC" in refused(tmp_path / "x.pth")


def test_an_archive_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_tensors(tmp_path / "x.pth"))


ODD = {
    "float8": torch.zeros(2).to(torch.float8_e5m2),
    "meta": torch.zeros(2, device="meta"),
    "sparse": torch.eye(2).to_sparse(),
    "sparse_csr": torch.eye(2).to_sparse_csr(),
    "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "quantized": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    "uint16": torch.zeros(2, dtype=torch.uint16),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_without_plain_values_is_named(tmp_path, kind):
    torch.save(STATE | {"norm.bias": ODD[kind]}, tmp_path / "x.pth")
    assert "norm.bias is " in refused(tmp_path / "x.pth")


@pytest.mark.parametrize("odd", [torch.zeros(24, dtype=torch.bool), torch.zeros(24, dtype=torch.complex64)])
def test_a_number_of_another_kind_does_not_fit(tmp_path, odd):
    spec = tiny_var(checkpoint=FILES)
    state = {part: random_tensors(m, 3, torch.device("cpu")) for part, m in meta_modules(spec).items()}
    torch.save(state["transformer"] | {"head.bias": odd}, tmp_path / "tiny.pth")
    torch.save(state["tokenizer"], tmp_path / "vae.pth")
    with pytest.raises(CheckpointError, match=r"1 of another kind \(head\.bias"):
        build_sampler(spec, weights=str(tmp_path))
    torch.save(state["transformer"] | {"lvl_1L": state["transformer"]["lvl_1L"] + 99}, tmp_path / "tiny.pth")
    with pytest.raises(CheckpointError, match=r"in lvl_1L, which is out of range"):
        build_sampler(spec, weights=str(tmp_path))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."]
)
@pytest.mark.parametrize("wrapper", [(), ("state_dict",), ("model",), ("ema",), ("checkpoint", "model_state_dict")])
def test_wrappers_are_removed(tmp_path, prefix, wrapper):
    content = {prefix + name: tensor for name, tensor in STATE.items()}
    for key in reversed(wrapper):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"step": torch.zeros(1)}}, "param_groups": []}}
    torch.save(content, tmp_path / "x.pt")
    assert equal(read_tensors(tmp_path / "x.pt"))


def test_compiled_blocks_have_their_own_names_again(tmp_path):
    torch.save({"blocks.0._orig_mod.w": torch.ones(1), "head.w": torch.ones(1)}, tmp_path / "x.pt")
    assert read_tensors(tmp_path / "x.pt").keys() == {"blocks.0.w", "head.w"}
    torch.save({"blocks.0._orig_mod.w": torch.ones(1), "blocks.0.w": torch.ones(1)}, tmp_path / "x.pt")
    assert "blocks.0.w twice" in refused(tmp_path / "x.pt")


def test_several_state_dicts_are_named_unless_the_model_says_which(tmp_path):
    torch.save({"model": STATE, "ema": {"a.weight": torch.zeros(1)}}, tmp_path / "x.pt")
    assert "several state dicts (ema, model)" in refused(tmp_path / "x.pt")
    assert equal(read_tensors(tmp_path / "x.pt", [["model"]]))
    torch.save(STATE | {"epoch": 3}, tmp_path / "x.pt")
    assert "2 tensors and beside them epoch" in refused(tmp_path / "x.pt")


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    spec = tiny_var(checkpoint=FILES)
    for part, module in meta_modules(spec).items():
        name = {"transformer": "tiny.pth", "tokenizer": "vae.pth"}[part]
        torch.save(random_tensors(module, 3, torch.device("cpu")), folder / name)
    return spec, folder


def test_a_repository_in_the_hugging_face_cache_is_its_current_snapshot(tmp_path, files):
    spec, folder = files
    repository = tmp_path / "models--nobody--nothing"
    for revision in ("111", "222"):
        shutil.copytree(folder, repository / "snapshots" / revision)
    with pytest.raises(CheckpointError, match="give one of the folders in"):
        build_sampler(spec, weights=str(repository))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("222\n")
    (repository / "snapshots" / "111" / "tiny.pth").write_bytes(b"")
    build_sampler(spec, weights=str(repository))


def test_names_in_upper_case_are_found_and_shards_get_a_hint(files):
    spec, folder = files
    (folder / "tiny.pth").rename(folder / "TINY.PTH")
    build_sampler(spec, weights=str(folder))
    (folder / "TINY.PTH").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tiny\.pth is missing.*holds shards: merge them"):
        build_sampler(spec, weights=str(folder))


@st.composite
def damaged(draw) -> bytes:
    """Return a file of weights with bytes replaced, and perhaps cut."""
    content = bytearray(CONTAINERS[draw(st.sampled_from(sorted(CONTAINERS)))])
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(len(content) // 2, len(content)))])


@pytest.mark.fuzz
@given(content=damaged() | st.binary(max_size=200), name=st.sampled_from(["x.pth", "x.safetensors"]))
def test_any_bytes_are_a_state_dict_or_one_line(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        tensors = read_tensors(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())


@pytest.mark.fuzz
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", "x.y"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "F8_E4M3", "F4", "BOOL", "U64", "C64", "X", 3]),
                "shape": st.lists(st.integers(-1, 2**40), max_size=3),
                "data_offsets": st.lists(st.integers(0, 2**40) | st.integers(0, 32), min_size=2, max_size=2),
            }
        )
        | st.none()
        | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        max_size=3,
    ),
    claimed=st.none() | st.integers(0, 2**64 - 1),
    data=st.binary(max_size=32),
)
def test_any_header_is_a_state_dict_or_one_line(tmp_path_factory, header, claimed, data):
    text = json.dumps(header).encode()
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes((len(text) if claimed is None else claimed).to_bytes(8, "little") + text + data)
    try:
        read_tensors(path)
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_a_safetensors_file_of_no_tensors_holds_no_state_dict(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    assert "no state dict" in refused(tmp_path / "x.safetensors")
