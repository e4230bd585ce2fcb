"""Figures of a large report, drawn by a second process while this one makes and writes the tables.

The process is a fork: it has the records already, which would take longer to hand over than the figures to draw. A fork
copies one thread alone, so there is none where other threads may hold locks: beside torch, and beside other Python
threads. Whatever goes wrong there, the figures are drawn here, and an error of a figure is met here.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeAlias

from arvbench.reports.sections import Figure
from arvbench.reports.svg import DrawnFigure, InlineFigure, drawn_figures, with_link
from arvbench.results.schema import Record

FROM_RECORDS = 200
"""Records of a report from which a second process pays."""
Drawn: TypeAlias = dict[str, InlineFigure | None]
"""Name of a figure -> the figure, or None where the records have nothing for it."""
_Named: TypeAlias = tuple[str, DrawnFigure | None]


@contextmanager
def drawn_apart(figures: Sequence[Figure], records: Sequence[Record]) -> Iterator[Callable[[], Drawn]]:
    """Begin to draw figures, and yield a function that returns them when they are finished."""
    if len(records) < FROM_RECORDS or not _may_fork():
        yield lambda: dict(_links(_draw(figures, records)))
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, figures, records), daemon=True)
    process.start()
    sender.close()
    arrived = queue.SimpleQueue[_Named | None]()
    # A pipe holds 64 KiB: without a reader the process would wait after its first figure.
    reader = threading.Thread(target=_receive, args=(receiver, arrived), daemon=True)
    reader.start()

    def finished() -> Drawn:
        drawn = dict(_links(iter(arrived.get, None)))
        return drawn if len(drawn) == len(figures) else dict(_links(_draw(figures, records)))

    try:
        yield finished
    finally:
        process.kill()
        process.join()
        reader.join()
        receiver.close()


def _may_fork() -> bool:
    several = len(os.sched_getaffinity(0)) > 1 if hasattr(os, "sched_getaffinity") else False
    return several and "torch" not in sys.modules and threading.active_count() == 1


def _draw(figures: Sequence[Figure], records: Sequence[Record]) -> Iterator[_Named]:
    return drawn_figures({figure.name: figure.draw for figure in figures}, records)


def _links(figures: Iterable[_Named]) -> Iterator[tuple[str, InlineFigure | None]]:
    """Make links of the data of figures: here, where there is time while the last of them are drawn."""
    return ((name, None if drawn is None else with_link(drawn)) for name, drawn in figures)


def _receive(receiver: Connection, arrived: queue.SimpleQueue[_Named | None]) -> None:
    """Take figures in as they are drawn; None is behind the last."""
    try:
        with suppress(EOFError, OSError):
            while True:
                arrived.put(receiver.recv())
    finally:
        arrived.put(None)


def _leave_artists_undocumented() -> None:
    """Keep matplotlib from listing the properties of its artists for `help`, a third of the time that its import takes.

    In a process of its own, where nobody can ask for them.
    """
    import matplotlib.artist

    matplotlib.artist.kwdoc = lambda artist: ""
    for name, nothing in (("get_setters", list), ("get_aliases", dict)):
        setattr(matplotlib.artist.ArtistInspector, name, lambda artist, nothing=nothing: nothing())


def _send(sender: Connection, figures: Sequence[Figure], records: Sequence[Record]) -> None:
    """Draw and send; after an error nothing more is sent, and the other process draws and reports."""
    try:
        _leave_artists_undocumented()
        for figure in _draw(figures, records):
            sender.send(figure)
    except BaseException:
        os._exit(1)
