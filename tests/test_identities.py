"""Ids, names, plans and texts that users and records rely on are those of the committed files; others may join."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

import pytest
from identities import FOLDER, IDENTITIES

LIBRARIES = {"torch-fidelity": "0.4.0", "clean-fid": "0.1.35"}
"""Their versions are part of protocol ids."""


def entries(name: str, text: str) -> dict[str, object]:
    """The entries of an identity file: JSON by key or model, help by verb, other texts by line."""
    if name == "help.txt":
        program, *verbs = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
        return dict(verb.partition("\n")[::2] for verb in verbs) | dict.fromkeys(program.splitlines())
    if name.endswith(".json"):
        content = json.loads(text)
        return content if isinstance(content, dict) else {entry["name"]: entry for entry in content}
    return dict.fromkeys(text.splitlines())


@pytest.mark.parametrize("name", IDENTITIES)
def test_nothing_that_is_relied_on_has_changed(name):
    if name == "protocol_ids.json" and any(version(library) != pinned for library, pinned in LIBRARIES.items()):
        pytest.skip("protocol ids contain the versions of metric libraries, and those pinned are not installed")
    committed, current = (
        entries(name, text) for text in ((FOLDER / name).read_text(encoding="utf-8"), IDENTITIES[name]())
    )
    changed = {
        key: (value, current.get(key, "is gone"))
        for key, value in committed.items()
        if key not in current or current[key] != value
    }
    assert not changed
    assert [key for key in current if key in committed] == list(committed), "in another order"
