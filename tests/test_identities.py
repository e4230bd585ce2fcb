"""Ids, names, plans and texts that users and records rely on are those of the committed files."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from identities import FOLDER, IDENTITIES

LIBRARIES = {"torch-fidelity": "0.4.0", "clean-fid": "0.1.35"}
"""Their versions are part of protocol ids."""


@pytest.mark.parametrize("name", IDENTITIES)
def test_nothing_that_is_relied_on_has_changed(name):
    if name == "protocol_ids.json" and any(version(library) != pinned for library, pinned in LIBRARIES.items()):
        pytest.skip("protocol ids contain the versions of metric libraries, and those pinned are not installed")
    assert IDENTITIES[name]() == (FOLDER / name).read_text(encoding="utf-8")
