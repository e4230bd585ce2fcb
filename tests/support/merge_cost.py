"""Cost of proving and merging shards: `python tests/support/merge_cost.py [--chunks 8,16,32]`.

Chunks have the layers that adm-v1 reads of 256 images. Times are CPU seconds, of all sizes in turns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import torch
from record_growth import cpu_s
from safetensors.torch import save

from arvbench.harness.jobs import Shard
from arvbench.harness.quality.features.chunks import CHUNK, TASK_NAME, chunk_path
from arvbench.harness.quality.features.shards import check_shards, merge_shards, note_shard

LAYERS = {"pool": 2048, "spatial": 2023, "logits": 1008}
ROUNDS = 3


def shards(folder: Path, chunks: int, count: int = 4) -> list[Path]:
    """Make shards of an evaluation of whole chunks."""
    made = []
    for index in range(1, count + 1):
        shard = Shard(index, count)
        made.append(work := folder / f"{chunks}-{index}")
        work.mkdir()
        (work / TASK_NAME).write_text("made up")
        for chunk in shard.range_of(chunks):
            tensors = {f"adm-inception/{name}": torch.rand(CHUNK, dims) for name, dims in LAYERS.items()}
            tensors |= {"digests": torch.zeros(CHUNK, 32, dtype=torch.uint8), "histogram": torch.zeros(256).long()}
            digests = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
            chunk_path(work, chunk).write_bytes(save(tensors, {"sha256": json.dumps(digests)}))
        note_shard(work, chunks * CHUNK, shard, "cpu")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", default="8,16,32")
    sizes = [int(size) for size in parser.parse_args().chunks.split(",")]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        made = {size: shards(Path(name), size) for size in sizes}
        chunk = next(made[sizes[0]][0].glob("chunk-*"))
        print(f"a chunk is {chunk.stat().st_size:,} bytes")
        checks: dict[int, list[float]] = {size: [] for size in sizes}
        merges: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(ROUNDS):
            for size in sizes:
                checks[size].append(cpu_s(lambda folders=made[size]: check_shards(folders)))
                coverage = check_shards(made[size])
                assert coverage.whole
                out = Path(name) / "whole"
                merges[size].append(cpu_s(lambda f=made[size], c=coverage, o=out: merge_shards(f, c, o)))
                shutil.rmtree(out)
        for size in sizes:
            print(f"{size} chunks: check {median(checks[size]):.3f} s, merge {median(merges[size]):.3f} s")


if __name__ == "__main__":
    main()
