"""Sources and writers of images: files of samples, folders, the live sampler.

source.py        `ImageSource`, the seam of all sources
open.py          table of sample formats
folder.py, npz.py, tensors.py, live.py
                 sources: pictures in a folder, .npz, .safetensors and tensors in memory, a model
resize.py        named resize rules, and a source that applies one
write.py         writers of .npz, .safetensors and folders
stored.py        checks and provenance that all files share
npy_members.py   reader of the arrays of an untrusted .npz
"""
