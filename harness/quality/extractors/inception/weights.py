"""The Inception of 2015-12-05: its weights as tensors, from any published file.

No file runs code: pickles are read as tensors only, and TensorFlow's graph by a parser of its constants.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from arvbench.adapters.checkpoints import read_tensors
from arvbench.harness.quality.extractors.extractor import ExtractorFiles
from arvbench.harness.quality.extractors.inception import tf_graph
from arvbench.harness.quality.extractors.inception.network import checked_tensors
from arvbench.harness.quality.extractors.weights import WEIGHTS, checked_digest, find_weights

PREPROCESSING = (
    "TensorFlow 1 bilinear resize to 299 x 299 without antialiasing (src = dst * in / out), not rounded; "
    "(x - 128) * 0.0078125; fp32"
)


@dataclass(frozen=True, slots=True)
class InceptionWeights:
    """Weights read from one file."""

    tensors: dict[str, Tensor]
    """State dict with the names of torch-fidelity and pytorch-fid."""
    sha256: str
    """Digest of the file."""
    note: str
    """Note that a record carries about the file; "" for the published one."""


def load_inception_weights(extractor_files: ExtractorFiles, name: str = "inception") -> InceptionWeights:
    """Read the file of WEIGHTS[name]: a .pth, a .safetensors or TensorFlow's classify_image_graph_def.pb.

    Raises UserError without a file, CheckpointError for one that is damaged, unsafe or of another network.
    """
    weights = WEIGHTS[name]
    path = find_weights(name, extractor_files)
    digest = checked_digest(path, weights)
    if path.suffix.lower() == ".pb":
        tensors = tf_graph.read_graph(path)
        note = f"inception weights converted from {path.name} (sha256 {digest[:12]}..., that of the published unknown)"
    else:
        tensors, note = read_tensors(path), weights.note(path, digest)
    return InceptionWeights(checked_tensors(tensors, source=f"{path} ({name} weights)"), digest, note)
