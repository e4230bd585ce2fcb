"""The extractor `inception`: torch-fidelity's InceptionV3 of 2015-12-05, given its published weights as a local file.

Nothing is downloaded. torch-fidelity opens weights as a full pickle, which can run code: here the file is read as
tensors only, and torch-fidelity gets a copy that this process wrote itself.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from torch_fidelity.utils import create_feature_extractor

from arvbench.adapters.checkpoints import read_tensors, sha256_of
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.quality.extractors import Extractor

NAME = "inception"
FIDELITY_NAME = "inception-v3-compat"
FEATURES, LOGITS = "2048", "logits_unbiased"

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
FILE_SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"
SHA256_PREFIX = "6726825d"
"""First digits of the published file's sha256, which by torch.hub's convention end its name."""
VARIABLE = "ARVBENCH_INCEPTION"


def load(weights: Path | None, device: torch.device) -> Extractor:
    """Return the extractor with weights from `weights`, else from the file that ARVBENCH_INCEPTION names.

    Raises UserError without a file, CheckpointError for one that is damaged, unsafe or of another network.
    """
    path = find_weights(weights)
    tensors = read_tensors(path)
    digest = sha256_of(path)
    published = digest.startswith(SHA256_PREFIX)
    if path.name == FILE_NAME and not published:
        raise CheckpointError(
            f"{path} has sha256 {digest[:8]}..., its name promises {SHA256_PREFIX}...: the file is damaged; fetch it "
            f"again from {FILE_SOURCE}"
        )
    own_copy = io.BytesIO()
    torch.save(tensors, own_copy)
    own_copy.seek(0)
    try:
        network = create_feature_extractor(
            FIDELITY_NAME, [FEATURES, LOGITS], cuda=False, verbose=False, feature_extractor_weights_path=own_copy
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is not {FILE_NAME}: {reason[:300]}") from error
    return Extractor(
        name=NAME,
        network=network.to(device),
        device=device,
        feature_layer=FEATURES,
        logits_layer=LOGITS,
        dims=int(FEATURES),
        image_px=None,
        classes=None,
        sha256=digest,
        preprocessing="TensorFlow 1 bilinear resize to 299 x 299 without antialiasing; (x - 128) / 128",
        note="" if published else f"inception weights are not the published ones (sha256 {digest[:8]}...)",
    )


def find_weights(weights: Path | None) -> Path:
    """Return the weights file: the argument wins over the environment variable. Raises UserError without one."""
    named = weights or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None:
        raise UserError(
            f"extractor 'inception' needs its weights: fetch {FILE_NAME} from {FILE_SOURCE} and pass "
            f"--inception-weights PATH or set {VARIABLE}=PATH"
        )
    path = named.expanduser()
    if not path.is_file():
        raise UserError(
            f"no Inception weights at {path}: fetch {FILE_NAME} from {FILE_SOURCE} and pass its path with "
            f"--inception-weights or {VARIABLE}"
        )
    return path
