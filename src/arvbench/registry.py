"""Lazy tables: one line of text per entry, imported when it is first used.

A table can be read, searched and diffed; listing it imports nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

from arvbench.errors import ContractError, HostError, UnknownName

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Map names to objects given as "module:attribute", imported on access.

    `REGISTRY["typo"]` raises UnknownName with near misses, an entry whose import fails HostError.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        module_name, _, attribute = self._entries[name].partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise HostError(f"{self.kind} {name!r} cannot be used: importing {module_name} failed ({error})") from error
        if not hasattr(module, attribute):
            raise ContractError(f"{self.kind} {name!r}: {module_name} has no {attribute!r}")
        return cast(T, getattr(module, attribute))

    @contextmanager
    def scoped(self, name: str, target: str) -> Iterator[None]:
        """Add the entry `name` -> "module:attribute" for the length of a `with` block, as tests and notebooks do.

        Raises ContractError for a name that already exists: an entry is never replaced.
        """
        if name in self._entries:
            raise ContractError(f"{self.kind} {name!r} already exists: {self._entries[name]}")
        self._entries[name] = target
        try:
            yield
        finally:
            del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
