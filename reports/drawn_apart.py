"""Figures of a large report, drawn by a second process while this one makes and writes the tables.

The process is a fork: it has the records already, which would take longer to hand over than the figures to draw. A fork
copies one thread alone, so there is none where other threads may hold locks: beside torch, and beside other Python
threads. Whatever goes wrong there, the figures are drawn here, and an error of a figure is met here.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeAlias

from arvbench.reports.sections import Figure
from arvbench.reports.svg import InlineFigure, inline_figures
from arvbench.results.schema import Record

FROM_RECORDS = 200
"""Records of a report from which a second process pays."""
Drawn: TypeAlias = dict[str, InlineFigure | None]
"""Name of a figure -> the figure, or None where the records have nothing for it."""


@contextmanager
def drawn_apart(figures: Sequence[Figure], records: Sequence[Record]) -> Iterator[Callable[[], Drawn]]:
    """Begin to draw figures, and yield a function that returns them when they are finished."""
    if len(records) < FROM_RECORDS or not _may_fork():
        yield lambda: _draw(figures, records)
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, figures, records), daemon=True)
    process.start()
    sender.close()

    def finished() -> Drawn:
        try:
            drawn: Drawn = receiver.recv()
        except EOFError:
            return _draw(figures, records)
        return drawn

    try:
        yield finished
    finally:
        receiver.close()
        process.kill()
        process.join()


def _may_fork() -> bool:
    several = len(os.sched_getaffinity(0)) > 1 if hasattr(os, "sched_getaffinity") else False
    return several and "torch" not in sys.modules and threading.active_count() == 1


def _draw(figures: Sequence[Figure], records: Sequence[Record]) -> Drawn:
    return inline_figures({figure.name: figure.draw for figure in figures}, records)


def _leave_artists_undocumented() -> None:
    """Keep matplotlib from listing the properties of its artists for `help`, a third of the time that its import takes.

    In a process of its own, where nobody can ask for them.
    """
    import matplotlib.artist

    matplotlib.artist.kwdoc = lambda artist: ""
    for name, nothing in (("get_setters", list), ("get_aliases", dict)):
        setattr(matplotlib.artist.ArtistInspector, name, lambda artist, nothing=nothing: nothing())


def _send(sender: Connection, figures: Sequence[Figure], records: Sequence[Record]) -> None:
    """Draw and send; on an error nothing is sent, and the other process draws and reports."""
    try:
        _leave_artists_undocumented()
        drawn = _draw(figures, records)
    except BaseException:
        os._exit(1)
    sender.send(drawn)
