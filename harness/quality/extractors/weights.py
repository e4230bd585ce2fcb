"""Weights of the extractors: the published files, the places to look for them, and their digests.

They are not part of this package. The places, in this order: the path that the user gave, the environment variable, the
cache folder (`$ARVBENCH_CACHE/weights`, else `~/.cache/arvbench/weights`), the Hugging Face cache. With
ARVBENCH_DOWNLOAD=1 a missing file is fetched from the Hugging Face hub. Otherwise the error names the file, its
address, its sha256 and the place for it: never a silent download, never a silent skip.

The digests were not computed from the files: each is pinned by two independent public repositories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UnknownName, UserError
from arvbench.files import cache_folder
from arvbench.paths import user_path

DOWNLOAD_VARIABLE = "ARVBENCH_DOWNLOAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorWeights:
    """A published file of weights."""

    name: str
    file_name: str
    url: str
    sha256: str
    """The whole digest, its known leading digits, or "" when it is unknown."""
    variable: str
    """Environment variable that may name the file."""
    same_bytes: tuple[str, str] | None = None
    """Name and file name of an entry with identical bytes: the user's file for that entry serves here too."""
    hub: tuple[str, str] | None = None
    """Hugging Face repository and file with equal tensors in another container, thus with another digest."""
    option: str = ""
    """Option of the command line that names the file."""
    notes: str = ""

    @property
    def file_names(self) -> tuple[str, ...]:
        """Return the names under which these bytes were published."""
        return (self.file_name, *([self.same_bytes[1]] if self.same_bytes else []))

    def is_published(self, sha256: str) -> bool:
        """Return True for the digest of the published file."""
        return bool(self.sha256) and sha256.startswith(self.sha256)

    def note(self, path: Path, sha256: str) -> str:
        """Return the note that a record carries about the file in use; "" for the published one."""
        if self.is_published(sha256):
            return ""
        if self.hub is not None and path.name == self.hub[1]:
            return f"{self.name} weights in another container than {self.file_name} (sha256 {sha256[:12]}...)"
        if not self.sha256:
            return f"{self.name} weights could not be checked: digest unknown (sha256 {sha256[:12]}...)"
        return f"{self.name} weights are not the published ones (sha256 {sha256[:12]}...)"


_FIDELITY = "weights-inception-2015-12-05-6726825d.pth"
_PYTORCH_FID = "pt_inception-2015-12-05-6726825d.pth"
_INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_CLIP = "https://openaipublic.azureedge.net/clip/models"

WEIGHTS: Mapping[str, ExtractorWeights] = {
    entry.name: entry
    for entry in (
        ExtractorWeights(
            name="inception",
            file_name=_FIDELITY,
            url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_FIDELITY}",
            sha256=_INCEPTION_SHA256,
            variable="ARVBENCH_INCEPTION",
            same_bytes=("pytorch-fid-inception", _PYTORCH_FID),
            option="--inception-weights PATH",
            notes="Inception of 2015-12-05, Apache-2.0, converted from TensorFlow's classify_image_graph_def.pb "
            "(that file works too)",
        ),
        ExtractorWeights(
            name="pytorch-fid-inception",
            file_name=_PYTORCH_FID,
            url=f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{_PYTORCH_FID}",
            sha256=_INCEPTION_SHA256,
            variable="ARVBENCH_INCEPTION",
            same_bytes=("inception", _FIDELITY),
            option="--inception-weights PATH",
            notes="the same conversion, for clean-fid's legacy_pytorch",
        ),
        ExtractorWeights(
            name="inception-torchscript",
            file_name="inception-2015-12-05.pt",
            url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
            sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
            variable="ARVBENCH_INCEPTION_TORCHSCRIPT",
            notes="NVIDIA's translation of the same network into TorchScript, for clean-fid",
        ),
        ExtractorWeights(
            name="clip-vit-b-32",
            file_name="ViT-B-32.pt",
            url=f"{_CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
            sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
            variable="ARVBENCH_CLIP_VIT_B_32",
            hub=("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"),
            notes="OpenAI CLIP, MIT",
        ),
        ExtractorWeights(
            name="clip-vit-l-14-336",
            file_name="ViT-L-14-336px.pt",
            url=f"{_CLIP}/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
            sha256="3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
            variable="ARVBENCH_CLIP_VIT_L_14_336",
            hub=("timm/vit_large_patch14_clip_336.openai", "open_clip_model.safetensors"),
            notes="OpenAI CLIP, MIT",
        ),
        ExtractorWeights(
            name="dinov2-vit-l-14",
            file_name="dinov2_vitl14_pretrain.pth",
            url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
            variable="ARVBENCH_DINOV2_VIT_L_14",
            hub=("timm/vit_large_patch14_dinov2.lvd142m", "model.safetensors"),
            notes="DINOv2, Apache-2.0",
        ),
        ExtractorWeights(
            name="lpips-alex",
            file_name="alexnet-owt-7be5be79.pth",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            variable="ARVBENCH_LPIPS_ALEX",
            option="--extractor-weights lpips-alex=PATH",
            notes="AlexNet of torchvision, for the LPIPS of lossy cases",
        ),
    )
}


