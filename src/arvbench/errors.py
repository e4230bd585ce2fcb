"""Errors raised on purpose; anything else that escapes is a bug.

ArvbenchError
  UserError          bad flag, value or file                    exit 2, one line
    UnknownName      a name that is not in a registry; names the nearest
    CheckpointError  a weights file that cannot be used; says why
  HostError          no GPU, missing driver, too little memory  exit 3, one line
  ContractError      an adapter or kernel broke its protocol    exit 70, traceback
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArvbenchError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 70


class UserError(ArvbenchError):
    """Something the caller can put right; the message says how."""

    exit_code = 2


class UnknownName(UserError):
    """A name that is in no registry; the message names near misses."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"no {kind} {name!r}; {hint}")


class CheckpointError(UserError):
    """A weights file that is missing, damaged, unsafe or of another model."""


class HostError(ArvbenchError):
    """This machine lacks what was asked for."""

    exit_code = 3


class ContractError(ArvbenchError):
    """An adapter or a kernel broke the protocol it promises to keep."""
