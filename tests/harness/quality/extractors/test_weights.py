"""Weights of extractors: the places to look for them, their order, and the error when they are missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UnknownName, UserError
from arvbench.harness.quality.extractors import weights as table
from arvbench.harness.quality.extractors.weights import WEIGHTS, ExtractorWeights, checked_digest, find_weights

FIDELITY = "weights-inception-2015-12-05-6726825d.pth"
PYTORCH_FID = "pt_inception-2015-12-05-6726825d.pth"
CLIP = WEIGHTS["clip-vit-b-32"]


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    """A machine without weights, on which nothing is fetched."""
    for entry in WEIGHTS.values():
        monkeypatch.delenv(entry.variable, raising=False)
    monkeypatch.delenv("ARVBENCH_DOWNLOAD", raising=False)
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("downloaded"))


def file_at(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def in_cache(tmp_path, name: str) -> Path:
    return file_at(tmp_path / "cache" / "weights" / name)


@pytest.mark.parametrize("entry", WEIGHTS.values(), ids=list(WEIGHTS))
def test_entries_are_complete(entry: ExtractorWeights):
    assert WEIGHTS[entry.name] is entry
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256), "a digest is known whole or says that it is not"
    assert entry.url.startswith("https://")
    assert entry.url.endswith(f"/{entry.file_name}")
    assert entry.variable.startswith("ARVBENCH_")


def test_digests_agree_with_names_and_addresses():
    for name in ("inception", "pytorch-fid-inception"):
        assert WEIGHTS[name].sha256.startswith(re.search(r"-([0-9a-f]{8})\.pth$", WEIGHTS[name].file_name)[1])
    for name in ("clip-vit-b-32", "clip-vit-l-14-336"):
        assert f"/{WEIGHTS[name].sha256}/" in WEIGHTS[name].url


def test_the_order_is_path_then_variable_then_cache(tmp_path, monkeypatch):
    cached = in_cache(tmp_path, FIDELITY)
    assert find_weights("inception", {}) == cached
    named = file_at(tmp_path / "named.pth")
    monkeypatch.setenv("ARVBENCH_INCEPTION", str(named))
    assert find_weights("inception", {}) == named
    user_file = file_at(tmp_path / "given.pth")
    assert find_weights("inception", {"inception": user_file}) == user_file
    assert find_weights("inception", {"clip-vit-b-32": user_file}) == named


def test_hugging_face_cache_comes_after_ours(tmp_path, monkeypatch):
    on_hub = file_at(tmp_path / "hub" / CLIP.hub[1])
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repo, name: str(on_hub) if (repo, name) == CLIP.hub else None
    )
    assert find_weights("clip-vit-b-32", {}) == on_hub
    cached = in_cache(tmp_path, "ViT-B-32.pt")
    assert find_weights("clip-vit-b-32", {}) == cached


def test_the_hub_is_used_only_with_the_variable_set(tmp_path, monkeypatch):
    fetched = file_at(tmp_path / "fetched.safetensors")
    with pytest.raises(UserError):
        find_weights("clip-vit-b-32", {})
    requests = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *what: requests.append(what) or str(fetched))
    for value in ("", "0", "no"):
        monkeypatch.setenv("ARVBENCH_DOWNLOAD", value)
        with pytest.raises(UserError):
            find_weights("clip-vit-b-32", {})
    assert not requests
    monkeypatch.setenv("ARVBENCH_DOWNLOAD", "1")
    assert find_weights("clip-vit-b-32", {}) == fetched
    assert requests == [CLIP.hub]


def test_a_failed_download_names_the_remedy(monkeypatch):
    def offline(*_):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setenv("ARVBENCH_DOWNLOAD", "1")
    with pytest.raises(CheckpointError, match=rf"could not get .*LocalEntryNotFoundError.*{re.escape(CLIP.url)}"):
        find_weights("clip-vit-b-32", {})


@pytest.mark.parametrize("entry", WEIGHTS.values(), ids=list(WEIGHTS))
def test_a_missing_file_is_named_with_address_digest_and_place(entry, tmp_path):
    with pytest.raises(UserError) as error:
        find_weights(entry.name, {})
    said = str(error.value)
    parts = (entry.file_name, entry.url, entry.sha256, str(tmp_path / "cache" / "weights"), f"{entry.variable}=PATH")
    assert [part for part in parts if part not in said] == []
    assert ("--inception-weights PATH" in said) == ("inception" in entry.name and "torchscript" not in entry.name)
    assert ("ARVBENCH_DOWNLOAD=1" in said) == (entry.hub is not None)


@pytest.mark.parametrize("length", [0, 8, 64])
def test_error_states_no_more_of_a_digest_than_is_known(monkeypatch, length):
    entry = ExtractorWeights(
        name="new", file_name="new.pth", url="https://host/new.pth", sha256="ab" * (length // 2), variable="NEW"
    )
    monkeypatch.setitem(table.WEIGHTS, "new", entry)
    with pytest.raises(UserError) as error:
        find_weights("new", {})
    expected = {0: "(sha256 unknown)", 8: "(sha256 abababab...)", 64: f"(sha256 {'ab' * 32})"}[length]
    assert expected in str(error.value)


def test_path_that_is_not_there_is_named_with_where_it_came_from(tmp_path, monkeypatch):
    in_cache(tmp_path, FIDELITY)  # a named file is not replaced by a cached one
    with pytest.raises(UserError, match=r"no inception weights at .*nowhere\.pth \(--inception-weights PATH\)"):
        find_weights("inception", {"inception": tmp_path / "nowhere.pth"})
    monkeypatch.setenv("ARVBENCH_INCEPTION", str(tmp_path / "gone.pth"))
    with pytest.raises(UserError, match=r"gone\.pth \(\$ARVBENCH_INCEPTION\)"):
        find_weights("inception", {})
    monkeypatch.setenv("ARVBENCH_INCEPTION", str(tmp_path))
    with pytest.raises(UserError, match="no inception weights at"):
        find_weights("inception", {})


def test_home_folder_is_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = file_at(tmp_path / "mine.pth")
    assert find_weights("inception", {"inception": Path("~/mine.pth")}) == mine
    monkeypatch.delenv("ARVBENCH_CACHE")
    cached = file_at(tmp_path / ".cache" / "arvbench" / "weights" / FIDELITY)
    assert find_weights("inception", {}) == cached


def test_one_file_serves_both_names_of_the_same_bytes(tmp_path, monkeypatch):
    cached = in_cache(tmp_path, PYTORCH_FID)
    assert find_weights("inception", {}) == cached
    user_file = file_at(tmp_path / "given.pth")
    assert find_weights("pytorch-fid-inception", {"inception": user_file}) == user_file
    monkeypatch.setenv("ARVBENCH_INCEPTION", str(user_file))
    assert find_weights("pytorch-fid-inception", {}) == user_file
    with pytest.raises(UserError):
        find_weights("inception-torchscript", {"inception": user_file})


def test_unknown_name_is_refused():
    with pytest.raises(UnknownName, match="inception"):
        find_weights("incepton", {})


@pytest.mark.parametrize("name", [FIDELITY, PYTORCH_FID])
def test_published_name_with_other_bytes_is_damaged(tmp_path, name):
    path = file_at(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"is damaged: its sha256 is .*6726825d0af5.*fetch it again from https"):
        checked_digest(path, WEIGHTS["inception"])


def test_other_names_may_hold_other_bytes_and_that_is_noted(tmp_path):
    path = file_at(tmp_path / "mine.pth")
    digest = checked_digest(path, WEIGHTS["inception"])
    assert digest == sha256_of(path)
    assert (
        WEIGHTS["inception"].note(path, digest)
        == f"inception weights are not the published ones (sha256 {digest[:12]}...)"
    )


def test_published_bytes_are_passed_under_any_name_without_a_note(tmp_path):
    path = file_at(tmp_path / "renamed.pth")
    entry = ExtractorWeights(
        name="new", file_name="new.pth", url="https://host/new.pth", sha256=sha256_of(path), variable="NEW"
    )
    assert entry.note(path, checked_digest(path, entry)) == ""
    assert entry.note(file_at(tmp_path / "new.pth"), checked_digest(tmp_path / "new.pth", entry)) == ""


def test_other_container_and_unknown_digest_are_noted_as_such(tmp_path):
    assert "another container than ViT-B-32.pt" in CLIP.note(Path(CLIP.hub[1]), "0" * 64)
    unknown = ExtractorWeights(name="new", file_name="new.pth", url="https://host/new.pth", sha256="", variable="NEW")
    path = file_at(tmp_path / "new.pth")
    assert "digest unknown" in unknown.note(path, checked_digest(path, unknown))