def find_weights(name: str, extractor_files: Mapping[str, Path]) -> Path:
    """Return the file of WEIGHTS[name]; `extractor_files` holds the user's paths by entry.

    Raises UnknownName; UserError when no file is found or the user's path does not exist; CheckpointError when a
    requested download fails.
    """
    if name not in WEIGHTS:
        raise UnknownName("extractor weights", name, WEIGHTS)
    weights = WEIGHTS[name]
    for path, origin in _named(weights, extractor_files):
        if not path.is_file():
            raise UserError(f"no {name} weights at {path} ({origin}); {_instructions(weights)}")
        return path
    cached = _in_cache(weights) or _on_hub(weights)
    if cached is None:
        raise UserError(f"the {name} weights are not here; {_instructions(weights)}")
    return cached


def checked_digest(path: Path, weights: ExtractorWeights) -> str:
    """Return the sha256 of the file, 64 hex digits.

    Raises CheckpointError for a file with the published name and another digest: it is damaged. Under another file name
    any digest is accepted, and noted in the record (`ExtractorWeights.note`).
    """
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if path.name in weights.file_names and weights.sha256 and not weights.is_published(digest):
        raise CheckpointError(
            f"{path} is damaged: its sha256 is {digest}, that of {path.name} {weights.sha256}; fetch it again from "
            f"{weights.url}"
        )
    return digest


def _named(weights: ExtractorWeights, extractor_files: Mapping[str, Path]) -> Iterator[tuple[Path, str]]:
    """Yield the user's paths, each with its origin, in order of precedence."""
    for name in (weights.name, *([weights.same_bytes[0]] if weights.same_bytes else [])):
        if name in extractor_files:
            yield user_path(extractor_files[name]), weights.option or "the path given"
    if value := os.environ.get(weights.variable):
        yield user_path(value), f"${weights.variable}"


def _in_cache(weights: ExtractorWeights) -> Path | None:
    paths = (cache_folder("weights") / name for name in weights.file_names)
    return next((path for path in paths if path.is_file()), None)


def _on_hub(weights: ExtractorWeights) -> Path | None:
    """Return the file in the Hugging Face cache, fetched if ARVBENCH_DOWNLOAD=1; None when it is not there."""
    if weights.hub is None:
        return None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, file_name = weights.hub
    cached = try_to_load_from_cache(repository, file_name)
    if isinstance(cached, str):
        return Path(cached)
    if os.environ.get(DOWNLOAD_VARIABLE) != "1":
        return None
    try:
        return Path(hf_hub_download(repository, file_name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"could not get {file_name} of {repository} from the Hugging Face hub ({type(error).__name__}); "
            f"{_instructions(weights)}"
        ) from error


def _instructions(weights: ExtractorWeights) -> str:
    cache = cache_folder("weights")
    digest = weights.sha256 if len(weights.sha256) == 64 else f"{weights.sha256}..." if weights.sha256 else "unknown"
    option = f", or pass {weights.option}" if weights.option else ""
    hub = f" (or set {DOWNLOAD_VARIABLE}=1 to fetch them from huggingface.co/{weights.hub[0]})" if weights.hub else ""
    return (
        f"fetch {weights.file_name} from {weights.url} (sha256 {digest}) and put it into {cache}, or set "
        f"{weights.variable}=PATH{option}{hub}"
    )
