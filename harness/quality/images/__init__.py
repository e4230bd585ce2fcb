"""Sources and writers of images: files of samples, folders, the live sampler.

source.py  `ImageSource`, the seam of all sources
open.py    table of sample formats
"""
