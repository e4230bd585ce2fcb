"""Features of the images of one evaluation, extracted by the nodes of a Ray cluster.

Every shard of the images is a task. Its chunks come back as files with digests, and are merged as `arvbench merge`
does: every image 0..N-1 once. The numbers are then made in the driver's process, as those of one machine are.
"""

from __future__ import annotations

import os
import platform
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from arvbench.errors import ArvbenchError, HostError, UserError
from arvbench.files import scratch_folder
from arvbench.harness.jobs import Event, EventListener, Shard
from arvbench.harness.quality.evaluation import EvaluationRequest, extract_shard
from arvbench.harness.quality.features.chunks import TASK_NAME, chunk_count
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.features.shards import NOTE_NAME, Coverage, check_shards, merge_shards, note_shard
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.source import FileImages, ImageSource, Provenance
from arvbench.harness.quality.reference import reference_files
from arvbench.harness.run.engines.cluster import ADDRESS, Cluster, Ended, Need, refused
from arvbench.harness.run.engines.parcels import pack, unpack
from arvbench.harness.run.engines.ray_tasks import Answer, Post
from arvbench.harness.run.ranks import Rank
from arvbench.paths import user_path

WHOLE = "whole"
"""Folder of the merged chunks, in the work folder of an evaluation."""
_NO_LIMIT_S = float("inf")
"""An evaluation has no deadline; that a node is gone is noticed by Ray."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Images and what is extracted from them, in terms that every node understands."""

    images: FileImages
    class_folders: bool
    provenance: Provenance
    count: int
    request: EvaluationRequest
    device: str
    extractor_files: Mapping[str, Path]

    @classmethod
    def of(
        cls, source: ImageSource, request: EvaluationRequest, device: str, extractor_files: Mapping[str, Path]
    ) -> Extraction:
        """Describe an opened source. Raises UserError for images that no other process can open."""
        if not isinstance(source.address, FileImages):
            raise UserError(f"{source.name} is not in files: nodes cannot read it")
        return cls(
            images=source.address.model_copy(update={"path": source.address.path.resolve()}),
            class_folders=request.class_folders,
            provenance=source.provenance,
            count=source.count,
            request=replace(request, reference=_anywhere(request.reference)),
            device=device,
            extractor_files={name: path.resolve() for name, path in extractor_files.items()},
        )


def _anywhere(reference: str | None) -> str | None:
    """Return a reference as it is named in any working folder."""
    return reference if reference is None or not reference_files(reference) else str(user_path(reference).resolve())


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """A cluster, and how much of it an evaluation takes."""

    cluster: Cluster
    most: int | None
    """Most tasks at once; None as many as there is room for."""
    retries: int
    """Further attempts at a shard whose node was lost."""
    accelerator: str | None

    def need(self, device: str) -> Need:
        """Return what a task takes: a core, and a GPU for features on one."""
        return Need(cpus=1, gpus=0 if device == "cpu" else 1, accelerator=self.accelerator)


def open_cluster(address: str | None) -> Cluster:
    """Connect to the cluster at `address`, else that of RAY_ADDRESS, else one on this machine."""
    return Cluster(address or os.environ.get(ADDRESS))


def extract_on_cluster(
    extraction: Extraction, work: Path, options: ClusterOptions, listener: EventListener
) -> Coverage | None:
    """Make the folder WHOLE of all chunks below `work`, and return what is in it. None where it was made before.

    Raises HostError for what the cluster or a node lacks, naming the node, and for shards that are not the whole.
    """
    return _SharedExtraction(extraction, work, options, listener).run()


class _SharedExtraction:
    """An extraction that the nodes of a cluster share."""

    def __init__(self, extraction: Extraction, work: Path, options: ClusterOptions, listener: EventListener) -> None:
        self._extraction, self._work, self._options, self._listener = extraction, work, options, listener
        self._need = options.need(extraction.device)
        self._stopping = threading.Event()
        self._telling = threading.Lock()
        self._done: dict[Shard, int] = {}

    def run(self) -> Coverage | None:
        whole = self._work / WHOLE
        if (whole / TASK_NAME).is_file():
            self._remove_shards()
            return None
        slots = self._options.cluster.slots(self._need)
        if not slots:
            raise HostError(f"the Ray cluster has no living node with {self._need}")
        shards = self._shards(min(self._options.most or slots, slots))
        waiting = [shard for shard in shards if not (self._folder(shard) / NOTE_NAME).is_file()]
        with ThreadPoolExecutor(max(1, len(waiting))) as pool:
            futures = [pool.submit(self._shard, shard) for shard in waiting]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # Ctrl-C too: the threads end with their tasks
                self._stopping.set()
                self._options.cluster.cancel()
                raise
        folders = [self._folder(shard) for shard in shards]
        coverage = check_shards(folders)
        if not coverage.whole:
            raise HostError(f"the shards in {self._work} are not the whole: arvbench merge {self._work} says why")
        merge_shards(folders, coverage, whole)
        self._remove_shards()
        return coverage

    def _shards(self, count: int) -> list[Shard]:
        """Return the shards: as many as an interrupted run of this evaluation had, else `count`."""
        notes = sorted(self._work.glob(f"shard-*-of-*/{NOTE_NAME}"))
        if notes:
            count = int(notes[0].parent.name.rpartition("-")[2])
        count = max(1, min(count, chunk_count(self._extraction.count)))
        return [Shard(index, count) for index in range(1, count + 1)]

    def _shard(self, shard: Shard) -> None:
        """Have a shard extracted, again after a lost node, and put it into its folder. Raises HostError."""

        def tell(event: Event) -> None:
            with self._telling:
                if event.phase == "samples":
                    self._done[shard] = event.done
                    event = event.model_copy(update={"done": sum(self._done.values()), "total": self._extraction.count})
                self._listener(event)

        cluster, retries = self._options.cluster, self._options.retries
        for attempt in range(retries + 1):
            try:
                answer = cluster.run(_extract, (self._extraction, shard), self._need, tell, _NO_LIMIT_S)
                files = dict(refused(answer).files)
                break
            except Ended as ended:
                if not ended.lost or attempt == retries or self._stopping.is_set():
                    raise HostError(f"shard {shard}: {ended.reason}") from ended
        note = {NOTE_NAME: files.pop(NOTE_NAME)}
        unpack(files, self._folder(shard))
        unpack(note, self._folder(shard))  # last: a shard with its note is finished

    def _folder(self, shard: Shard) -> Path:
        return self._work / Rank(shard.index - 1, shard.count, None).folder

    def _remove_shards(self) -> None:
        for folder in self._work.glob("shard-*-of-*"):
            shutil.rmtree(folder, ignore_errors=True)


def _extract(extraction: Extraction, shard: Shard, post: Post) -> Answer:
    """Run on a node: extract a shard in a scratch folder, and return its files."""
    node = platform.node()
    try:
        post(Event(phase=f"on {node}").model_dump_json())
        images, files = extraction.images, extraction.extractor_files
        source = open_images(images.path, resize=images.resize, class_folders=extraction.class_folders)
        source.provenance = extraction.provenance
        with scratch_folder() as folder:
            features = FeaturePass(device=extraction.device, extractor_files=files, work=folder / "work")

            def tell(event: Event) -> None:
                post(event.model_dump_json())

            work = extract_shard(source, extraction.request, shard, features=features, listener=tell)
            note_shard(work, source.count, shard, extraction.device)
            return Answer(node, "", pack(work, work.glob("[!.]*")))
    except (ArvbenchError, OSError) as error:
        return Answer(node, "", {}, f"node {node}: {error}")
