"""The error about a path that is no reference, in words about references."""

from __future__ import annotations

import zipfile
from pathlib import Path

from arvbench.errors import UserError
from arvbench.harness.quality.images.npy_members import array_keys, find_array, readable

READS = "a reference is statistics (an .npz with arrays mu and sigma) or images (a folder, .npz or .safetensors)"
SAVE = "save statistics with numpy.savez(PATH, mu=mean, sigma=covariance), or make them: `arvbench reference make`"
_KINDS = {
    ".npy": "a single array (.npy), perhaps a pickled dictionary, which is not opened: it could run code",
    **dict.fromkeys((".pkl", ".pickle"), "a pickle, which is not opened: it could run code"),
    **dict.fromkeys((".pt", ".pth", ".ckpt"), "a torch file"),
    ".mat": "a MATLAB file",
    **dict.fromkeys((".h5", ".hdf5"), "an HDF5 file"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "one picture: name its folder"),
    **dict.fromkeys((".tar", ".zip", ".gz", ".tgz"), "an archive: unpack it first"),
}
_SHOWN = 5


def check_kind(path: Path) -> None:
    """Raise UserError for a file whose ending is none of a reference, and an .npz without images and statistics."""
    ending = path.suffix.lower()
    if path.is_dir() or ending == ".safetensors":
        return
    if ending != ".npz":
        found = _KINDS.get(ending, f"a file ending in {ending}" if ending else "a file without an ending")
        raise UserError(f"{path} is not a reference that can be read: it is {found}; {READS}; {SAVE}")
    with readable(path), zipfile.ZipFile(path) as archive:
        keys = array_keys(archive)
        shapes = {key: find_array(path, archive, key) for key in keys[:_SHOWN]}
    images = shapes.get("arr_0")
    if "arr_0" in keys and (images is None or images.dtype.kind not in "fc" or len(images.shape) == 4):
        return
    listed = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in shapes.items()) or "no arrays"
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    floats = [array.shape for array in shapes.values() if array.dtype.kind == "f"]
    unnamed = any(len(a) == 1 and b == a * 2 for a in floats for b in floats)
    hint = "these look like a mean and a covariance under other names; " if unnamed else ""
    raise UserError(
        f"{path} is not a reference that can be read: it holds {listed}{more}, and neither mu and sigma nor images "
        f"(arr_0); {hint}{READS}; {SAVE}"
    )
