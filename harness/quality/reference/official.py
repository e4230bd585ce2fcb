"""The table of published reference files, and the recognition of local copies.

Source   openai/guided-diffusion, evaluations/README.md: "pre-computed statistics over the whole dataset, as well as
         10,000 images for computing Precision and Recall"; the 512-px file has 1,000 (its issues 19 and 66).
         LTH14/mar, issue 8: adm_in256_stats.npz is mu and sigma of the 256-px file.
Digests  The makers publish none. Several public repositories pin the digest of the 256-px file, among them a Git LFS
         pointer with its size. An empty digest is unknown: no trustworthy source was found.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arvbench.errors import UserError
from arvbench.harness.quality.reference.reference_set import Use
from arvbench.paths import user_path

_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches"
STATED_IMAGES = 10_000
"""Images in a reference file of the ADM evaluator, as its README states."""
IMAGENET_CLASSES = 1000
REFERENCES_VARIABLE = "ARVBENCH_REFERENCES"
"""Environment variable: the folder that holds the published reference files under their published names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedReference:
    """A published file of statistics or images."""

    name: str
    file_name: str
    url: str
    images: int
    """Images in it (`arr_0`); 0 for statistics alone."""
    image_px: int
    use: Use
    classes: int | None = None
    """Classes of the data set; None when it has none."""
    sha256: str = ""
    """Digest of the file; empty when it is unknown."""
    note: str = ""
    """Remark for a reader of numbers against it."""


PUBLISHED: Mapping[str, PublishedReference] = {
    reference.name: reference
    for reference in (
        PublishedReference(
            name="adm-imagenet64",
            file_name="VIRTUAL_imagenet64_labeled.npz",
            url=f"{_ADM}/imagenet/64/VIRTUAL_imagenet64_labeled.npz",
            images=STATED_IMAGES,
            image_px=64,
            use="gFID",
            classes=IMAGENET_CLASSES,
        ),
        PublishedReference(
            name="adm-imagenet128",
            file_name="VIRTUAL_imagenet128_labeled.npz",
            url=f"{_ADM}/imagenet/128/VIRTUAL_imagenet128_labeled.npz",
            images=STATED_IMAGES,
            image_px=128,
            use="gFID",
            classes=IMAGENET_CLASSES,
        ),
        PublishedReference(
            name="adm-imagenet256",
            file_name="VIRTUAL_imagenet256_labeled.npz",
            url=f"{_ADM}/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
            images=STATED_IMAGES,
            image_px=256,
            use="gFID",
            classes=IMAGENET_CLASSES,
            sha256="b32732719497e42660a9affb4a966068cba0855ac449b82015e34ec376d20758",
        ),
        PublishedReference(
            name="adm-imagenet512",
            file_name="VIRTUAL_imagenet512.npz",
            url=f"{_ADM}/imagenet/512/VIRTUAL_imagenet512.npz",
            images=1_000,
            image_px=512,
            use="gFID",
            classes=IMAGENET_CLASSES,
            note="it holds 1,000 images where the 256-px file has 10,000: its precision and recall compare with "
            "nothing measured against 10,000",
        ),
        *(
            PublishedReference(
                name=f"adm-lsun-{scene}256",
                file_name=f"VIRTUAL_lsun_{scene}256.npz",
                url=f"{_ADM}/lsun/{scene}/VIRTUAL_lsun_{scene}256.npz",
                images=STATED_IMAGES,
                image_px=256,
                use="gFID",
            )
            for scene in ("bedroom", "cat", "horse")
        ),
        PublishedReference(
            name="adm-imagenet256-statistics",
            file_name="adm_in256_stats.npz",
            url="https://github.com/LTH14/mar/blob/main/fid_stats/adm_in256_stats.npz",
            images=0,
            image_px=256,
            use="gFID",
            classes=IMAGENET_CLASSES,
            note="it holds mu and sigma of the 256-px file and no images: FID alone",
        ),
    )
}


def recognise(
    path: Path, sha256: str, images: int, image_shape: tuple[int, int] | None
) -> tuple[PublishedReference | None, tuple[str, ...]]:
    """Return the table's entry for a file, and notes.

    A file is recognised by its digest or, when the published digest is unknown, by its name with the number and size of
    its images. Another file under a published name gets a note and no entry.
    """
    for published in PUBLISHED.values():
        if published.sha256 and published.sha256 == sha256:
            return published, _notes(published)
    named = next((p for p in PUBLISHED.values() if p.file_name == path.name), None)
    if named is None:
        return None, ()
    if named.sha256:
        return None, (
            f"{path.name} is named like the published reference and is another file: its sha256 is {sha256[:12]}..., "
            f"that of the published one {named.sha256[:12]}... ({named.url})",
        )
    if images != named.images or image_shape not in (None, (named.image_px, named.image_px)):
        held = f"{images:,} images" + (f" of {image_shape[1]} x {image_shape[0]}" if image_shape else "")
        expected = f"{named.images:,} of {named.image_px} x {named.image_px}"
        return None, (f"{path.name} is named like the published reference and holds {held}, not {expected}",)
    unknown = (
        f"{path.name} is taken for the published file by its name and its images; the digest of that is unknown, this "
        f"one has sha256 {sha256[:12]}..."
    )
    return named, (unknown, *_notes(named))


def _notes(published: PublishedReference) -> tuple[str, ...]:
    return (published.note,) if published.note else ()


def find_reference(reference: str) -> str:
    """Return the path of a published reference file; any other reference is returned unchanged.

    The file is searched at its name as a path, then in the folder of ARVBENCH_REFERENCES. Raises UserError, with the
    place to fetch it from, when it is in neither.
    """
    published = next((entry for entry in PUBLISHED.values() if entry.file_name == reference), None)
    if published is None or Path(reference).is_file():
        return reference
    folder = os.environ.get(REFERENCES_VARIABLE)
    candidate = user_path(user_path(folder) / reference) if folder else None
    if candidate is not None and candidate.is_file():
        return str(candidate)
    where = f"not in {folder} ({REFERENCES_VARIABLE})" if folder else "not here"
    digest = f" (sha256 {published.sha256})" if published.sha256 else ""
    raise UserError(
        f"the reference {reference} is {where}; fetch it from {published.url}{digest} and set {REFERENCES_VARIABLE} to "
        "its folder, or give its path"
    )
