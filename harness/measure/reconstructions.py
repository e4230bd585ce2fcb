"""Reconstructions of a data set by a tokenizer, as a source of images: encoded and decoded batch by batch.

Cases whose tokenizers are equal share them: the key has all that decides the images, the first batch's bytes included.
That batch is reconstructed by every case, so that two samplers that use one tokenizer differently have two keys.

Shapes   N images, H W height and width
Range    uint8 0..255 NCHW
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from arvbench.adapters.pixels import from_uint8, to_uint8
from arvbench.adapters.sampler import Sampler
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.images.source import ImageSource, Provenance
from arvbench.harness.quality.images.stored import check_range

_METHODS = ("tokens_of", "state_of", "decode_state")
"""Methods of a sampler that lead from pixels to tokens and back."""


class Reconstructions(ImageSource):
    """The images of `images_N3HW` after the tokenizer of `sampler`, with its official settings.

    Batches begin at multiples of `batch`, whichever range is read. They are computed with the threads that torch has
    now, so that the bytes do not depend on where they are read.
    """

    name = "tokenizer reconstructions"

    def __init__(self, sampler: Sampler, images_N3HW: Tensor, *, batch: int, uint8_rule: str) -> None:
        self._sampler, self._images_N3HW = sampler, images_N3HW
        self._batch, self._rule, self._threads = batch, uint8_rule, torch.get_num_threads()
        self._latest: tuple[int, Tensor] | None = None
        """Number and images of the latest batch: one that straddles two chunks is made once."""
        self.count, self.shape = len(images_N3HW), (images_N3HW.shape[2], images_N3HW.shape[3])
        self.provenance = Provenance(labels="data set", uint8_rule=uint8_rule, sampling="tokenizer reconstruction")

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        if start == stop:
            return self._images_N3HW[:0]
        parts = []
        for number in range(start // self._batch, -(-stop // self._batch)):
            first = number * self._batch
            parts.append(self._restored(number)[max(start - first, 0) : stop - first])
        # cat keeps the decoder's order of bytes in memory, on which the last bits of features depend.
        return torch.cat(parts)

    @property
    def key(self) -> str:
        sampler, tokenizer = self._sampler, self._sampler.modules()["tokenizer"]
        methods = [getattr(type(sampler), name) for name in _METHODS]
        return "\n".join(
            (
                f"{self.name} of {images_sha256(self._images_N3HW)}",
                f"tokenizer {type(tokenizer).__module__}.{type(tokenizer).__qualname__} {_weights_sha256(tokenizer)}",
                f"by {' '.join(f'{method.__module__}.{method.__qualname__}' for method in methods)}",
                f"{sampler.dtype} on {sampler.device.type}, {sampler.backend} backend, batch {self._batch}",
                f"threads {self._threads} matmul {torch.get_float32_matmul_precision()} bytes {self._rule}",
                f"first batch {images_sha256(self._restored(0))}",
            )
        )

    def _restored(self, number: int) -> Tensor:
        """Return all images of a batch, made unless it is the latest one."""
        if self._latest is None or self._latest[0] != number:
            sampler = self._sampler
            images = self._images_N3HW[number * self._batch : (number + 1) * self._batch].to(sampler.device)
            with _threads(self._threads):
                restored = to_uint8(sampler.decode(sampler.encode(from_uint8(images))), self._rule)
            self._latest = (number, restored.cpu())
        return self._latest[1]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _weights_sha256(module: nn.Module) -> str:
    """Return the digest of a module's parameters and buffers, names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        plain = (tensor.to_dense() if tensor.is_mkldnn else tensor).detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
