"""Errors raised on purpose, and the exit codes of all verbs; anything else that escapes is a bug.

ArvbenchError
  UserError          bad flag, value or file                    exit 2, one line
    UnknownName      a name that is not in a registry; names the nearest
    CheckpointError  a weights file that cannot be used; says why
  HostError          no GPU, missing driver, too little memory  exit 3, one line
  UnusableError      numbers that can be judged are missing     exit 6, one line
  ContractError      an adapter or kernel broke its protocol    exit 70, traceback
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

from arvbench.interrupts import EXIT_INTERRUPTED


class ExitCode(IntEnum):
    """Exit codes of all verbs; each has its meaning in one phrase."""

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    meaning: str

    OK = 0, "all went well; a check passed"
    FAILURES = 1, "finished with failures; a check found a regression; a number is not reproduced"
    BAD_INPUT = 2, "bad input"
    HOST = 3, "this machine lacks something"
    MACHINE = 4, "the machine moved during a check: no code is blamed"
    INCONCLUSIVE = 5, "no verdict: the noise hides changes that matter, or the images are too few"
    UNUSABLE = 6, "numbers are missing or are none: nothing passes by absence"
    BUG = 70, "a bug, with its traceback"
    INTERRUPTED = EXIT_INTERRUPTED, "interrupted"


class ArvbenchError(Exception):
    """Base of all errors raised on purpose; the command line ends with `exit_code`."""

    exit_code: int = ExitCode.BUG


class UserError(ArvbenchError):
    """A mistake that the caller can correct; the message states the remedy."""

    exit_code = ExitCode.BAD_INPUT


class UnknownName(UserError):
    """A name that is not in its table; the message names near misses."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no {kind} {name!r}; {near_misses(name, known)}")


class CheckpointError(UserError):
    """A weights file that is missing, damaged, unsafe or made for another model."""


class HostError(ArvbenchError):
    """A device, library or resource that this machine lacks."""

    exit_code = ExitCode.HOST


class UnusableError(ArvbenchError):
    """Numbers that a judgement needs are missing, or are none."""

    exit_code = ExitCode.UNUSABLE


class ContractError(ArvbenchError):
    """An adapter or a kernel broke the protocol it promises to keep."""


def near_misses(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" with the names closest to `name`, or all known ones when none is close."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"


def complaint(error: ValidationError, known: Mapping[str, Iterable[str]]) -> str:
    """Return the first complaint of pydantic as one line that names the key.

    `known` are the names of keys by the path of the mapping that has them; "" is the outermost mapping.
    """
    # A misspelt key is also a missing one: the spelling is what helps.
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    path = [_printable(str(part)[:100]) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return f"unknown key {path[-1]!r}; {near_misses(path[-1], known.get('.'.join(path[:-1]), ()))}"
    if first["type"] in ("tuple_type", "list_type") and isinstance(first["input"], str):
        return f"{'.'.join(path)}: write a list, such as [{_printable(first['input'][:100])}]"
    given = "" if first["type"] == "missing" else f" (got {shown(first['input'])})"
    return f"{'.'.join(path) or 'content'}: {first['msg']}{given}"


def _printable(text: str) -> str:
    """Return a key or a value from outside with what would break the line escaped."""
    return text if text.isprintable() else repr(text)


class _Short(reprlib.Repr):
    """Repr of bounded length and time, whatever is nested in a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 100, 100
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 4

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits.
        return repr(x) if x.bit_length() < 200 else f"a number of {x.bit_length():,} bits"


_SHORT = _Short()


def shown(value: Any) -> str:
    """Return a short form of a value from outside, for a message: long texts and lists are cut in the middle."""
    return _SHORT.repr(value)
