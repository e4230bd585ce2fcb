"""Shards of an evaluation: what each machine extracted, and the proof that together they are the whole.

A shard is a work folder with the chunks of a range of image numbers and `shard.json`, which says which range, and on
which machine. Merged, the chunks are those of one process: on equal hardware the numbers are equal, bit for bit.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arvbench.disk import cannot_write
from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.harness.jobs import Shard
from arvbench.harness.machine.installed import cpu_name
from arvbench.harness.quality.features.chunks import TASK_NAME, check_chunk, chunk_count, chunk_path, chunk_range
from arvbench.paths import regular_file

NOTE_NAME = "shard.json"
MERGED_NAME = "merged.json"
_MOST_NOTE_BYTES = 2**20


class Machine(BaseModel):
    """Where a shard was extracted: what the last bits of its features can depend on, and the machine's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    cpu: str
    gpu: str | None

    @property
    def hardware(self) -> str:
        return self.gpu or self.cpu


class ShardNote(BaseModel):
    """Content of `shard.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    """Of the whole evaluation."""
    index: int = Field(ge=1)
    count: int = Field(ge=1)
    machine: Machine
    case: str = ""
    """Case of a suite whose images they are; "" for images in files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which image numbers the shards have; they are the whole when nothing is missing, doubled or damaged."""

    images: int
    missing: tuple[range, ...]
    doubled: tuple[tuple[range, tuple[Path, ...]], ...]
    damaged: tuple[str, ...]
    machines: tuple[Machine, ...]
    """Each once, in the order of the shards."""
    case: str = ""
    """Case of a suite whose images they are; "" for images in files."""

    @property
    def whole(self) -> bool:
        return not (self.missing or self.doubled or self.damaged)

    @property
    def hardware(self) -> tuple[str, ...]:
        """Different processors or GPUs; with more than one, last bits may differ from those of one machine."""
        return tuple(dict.fromkeys(machine.hardware for machine in self.machines))

    @property
    def mixture(self) -> str:
        """Sentence about different hardware."""
        kinds = "; ".join(self.hardware)
        return f"{len(self.hardware)} kinds of hardware ({kinds}): last bits may differ from those of one machine"


def note_shard(folder: Path, images: int, shard: Shard, device: torch.device | str, *, case: str = "") -> None:
    """Write `shard.json` into a finished shard. Raises HostError for a full disk."""
    device = torch.device(device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    machine = Machine(host=platform.node(), cpu=cpu_name(), gpu=gpu)
    note = ShardNote(images=images, index=shard.index, count=shard.count, machine=machine, case=case)
    try:
        write_whole(folder / NOTE_NAME, note.model_dump_json(indent=1, exclude_defaults=True))
    except OSError as error:
        raise cannot_write(folder / NOTE_NAME, error, kept="finished chunks are intact") from error


def shard_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the shards among folders: those with `shard.json`, else their subfolders with one.

    Raises UserError for a folder without any, and for one that is named twice.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path] if (path / NOTE_NAME).is_file() else sorted(p.parent for p in path.glob(f"*/{NOTE_NAME}"))
        if not inside:
            raise UserError(f"{path} is no shard and has none: there is no {NOTE_NAME} in it or one folder below")
        found += inside
    if len({folder.resolve() for folder in found}) < len(found):
        raise UserError("a shard is named twice")
    return found


def check_shards(folders: Sequence[Path]) -> Coverage:
    """Read every chunk of the shards, and check digests and image numbers.

    Raises UserError for shards of different evaluations, naming what differs.
    """
    notes = [_note(folder) for folder in folders]
    _check_one_task(folders)
    if len({note.images for note in notes}) > 1:
        raise UserError("the shards are of different numbers of images")
    images, places = notes[0].images, _places(folders)
    total = chunk_count(images)
    damaged = [f"{places[chunk][0]}: no chunk of {images} images" for chunk in places if not 0 <= chunk < total]
    for paths in places.values():
        for path in paths:
            try:
                check_chunk(path)
            except UserError as error:
                damaged.append(str(error))
    missing = _joined([chunk_range(chunk, images) for chunk in range(total) if chunk not in places])
    doubled = [(chunk_range(chunk, images), tuple(paths)) for chunk, paths in places.items() if len(paths) > 1]
    return Coverage(
        images=images,
        missing=missing,
        doubled=tuple(doubled),
        damaged=tuple(damaged),
        machines=tuple(dict.fromkeys(note.machine for note in notes)),
        case=notes[0].case,
    )


def merge_shards(folders: Sequence[Path], coverage: Coverage, out: Path) -> None:
    """Put all chunks into the work folder `out`, which an evaluation reads. Raises UserError, HostError.

    The name of the task comes last: a folder that a kill left half is no work folder.
    """
    task = (folders[0] / TASK_NAME).read_bytes()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / MERGED_NAME).is_file():
            raise UserError(f"{out} is not empty; choose another folder")
        hosts = "\n".join(machine.model_dump_json() for machine in coverage.machines)
        write_whole(out / MERGED_NAME, hosts + "\n")
        for paths in _places(folders).values():
            write_whole(out / paths[0].name, paths[0].read_bytes())
        write_whole(out / TASK_NAME, task)
    except OSError as error:
        raise cannot_write(f"to {out}", error) from error


def _note(folder: Path) -> ShardNote:
    path = folder / NOTE_NAME
    try:
        regular_file(path, most_bytes=_MOST_NOTE_BYTES)
        return ShardNote.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} is not the note of a shard") from error


def _check_one_task(folders: Sequence[Path]) -> None:
    """Raise UserError where shards are of different images, extractors or versions."""
    first: list[str] | None = None
    for folder in folders:
        try:
            lines = (folder / TASK_NAME).read_text(errors="surrogateescape").splitlines()
        except OSError as error:
            raise UserError(f"{folder} has no {TASK_NAME}: it is no work folder") from error
        if first is None:
            first = lines
        elif lines != first:
            differing = next((a, b) for a, b in zip([*first, ""], [*lines, ""], strict=False) if a != b)
            raise UserError(
                f"{folders[0]} and {folder} are shards of different evaluations: {differing[0]!r}, {differing[1]!r}"
            )


def _places(folders: Sequence[Path]) -> dict[int, list[Path]]:
    """Return the files of every chunk, by its number."""
    places: dict[int, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob("chunk-*.safetensors")):
            number = path.stem.removeprefix("chunk-")
            if number.isdigit() and path == chunk_path(folder, int(number)):
                places.setdefault(int(number), []).append(path)
    return dict(sorted(places.items()))


def _joined(ranges: Sequence[range]) -> tuple[range, ...]:
    """Join ranges that follow one another."""
    joined: list[range] = []
    for one in ranges:
        if joined and joined[-1].stop == one.start:
            joined[-1] = range(joined[-1].start, one.stop)
        else:
            joined.append(one)
    return tuple(joined)
