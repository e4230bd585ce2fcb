"""Images of the cases of a suite, shared among processes that know nothing of one another.

Every process draws its range of each case's images and keeps their features; nothing is timed. Folders of shards are
joined to a run folder, after the proof that every image 0..N-1 is there once. A run in that folder times the cases, and
takes the features as they are: its records are those of one process.

    OUT/shard-00001-of-00008/features/CASE/TASK/chunk-000000.safetensors, shard.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from arvbench.errors import UserError
from arvbench.harness.jobs import FEATURES_FOLDER, SHARED_PREFIX, EventListener, Job, Part, Shard
from arvbench.harness.quality.features.shards import NOTE_NAME, note_shard
from arvbench.harness.suites.suite import Case


def draw_share(case: Case, shard: Shard, folder: Path, files: Mapping[str, Path], listener: EventListener) -> range:
    """Keep the features of a shard of a case's images below the run folder `folder`; return the image numbers.

    `files` are extractor weights that the user named. Raises UserError, HostError.
    """
    from arvbench.harness.machine.limits import set_threads
    from arvbench.harness.measure.case_quality import measure_case_features
    from arvbench.harness.quality.evaluation import shard_images
    from arvbench.harness.quality.images.live import load_case_sampler

    config = case.config
    if config.quality is None:
        raise UserError(f"{case.title} asks for no quality: it has no images to share")
    set_threads(config.threads)
    sampler, settings = load_case_sampler(config)
    if sampler.weights.random:
        raise UserError(f"{case.title}: random weights have no quality")
    job = Job(record_id="", case=config, folder=folder, extractor_files=dict(files), part=Part.QUALITY, shard=shard)
    work = measure_case_features(job, sampler, settings, listener)
    note_shard(work, config.quality.images, shard, sampler.device, case=case.title)
    return shard_images(config.quality.images, shard)


def case_shards(folders: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return the shards of every case below run folders, or folders of them, by their place in a run folder.

    Machines with other GPUs name the last folder of a place otherwise: the first name stands, and reading the shards
    says what differs.
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        pattern = f"{FEATURES_FOLDER}/*/*/{NOTE_NAME}"
        for note in sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")]):
            if not note.parent.parent.name.startswith((SHARED_PREFIX, ".")):
                found.setdefault(note.parent.parent.name, []).append(note.parent)
    return {Path(FEATURES_FOLDER) / name / shards[0].name: shards for name, shards in found.items()}
