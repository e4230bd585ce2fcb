"""Wall time of features in one and in two processes, in turn: `python tests/support/two_chunks.py`.

512 random images of 64 pixels, two chunks, through Inception with random weights: about four minutes on two idle
cores; the options make it smaller. The line of each pass has wall seconds, and CPU seconds of this process and of its
helpers; the last line has the ratio of the walls, and whether all features are equal bit by bit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from random_inception import write_random_inception

from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.images.open import open_images

ROUNDS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Make images and weights in a temporary folder, and print one line per pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--extractor", default="adm-inception")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        images, weights = Path(name) / "images.npz", Path(name) / "random.pth"
        shape = (options.images, options.px, options.px, 3)
        np.savez(images, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        write_random_inception(weights)
        compare(images, options.extractor, weights)


def compare(images: Path, name: str, weights: Path) -> None:
    """Scan the images by one process and by two, in turn, and print what it took."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    found: list[torch.Tensor] = []
    for _ in range(ROUNDS):
        for workers in walls:
            features = FeaturePass(workers=workers, extractor_files={"inception": weights})
            extractor = features.extractor(name)
            layer = next(iter(extractor.layers))
            begin, before = time.perf_counter(), os.times()
            scan = features.scan(open_images(images), [(extractor, frozenset({layer}))])
            wall_s, after = time.perf_counter() - begin, os.times()
            walls[workers].append(wall_s)
            found.append(torch.as_tensor(scan.features[name].features(layer)))
            own_s = after.user + after.system - before.user - before.system
            helpers_s = after.children_user + after.children_system - before.children_user - before.children_system
            print(f"{workers} of processes: {wall_s:.1f} s, CPU {own_s:.1f} s and {helpers_s:.1f} s", flush=True)
    equal = all(torch.equal(found[0], other) for other in found[1:])
    print(f"two are {median(walls[1]) / median(walls[2]):.2f} times as fast; equal features: {equal}")


if __name__ == "__main__":
    main()
