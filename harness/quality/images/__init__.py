"""Where images come from and go to: files of samples, folders, the live sampler.

base.py  `ImageSource`, what all of them are
"""
