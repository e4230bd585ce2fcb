"""Lazy tables: one line of text per entry, imported when it is first used.

A table can be read, searched and diffed, and listing it imports nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from arvbench.errors import ContractError, UnknownName

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Map names to objects given as "module:attribute"; import happens on access.

    `REGISTRY["typo"]` raises UnknownName with near misses.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        module, _, attribute = self._entries[name].partition(":")
        try:
            return cast(T, getattr(importlib.import_module(module), attribute))
        except AttributeError as error:
            raise ContractError(f"{self.kind} {name!r}: {module} has no {attribute!r}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
