"""Official reference files are found by their published names."""

from __future__ import annotations

from pathlib import Path

import pytest

from arvbench.errors import UserError
from arvbench.harness.quality.reference.official import (
    PUBLISHED,
    REFERENCES_VARIABLE,
    STATED_IMAGES,
    find_reference,
    recognise,
)


def test_an_official_reference_is_found_by_its_name(tmp_path, monkeypatch):
    name = "VIRTUAL_imagenet256_labeled.npz"
    monkeypatch.delenv(REFERENCES_VARIABLE, raising=False)
    with pytest.raises(
        UserError, match=rf"{name} is not here; fetch it from https://.*/256/{name}.*{REFERENCES_VARIABLE}"
    ):
        find_reference(name)
    monkeypatch.setenv(REFERENCES_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=f"not in {tmp_path}"):
        find_reference(name)
    (tmp_path / name).write_bytes(b"not read here")
    assert find_reference(name) == str(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(REFERENCES_VARIABLE)
    assert find_reference(name) == name


def test_other_references_are_left_alone():
    assert find_reference("digits") == "digits"
    assert find_reference("/no/such/folder") == "/no/such/folder"


def test_a_file_of_unknown_digest_is_recognised_by_name_and_number_and_size_of_its_images():
    path, other = Path("VIRTUAL_imagenet64_labeled.npz"), "0" * 64
    found, (note,) = recognise(path, other, STATED_IMAGES, (64, 64))
    assert found is PUBLISHED["adm-imagenet64"] and "digest of that is unknown" in note
    for images, shape in ((40, (64, 64)), (STATED_IMAGES, (32, 32)), (0, None)):
        assert recognise(path, other, images, shape)[0] is None
