"""Lazy tables: one line of text per entry, imported when it is first used.

A table can be read, searched and diffed; listing it imports nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

from arvbench.errors import ContractError, HostError, UnknownName

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Map names to objects given as "module:attribute" or "module:Holder.attribute", imported on access.

    `REGISTRY["typo"]` raises UnknownName with near misses. An entry that cannot be imported, whatever its module
    raises, and one with a complaint raise HostError: each costs its own name and no other.
    """

    def __init__(
        self, kind: str, entries: Mapping[str, str], complaint: Callable[[str, object], str] = lambda _name, _value: ""
    ) -> None:
        """Take a table. `complaint` says what is wrong with the object of a name; "" for nothing."""
        self.kind = kind
        self._entries = dict(entries)
        self._complaint = complaint

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        # An entry point may end in "[extras]", which say what its distribution needs.
        module_name, _, attributes = self._entries[name].partition("[")[0].strip().partition(":")
        try:
            value = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            reason = f"importing {module_name} failed ({_one_line(error)})"
            raise HostError(f"{self.kind} {name!r} cannot be used: {reason}") from error
        try:
            for attribute in attributes.split("."):
                value = getattr(value, attribute)
        except Exception as error:
            reason = f"{self.kind} {name!r}: {module_name} has no {attributes!r}"
            raise (ContractError if module_name.startswith("arvbench.") else HostError)(reason) from error
        if reason := self._complaint(name, value):
            raise HostError(f"{self.kind} {name!r} cannot be used: {reason}")
        return cast(T, value)

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


def _one_line(error: BaseException) -> str:
    """Return the type of an error and the beginning of its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
