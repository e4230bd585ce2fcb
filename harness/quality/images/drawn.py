"""Images that the timed calls of a case drew: its quality part does not draw them again.

They lie in one file from the speed of a case to its quality. What is missing, damaged or of another key is drawn anew,
which gives equal bytes, so the file decides how long a run takes and never what it finds.

Shapes   B images of one batch, H W height and width
Range    uint8 0..255 NCHW
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from arvbench.disk import utf8_name
from arvbench.files import write_whole

_KEY, _SHA256 = "key", "sha256"
"""Metadata: digest of the key of the images; JSON of batch number -> digest."""


def keep_drawn(path: Path, key: str, batches: Mapping[int, Tensor]) -> None:
    """Write the images (B, 3, H, W) of whole batches; nothing where the disk has no room."""
    tensors = {str(number): images.contiguous() for number, images in batches.items()}
    digests = {name: _digest(images) for name, images in tensors.items()}
    metadata = {_KEY: _key_digest(key), _SHA256: json.dumps(digests, sort_keys=True)}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(tensors, metadata))


def kept_drawn(path: Path, key: str, shape: tuple[int, ...]) -> dict[int, Tensor]:
    """Return batch number -> images of `shape` (B, 3, H, W); empty for a file that cannot be used as a whole."""
    batches: dict[int, Tensor] = {}
    try:
        with utf8_name(path) as opened, safe_open(opened, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata[_KEY] != _key_digest(key):
                return {}
            for name, digest in json.loads(metadata[_SHA256]).items():
                images = stored.get_tensor(name)
                if images.dtype != uint8 or tuple(images.shape) != shape or _digest(images) != digest:
                    return {}
                batches[int(name)] = images
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return batches


def _key_digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()
